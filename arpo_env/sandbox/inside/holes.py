"""Copies what is written in a file and leaves its holes holes: what takes no room there takes none in the copy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

_BLOCK = 2**20


def blocks(fd: int, info: os.stat_result) -> Iterator[tuple[int, bytes]]:
    """What is written in the file behind ``fd``: offset in bytes and at most 1 MiB each. May move the offset of ``fd``.

    ``info``: what ``fstat`` says of it; nothing past the size given there is read.
    """
    end = 0
    while end < info.st_size:
        at, end = end, info.st_size
        if info.st_blocks * 512 < info.st_size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
                end = min(end, os.lseek(fd, at, os.SEEK_HOLE))
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing more is written
                    return
                if error.errno != errno.EINVAL:  # else it does not know holes (gVisor): all counts as written
                    raise
        while at < end:
            block = os.pread(fd, min(_BLOCK, end - at), at)
            if not block:  # it was cut meanwhile
                return
            yield at, block
            at += len(block)


def fill(fd: int, written: Iterable[tuple[int, bytes]], size: int) -> None:
    """Make the empty file behind ``fd`` one of ``size`` bytes with these blocks in it."""
    end = 0
    for at, block in written:
        view, end = memoryview(block), at
        while view:
            done = os.pwrite(fd, view, end)
            view, end = view[done:], end + done
    if end != size:
        os.ftruncate(fd, size)
