"""Gives a forked interpreter its own memory maps: fork shares those of files and shared memory, a clone must not.

As with descriptors (see ``clonefd``) the parent takes stock before the fork. In the clone a map of a file below the
session's home becomes one of the clone's own file, at the same address; shared memory without a file becomes a copy.
A private map shows the file where the process has not written to it, so there it must go on showing the clone's own
file, and keep what was written everywhere else.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from dataclasses import dataclass

from .clonefd import Held

_READ, _WRITE, _EXECUTE = 1, 2, 4
_SHARED, _PRIVATE, _ANONYMOUS = 0x01, 0x02, 0x20
_MOVE_THERE = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
_PAGE = os.sysconf("SC_PAGESIZE")


@dataclass
class Map:
    """One line of the parent's map table. ``named``: ``path`` led to its file; else that was unlinked or never was."""

    low: int
    size: int
    protection: int
    shared: bool
    at: int
    inode: int
    path: str
    named: bool


def inventory(home: str) -> list[Map]:
    """Maps of files below ``home``, and shared memory."""
    # Reading the table costs as much as the fork. Without that module nothing of the session's is mapped but libraries,
    # and who writes into a library that is running breaks the parent too.
    if "mmap" not in sys.modules:
        return []
    below = re.escape(os.fsencode(home)) + rb"/.*"
    line = rb"^([0-9a-f]+)-([0-9a-f]+) (..)(.)(?:(s)|p) ([0-9a-f]+) \S+ (\d+) *((?(5).*|%b))$" % below
    found = []
    with open("/proc/self/maps", "rb") as f:
        lines = re.findall(line, f.read(), re.MULTILINE)
    for start, end, rw, x, shared, at, number, name in lines:
        path, inode = os.fsdecode(name.replace(rb"\012", b"\n")), int(number)
        try:
            named = os.stat(path).st_ino == inode
        except OSError:
            named = False
        if named and not path.startswith(home + "/"):
            continue  # no file of the session's: it has no copy
        protection = _READ * (rw[:1] == b"r") | _WRITE * (rw[1:] == b"w") | _EXECUTE * (x == b"x")
        low = int(start, 16)
        found.append(Map(low, int(end, 16) - low, protection, bool(shared), int(at, 16), inode, path, named))
    return found


def detach(maps: list[Map], held: list[Held]) -> None:
    """Replace every map in ``maps``. ``held``: this process's descriptors, its own by now.

    Raises:
        OSError: one could not be replaced.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    word, number = ctypes.c_size_t, ctypes.c_int
    libc.mmap.restype = libc.mremap.restype = word
    libc.mmap.argtypes = [word, word, number, number, number, ctypes.c_long]
    libc.mremap.argtypes = [word, word, word, number, word]
    libc.mprotect.argtypes = [word, word, number]
    libc.memcmp.argtypes = [word, word, word]
    for m in maps:
        fd = _file_of(m, held)
        try:
            _renew(libc, m, fd)
        finally:
            if fd >= 0:
                os.close(fd)


def _file_of(m: Map, held: list[Held]) -> int:
    """The clone's own file for ``m``; -1 where there is none, and a copy of the memory is what is left."""
    if m.named:
        try:
            return os.open(m.path, (os.O_RDWR if m.shared and m.protection & _WRITE else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError:  # the mode was changed since it was mapped
            return -1
    return next((os.dup(h.fd) for h in held if h.kind == "deleted" and h.inode[1] == m.inode), -1)


def _renew(libc: ctypes.CDLL, m: Map, fd: int) -> None:
    """Make the new map elsewhere and move it over the old one: there may be code in it that is running now."""
    kind = _SHARED if m.shared else _PRIVATE
    if fd >= 0 and m.shared:
        new = libc.mmap(0, m.size, m.protection, kind, fd, m.at)
    elif fd >= 0:
        new = libc.mmap(0, m.size, _READ | _WRITE, kind, fd, m.at)
    else:
        new = libc.mmap(0, m.size, _READ | _WRITE, kind | _ANONYMOUS, -1, 0)
    _check(new, "mmap")
    if m.protection & _READ and fd < 0:
        ctypes.memmove(new, m.low, m.size)
    elif m.protection & _READ and not m.shared:
        inside = -(-os.fstat(fd).st_size // _PAGE) * _PAGE - m.at  # past its file a map holds nothing
        _keep_written(libc, new, m.low, max(0, min(m.size, inside)))
    if libc.mprotect(new, m.size, m.protection):
        _check(-1, "mprotect")
    _check(libc.mremap(new, m.size, m.size, _MOVE_THERE, m.low), "mremap")


def _keep_written(libc: ctypes.CDLL, new: int, old: int, size: int) -> None:
    """Copy the pages that differ from the file: those the process wrote (the kernel shows nobody else which)."""
    if libc.memcmp(new, old, size):
        for at in range(0, size, _PAGE):
            if libc.memcmp(new + at, old + at, _PAGE):
                ctypes.memmove(new + at, old + at, _PAGE)


def _check(value: int, what: str) -> None:
    if value in (-1, ctypes.c_size_t(-1).value):
        raise OSError(ctypes.get_errno(), f"a memory map could not be made the clone's own: {what}")
