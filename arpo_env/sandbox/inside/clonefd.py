"""Gives a forked interpreter its own open files: fork shares offsets, pipes and shared memory, a clone must not.

The parent takes stock *before* the fork (:func:`inventory`) and stands still until the child has finished
(:func:`detach`), so what the child reads is what the parent had. Regular files are opened again under the same
path (which by then is the child's own copy) at the same offset; unlinked files are copied; pipes with both ends
in the process get a fresh pipe with the same bytes waiting; shared memory maps are replaced by private copies
at the same address. What has its other end in another process (a child's pipe, a socket) cannot be cloned:
the clone sees it closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import socket
import stat
import sys
import termios
from dataclasses import dataclass

_TEE = 0x02  # SPLICE_F_NONBLOCK


@dataclass
class Held:
    """One descriptor as the parent had it."""

    fd: int
    kind: str
    path: str
    flags: int
    offset: int
    inode: tuple[int, int]
    same_as: int  # the lowest descriptor of the same open file, or itself


def inventory(keep: set[int]) -> list[Held]:
    """Every descriptor above 2 that is not in ``keep``."""
    found: list[Held] = []
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd <= 2 or fd in keep:
            continue
        try:
            info = os.fstat(fd)
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the listing's own descriptor
        if stat.S_ISREG(info.st_mode):
            kind = "deleted" if info.st_nlink == 0 else "file"
        elif stat.S_ISDIR(info.st_mode):
            kind = "file"
        elif stat.S_ISFIFO(info.st_mode):
            kind = "pipe" if path.startswith("pipe:") else "file"
        elif stat.S_ISSOCK(info.st_mode):
            kind = "socket"
        elif stat.S_ISCHR(info.st_mode):
            continue  # /dev/null and its like have no state
        else:
            continue
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        offset = -1
        if stat.S_ISREG(info.st_mode) and not flags & os.O_PATH:
            offset = os.lseek(fd, 0, os.SEEK_CUR)
        held = Held(fd, kind, path, flags, offset, (info.st_dev, info.st_ino), fd)
        for other in found:
            if other.inode == held.inode and other.flags == flags and other.offset == offset and offset >= 0:
                # Same open file, or opened twice? Moving one offset tells.
                os.lseek(fd, offset + 1, os.SEEK_SET)
                if os.lseek(other.fd, 0, os.SEEK_CUR) == offset + 1:
                    held.same_as = other.same_as
                os.lseek(fd, offset, os.SEEK_SET)
                break
        found.append(held)
    return found


def save_deleted(held: list[Held]) -> dict[int, bytes]:
    """The bytes of unlinked files, read while the process is still their owner."""
    saved: dict[int, bytes] = {}
    for h in held:
        if h.kind == "deleted" and h.same_as == h.fd:
            fd = os.open(f"/proc/self/fd/{h.fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                saved[h.fd] = b"".join(iter(lambda: os.read(fd, 2**20), b""))  # noqa: B023
            finally:
                os.close(fd)
    return saved


def detach(held: list[Held], saved: dict[int, bytes]) -> None:
    """Replace every descriptor in ``held`` by one of this process's own, and shared maps by copies."""
    if held:
        _own_descriptors(held, saved)
    if "mmap" in sys.modules:  # reading the map table costs as much as the fork; without that module it holds none
        _own_maps()


def _own_descriptors(held: list[Held], saved: dict[int, bytes]) -> None:
    pipes: dict[tuple[int, int], list[Held]] = {}
    for h in held:
        if h.kind == "pipe":
            pipes.setdefault(h.inode, []).append(h)
        elif h.kind == "socket":
            ours, theirs = socket.socketpair()
            theirs.close()
            _replace(h.fd, ours.detach())
        elif h.same_as != h.fd:
            inheritable = os.get_inheritable(h.fd)
            os.dup2(h.same_as, h.fd, inheritable)
        else:
            flags = h.flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC) | os.O_CLOEXEC
            try:
                if h.kind == "deleted":
                    # through a name of its own, so that the file can be both read-only and filled
                    new = os.open(os.environ["TMPDIR"], os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
                    view = memoryview(saved.get(h.fd, b""))
                    while view:
                        view = view[os.write(new, view) :]
                    if flags & os.O_APPEND:
                        fcntl.fcntl(new, fcntl.F_SETFL, os.O_APPEND)
                else:
                    new = os.open(h.path, flags)
            except OSError:
                new = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            if h.offset >= 0:
                os.lseek(new, h.offset, os.SEEK_SET)
            _replace(h.fd, new)
    for ends in pipes.values():
        _own_pipe(ends)


def _replace(fd: int, new: int) -> None:
    inheritable = os.get_inheritable(fd)
    os.dup2(new, fd, inheritable)
    os.close(new)


def _own_pipe(ends: list[Held]) -> None:
    readers = [h for h in ends if h.flags & os.O_ACCMODE == os.O_RDONLY]
    writers = [h for h in ends if h.flags & os.O_ACCMODE == os.O_WRONLY]
    r, w = os.pipe2(os.O_CLOEXEC)
    if readers and writers:
        with contextlib.suppress(PermissionError):  # this user's pipes have had their share: what waits may fit yet
            fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, fcntl.fcntl(readers[0].fd, fcntl.F_GETPIPE_SZ))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.tee(readers[0].fd, w, ctypes.c_size_t(2**20), ctypes.c_uint(_TEE))  # copies without consuming
        if _waiting(r) != _waiting(readers[0].fd):
            raise OSError(errno.ENOBUFS, "what waits in a pipe does not fit into its copy")
    for group, end in ((readers, r), (writers, w)):
        for h in group:
            os.dup2(end, h.fd, os.get_inheritable(h.fd))
            fcntl.fcntl(h.fd, fcntl.F_SETFL, h.flags)
        os.close(end)


def _waiting(pipe: int) -> int:
    """Bytes to be read from ``pipe``."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


_SHARED = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) rw.s ([0-9a-f]+) \S+ \d+ *(.*)$", re.MULTILINE)
_READ_WRITE, _SHARE, _FIXED, _ANONYMOUS = 3, 0x01, 0x10, 0x20


def _own_maps() -> None:
    """Shared writable maps: copy, then map again at the same address."""
    with open("/proc/self/maps", "rb") as f:
        shared = _SHARED.findall(f.read())
    if not shared:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *([ctypes.c_int] * 3), ctypes.c_long]
    for start, end, at, name in shared:
        low, size, path = int(start, 16), int(end, 16) - int(start, 16), os.fsdecode(name)
        data = ctypes.string_at(low, size)
        fd = -1
        if path.startswith("/") and not path.endswith("(deleted)"):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                fd = -1  # no such file for the clone: a private copy of the memory is what is left
        how = _SHARE | _FIXED | (_ANONYMOUS if fd < 0 else 0)
        got = libc.mmap(low, size, _READ_WRITE, how, fd, int(at, 16) if fd >= 0 else 0)
        if got != low:
            raise OSError(ctypes.get_errno(), "a shared memory map could not be copied")
        if fd < 0:
            ctypes.memmove(low, data, size)
        else:
            os.close(fd)
