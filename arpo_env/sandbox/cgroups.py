"""A control group around a whole sandbox, where the machine lets us make one.

Per-session bounds are rlimits; they add up (processes times address space), and only a control group bounds the
sum. Used where it is delegated: cgroup v2 with ``memory`` and ``pids`` enabled for children of our own group or
of its parent, or the v1 ``pids`` hierarchy. Absent anywhere else, which ``arpo sandbox check`` says.

A process enters the group itself, before it becomes the sandbox: moved from outside it would go alone, for by
then it has started others.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import time
from pathlib import Path

from .base import Limits

_V2 = Path("/sys/fs/cgroup")
_count = itertools.count()
_PREFIX = "arpo-sandbox-"
_IDLE = 1024  # sessions a supervisor can hold (its CAPACITY), one process each
#: ``sh -c _ENTER GROUP COMMAND…``: into the group or nowhere. (A preexec_fn is not safe beside threads.)
_ENTER = 'echo $$ > "$0" && exec "$@"'


class Group:
    """One group. ``path`` is its directory; it is removed when the sandbox closes."""

    def __init__(self, path: Path, controls: str) -> None:
        self.path = path
        self.controls = controls

    def around(self, command: list[str]) -> list[str]:
        """``command`` as one that enters the group first; where it cannot, the command does not run."""
        return ["/bin/sh", "-c", _ENTER, str(self.path / "cgroup.procs"), *command]

    def admits(self) -> bool:
        """Can a process enter? Proved with one: a group may be made, and bounded, where none may be moved to."""
        try:
            done = subprocess.run(
                self.around(["/bin/sh", "-c", "exit 0"]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, timeout=10, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def remove(self) -> None:
        for _ in range(50):
            try:
                self.path.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)  # its last processes are still being reaped


def _own(hierarchy: str) -> str | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, names, path = line.split(":", 2)
        if hierarchy in names.split(","):
            return path
    return None


def _candidates() -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    own = _own("")
    if own is not None and (_V2 / "cgroup.controllers").exists():
        here = _V2 / own.lstrip("/")
        found += [(p, "v2") for p in (here, here.parent) if p == _V2 or _V2 in p.parents]
    pids = _own("pids")
    if pids is not None:
        found.append((_V2 / "pids" / pids.lstrip("/"), "v1"))
    return found


def _sweep(parent: Path) -> None:
    """Remove the empty groups of processes that were killed before they could."""
    for old in parent.glob(_PREFIX + "*"):
        pid = old.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                old.rmdir()


def create(limits: Limits) -> Group | None:
    """A group for as many idle sessions as fit, 64 busy ones and half of the machine's memory.

    None where no group can be made, bounded and entered.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    tasks = _IDLE + 64 * (limits.processes + 2)
    for parent, version in _candidates():
        try:
            if not os.access(parent, os.W_OK):
                continue
            if version == "v2":
                enabled = (parent / "cgroup.subtree_control").read_text().split()
                if not {"memory", "pids"} <= set(enabled):
                    continue
            _sweep(parent)
            path = parent / f"{_PREFIX}{os.getpid()}-{next(_count)}"
            path.mkdir()
            try:
                (path / "pids.max").write_text(str(tasks))
                if version == "v2":
                    (path / "memory.max").write_text(str(memory))
            except OSError:
                path.rmdir()
                continue
        except OSError:
            continue
        group = Group(path, "memory and processes" if version == "v2" else "processes")
        if group.admits():
            return group
        group.remove()
    return None
