"""Landlock: a file, network and signal fence a process puts up around itself and cannot take down.

A domain belongs to one lineage of sessions (a fresh session and everything forked from it, for a domain can
only ever shrink). It is a second fence behind the mount namespace: were a bind mount too wide, writing would
still be refused outside the session area, as would TCP and, on newer kernels, signals to other lineages.
https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os

from . import sysapi

_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # ABI version -> number of file rights it knows
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK, _REFER, _TRUNCATE = 1 << 6, 1 << 9, 1 << 11, 1 << 13, 1 << 14


def abi() -> int:
    """The Landlock version of this kernel; 0 where there is none."""
    if not sysapi.SUPPORTED:
        return 0
    try:
        return sysapi.syscall("landlock_create_ruleset", ctypes.c_void_p(0), 0, 1)
    except OSError:
        return 0


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


def restrict(readable: list[str], writable: list[str], devices: list[str]) -> int:
    """Read and run what is below ``readable``, write only below ``writable`` and to ``devices``.

    No device nodes or path sockets can be made, no TCP (ABI 4), no signal to and no abstract socket of a
    process outside the domain (ABI 6). Needs no_new_privs. Returns the ABI; 0 means not available.
    """
    version = abi()
    if version < 1:
        return 0
    handled = (1 << _FS_BITS.get(min(version, 5), 13)) - 1
    attr = (ctypes.c_uint64 * 3)(handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = sysapi.syscall("landlock_create_ruleset", ctypes.byref(attr), size, 0)
    read = _EXECUTE | _READ_FILE | _READ_DIR
    never = _MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCK
    rules = [(path, read if os.path.isdir(path) else read & ~_READ_DIR) for path in readable]
    rules += [(path, handled & ~never) for path in writable]
    rules += [(path, handled & (_READ_FILE | _WRITE_FILE | _TRUNCATE)) for path in devices]
    try:
        for path, allowed in rules:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = _PathRule(allowed & handled, fd)
            sysapi.syscall("landlock_add_rule", ruleset, 1, ctypes.byref(rule), 0)
            os.close(fd)
        sysapi.syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return version
