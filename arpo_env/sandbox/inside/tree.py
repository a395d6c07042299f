"""Copies a session's directory for its clone, as somebody who trusts nothing in it.

The tree is written by hostile code: links are copied as links and never followed, every step goes through a
directory descriptor, and the numbers of entries and levels are bounded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from . import holes

MAX_ENTRIES, MAX_DEPTH = 4096, 40
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_tree(source: int, target: int, owner: tuple[int, int] | None) -> None:
    """Copy everything below directory descriptor ``source`` into the empty directory ``target``.

    ``owner``: user and group of the copies, or None to keep the caller's. Raises ``OSError`` (E2BIG) past the bounds.
    """
    budget = [MAX_ENTRIES]
    links: dict[int, tuple[int, str]] = {}
    try:
        _copy(source, target, owner, budget, 0, links)
    finally:  # past a bound too: a session could otherwise use up our descriptors
        for fd, _name in links.values():
            with contextlib.suppress(OSError):
                os.close(fd)


def _copy(
    source: int, target: int, owner: tuple[int, int] | None, budget: list[int], depth: int,
    links: dict[int, tuple[int, str]],
) -> None:  # fmt: skip
    if depth > MAX_DEPTH:
        raise OSError(errno.E2BIG, f"directories nested deeper than {MAX_DEPTH}")
    # Newest first, as tmpfs lists them: making them oldest first gives the copy the same listing order.
    for name in reversed(os.listdir(source)):
        budget[0] -= 1
        if budget[0] < 0:
            raise OSError(errno.E2BIG, f"more than {MAX_ENTRIES} files")
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            if owner is not None:
                os.chown(name, *owner, dir_fd=target, follow_symlinks=False)
        elif stat.S_ISDIR(info.st_mode):
            # The root of a fresh directory holds "work" and "tmp" already.
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=target)
            with contextlib.ExitStack() as undo:
                inner = os.open(name, _DIR, dir_fd=source)
                undo.callback(os.close, inner)
                outer = os.open(name, _DIR, dir_fd=target)
                undo.callback(os.close, outer)
                _copy(inner, outer, owner, budget, depth + 1, links)
                _copy_attributes(inner, outer)
                _dress(outer, info, owner)
        elif stat.S_ISREG(info.st_mode):
            if info.st_nlink > 1 and info.st_ino in links:
                fd, first = links[info.st_ino]
                os.link(first, name, src_dir_fd=fd, dst_dir_fd=target, follow_symlinks=False)
                continue
            _copy_file(name, source, target, info, owner)
            if info.st_nlink > 1:
                links[info.st_ino] = (os.dup(target), name)
        elif stat.S_ISFIFO(info.st_mode):
            os.mkfifo(name, dir_fd=target)
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=target)
            try:
                _dress(fd, info, owner)
            finally:
                os.close(fd)
        # sockets have no copy


def _dress(fd: int, like: os.stat_result, owner: tuple[int, int] | None) -> None:
    """Owner, mode and times of a copy; last, for writing changes the times, and a change of owner the mode."""
    if owner is not None:
        os.fchown(fd, *owner)
    os.fchmod(fd, stat.S_IMODE(like.st_mode))
    os.utime(fd, ns=(like.st_atime_ns, like.st_mtime_ns))


def _copy_attributes(source: int, target: int) -> None:
    """Extended attributes that a user may set; the others (``security.`` …) say what a file may do."""
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno == errno.ENOTSUP:  # this file system has none
            return
        raise
    for name in names:
        if name.startswith("user."):
            with contextlib.suppress(FileNotFoundError):  # taken away meanwhile by a process of the session
                os.setxattr(target, name, os.getxattr(source, name))


def _copy_file(
    name: str, source: int, target: int, info: os.stat_result, owner: tuple[int, int] | None
) -> None:  # fmt: skip
    # NONBLOCK: were the file swapped for a FIFO in between, opening it must not hang the supervisor
    r = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        w = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            now = os.fstat(r)
            holes.fill(w, holes.blocks(r, now), now.st_size)
            _copy_attributes(r, w)
            _dress(w, info, owner)
        finally:
            os.close(w)
    finally:
        os.close(r)
