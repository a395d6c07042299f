"""Gives a forked interpreter its own open files: fork shares offsets, pipes and counters, a clone must not.

The parent takes stock *before* the fork (:func:`inventory`) and stands still until the child has finished
(:func:`detach`), so what the child reads is what the parent had. Regular files are opened again under the same
path (which by then is the child's own copy) at the same offset; unlinked files are copied; pipes with both ends
in the process get a fresh pipe with the same bytes waiting; an eventfd a fresh one with the same count, an epoll a
fresh one that watches the same descriptors; the session's output is the clone's own. What has its other end in
another process (a child's pipe, a socket) cannot be cloned: the clone sees it closed. Nor can the kernel's other
objects without a name (timerfd, inotify, signalfd, pidfd): for the clone theirs are bad descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import select
import socket
import stat
import sys
import termios
from dataclasses import dataclass, field

from . import holes

_TEE = 0x02  # SPLICE_F_NONBLOCK


@dataclass
class Held:
    """One descriptor as the parent had it."""

    fd: int
    kind: str  # file, deleted, pipe, socket, output, eventfd, epoll, lost
    path: str
    flags: int
    offset: int
    inode: tuple[int, int]
    same_as: int  # the lowest descriptor of the same open file, or itself
    count: int = 0  # of an eventfd
    semaphore: bool = False
    ident: int = -1
    watched: list[tuple[int, int]] = field(default_factory=list)  # of an epoll: descriptors and their events


def inventory(keep: set[int], output: tuple[int, int]) -> list[Held]:
    """Every descriptor that is not in ``keep``, but 1 and 2 while they are as they were at first.

    ``output``: the inode of the session's own output pipe.
    """
    found: list[Held] = []
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd in keep:
            continue
        try:
            info = os.fstat(fd)
            if stat.S_ISCHR(info.st_mode):
                continue  # /dev/null and its like have no state
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            if fd <= 2 and (info.st_dev, info.st_ino) == output and flags == os.O_WRONLY:
                continue  # the usual case: the clone's are already its own
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the listing's own descriptor
        held = Held(fd, _kind(info, path, flags, output), path, flags, -1, (info.st_dev, info.st_ino), fd)
        if held.kind in ("eventfd", "epoll"):
            _look_into(held)
        elif stat.S_ISREG(info.st_mode) and held.kind != "lost" and not flags & os.O_PATH:
            held.offset = os.lseek(fd, 0, os.SEEK_CUR)
        held.same_as = next((other.same_as for other in found if _is_same(held, other)), fd)
        found.append(held)
    return found


def inode(fd: int) -> tuple[int, int]:
    """Device and inode behind ``fd``; of a closed one a pair that no file has."""
    try:
        info = os.fstat(fd)
    except OSError:
        return (-1, -1)
    return (info.st_dev, info.st_ino)


def _kind(info: os.stat_result, path: str, flags: int, output: tuple[int, int]) -> str:
    if stat.S_ISFIFO(info.st_mode):
        if (info.st_dev, info.st_ino) == output and flags & os.O_ACCMODE == os.O_WRONLY:
            return "output"
        return "pipe" if path.startswith("pipe:") else "file"
    if stat.S_ISSOCK(info.st_mode):
        return "socket"
    if not path.startswith("/"):  # some of these call themselves regular files
        return {"anon_inode:[eventfd]": "eventfd", "anon_inode:[eventpoll]": "epoll"}.get(path, "lost")
    if stat.S_ISREG(info.st_mode) and info.st_nlink == 0:
        return "deleted"
    return "file"


def _look_into(held: Held) -> None:
    """What the kernel tells about an eventfd or an epoll; one it does not tell about is lost."""
    with open(f"/proc/self/fdinfo/{held.fd}") as f:
        text = f.read()
    if held.kind == "epoll":
        for fd, events, inode in re.findall(
            r"^tfd: +(\d+) events: +([0-9a-f]+) .* ino:([0-9a-f]+)", text, re.MULTILINE
        ):
            with contextlib.suppress(OSError):
                if os.fstat(int(fd)).st_ino == int(inode, 16):  # else the number is another file's by now
                    held.watched.append((int(fd), int(events, 16)))
        return
    known = dict(re.findall(r"^eventfd-(\w+): +([0-9a-f]+)$", text, re.MULTILINE))
    if "semaphore" not in known:  # Linux 6.5
        held.kind = "lost"
        return
    held.count, held.semaphore, held.ident = int(known["count"], 16), known["semaphore"] != "0", int(known["id"])


def _is_same(held: Held, other: Held) -> bool:
    """Are these two descriptors of one open file, rather than of a file opened twice?"""
    if held.ident >= 0:
        return held.ident == other.ident
    if held.offset < 0 or (other.inode, other.flags, other.offset) != (held.inode, held.flags, held.offset):
        return False
    os.lseek(held.fd, held.offset + 1, os.SEEK_SET)  # moving one offset tells
    same = os.lseek(other.fd, 0, os.SEEK_CUR) == held.offset + 1
    os.lseek(held.fd, held.offset, os.SEEK_SET)
    return same


@dataclass
class Saved:
    """An unlinked file: what is written in it, and its size in bytes."""

    blocks: list[tuple[int, bytes]]
    size: int


def save_deleted(held: list[Held]) -> dict[int, Saved]:
    """The bytes of unlinked files, read while the process is still their owner."""
    saved: dict[int, Saved] = {}
    for h in held:
        if h.kind == "deleted" and h.same_as == h.fd:
            fd = os.open(f"/proc/self/fd/{h.fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                info = os.fstat(fd)
                saved[h.fd] = Saved(list(holes.blocks(fd, info)), info.st_size)
            finally:
                os.close(fd)
    return saved


def detach(held: list[Held], saved: dict[int, Saved], out: int) -> None:
    """Replace every descriptor in ``held`` by one of this process's own; those of the output by ``out``."""
    pipes: dict[tuple[int, int], list[Held]] = {}
    for h in held:
        if h.same_as != h.fd:
            os.dup2(h.same_as, h.fd, os.get_inheritable(h.fd))
        elif h.kind == "output":
            os.dup2(out, h.fd, os.get_inheritable(h.fd))
            if h.flags != os.O_WRONLY:
                fcntl.fcntl(out, fcntl.F_SETFL, h.flags)
        elif h.kind == "pipe":
            pipes.setdefault(h.inode, []).append(h)
        else:
            _replace(h.fd, _fresh(h, saved))
    for ends in pipes.values():
        _own_pipe(ends)
    for h in held:  # when all that they watch is in its place
        if h.kind == "epoll":
            _watch(h)


def _fresh(h: Held, saved: dict[int, Saved]) -> int:
    """A new descriptor that stands for ``h`` in the clone."""
    if h.kind == "socket":
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours.detach()
    if h.kind == "eventfd":
        new = os.eventfd(0, os.EFD_CLOEXEC | (os.EFD_SEMAPHORE if h.semaphore else 0) | h.flags & os.O_NONBLOCK)
        os.eventfd_write(new, h.count)
        return new
    if h.kind == "epoll":
        with select.epoll() as watcher:
            return fcntl.fcntl(watcher.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)
    if h.kind == "lost":
        return os.open("/", os.O_PATH | os.O_CLOEXEC)  # keeps the number: whatever is asked of it is EBADF
    flags = h.flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC) | os.O_CLOEXEC
    try:
        if h.kind == "deleted":
            # through a name of its own, so that the file can be both read-only and filled
            new = os.open(os.environ["TMPDIR"], os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            holes.fill(new, saved[h.fd].blocks, saved[h.fd].size)
            if flags & os.O_APPEND:
                fcntl.fcntl(new, fcntl.F_SETFL, os.O_APPEND)
        else:
            new = os.open(h.path, flags)
    except OSError:
        new = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    if h.offset >= 0:
        os.lseek(new, h.offset, os.SEEK_SET)
    return new


def _watch(h: Held) -> None:
    with select.epoll.fromfd(os.dup(h.fd)) as watcher:
        for fd, events in h.watched:
            with contextlib.suppress(OSError):  # one that is lost, which nothing would be heard from
                watcher.register(fd, events)


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
