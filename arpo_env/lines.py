"""Files of JSON lines that grow: a write is whole or not at all, also on a full disk or after a crash."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path


def append(path: Path, lines: bytes) -> None:
    """Append whole lines (each ends in a newline), all or none of them, under a lock of the file.

    A last line without an end is what a crash left of another write: it is taken out, unless it is whole.

    Raises:
        OSError: the disk is full or fails; the file is as it was.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        end = _mend(fd)
        try:
            done = 0
            while done < len(lines):
                done += os.pwrite(fd, lines[done:], end + done)
        except BaseException:
            os.ftruncate(fd, end)  # a full disk must not leave half a line, nor lines that will be written again
            raise
    finally:
        os.close(fd)


def _mend(fd: int) -> int:
    """Take a torn last line out (or end a whole one); returns where the next line begins."""
    size = os.fstat(fd).st_size
    if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
        return size
    tail, at = b"", size
    while at > 0 and b"\n" not in tail:
        block = min(at, 2**16)
        at -= block
        tail = os.pread(fd, block, at) + tail
    tail = tail[tail.rfind(b"\n") + 1 :]
    if is_record(tail):
        os.pwrite(fd, b"\n", size)
        return size + 1
    os.ftruncate(fd, size - len(tail))
    return size - len(tail)


def is_record(line: bytes) -> bool:
    """Whether it is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
