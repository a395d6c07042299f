"""Who is running inside: read from /proc, which the kernel writes and no session can.

A session's processes carry its *tag*: the value of a resource limit that Linux has not used since 2.4, that forks and
execs inherit, that the seccomp filter keeps sessions from changing, and that anyone may read. So a daemon that left
its process group, its terminal and its parent is still known for whose it is, even where all share one user id.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal

_TAG = re.compile(rb"^Max file locks\s+(\d+)", re.MULTILINE)
_UID = re.compile(rb"^Uid:\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", re.MULTILINE)


def _read(path: str) -> bytes:
    """A small file of /proc in three calls; ``open()`` would make eight, and every fork waits for this."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 2**14)
    finally:
        os.close(fd)


def users_of(pid: int) -> list[int]:
    """Real, effective, saved and file-system user of ``pid``. Raises ``OSError`` when it is gone."""
    found = _UID.search(_read(f"/proc/{pid}/status"))
    return [] if found is None else [int(x) for x in found.groups()]


def user_of(pid: int) -> int:
    return next(iter(users_of(pid)), -1)


def is_zombie(pid: int) -> bool:
    """Dead but not yet reaped, or gone."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def cpu_of(pid: int) -> tuple[str, float]:
    """State letter of the process and the seconds of CPU it has used. Raises ``OSError`` when it is gone."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return fields[0].decode(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads_of(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def tag_of(pid: int) -> int:
    """The tag of ``pid``; -1 when it has none or is gone."""
    try:
        found = _TAG.search(_read(f"/proc/{pid}/limits"))
    except OSError:
        return -1
    return -1 if found is None else int(found[1])


def tagged(tag: int) -> list[int]:
    """Every living process that carries ``tag``."""
    return [pid for pid in descendants() if tag_of(pid) == tag and not is_zombie(pid)]


def descendants() -> list[int]:
    """Every process below this one; orphans come to us too, as process 1 or as their subreaper.

    As process 1 of a namespace all of /proc is ours, and a process that lives through the listing is in it. Without
    one the tree is walked; a process whose parent dies meanwhile can be missed, so that is done twice.
    """
    me = os.getpid()
    if me == 1:
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    return sorted(_walk(me) | _walk(me))


def _walk(top: int) -> set[int]:
    found: set[int] = set()
    todo = [top]
    while todo:
        pid = todo.pop()
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as f:
                    children = {int(x) for x in f.read().split()} - found
                found |= children
                todo += children
        except (OSError, ValueError):
            continue
    return found


def process_of(thread: int) -> int:
    with open(f"/proc/{thread}/status") as f:
        for line in f:
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    return -1


def how_it_ended(status: int | None) -> str:
    if status is None:
        return "died"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(number).name}"
        return f"was killed by signal {number}"
    return f"exited with code {os.WEXITSTATUS(status)}"
