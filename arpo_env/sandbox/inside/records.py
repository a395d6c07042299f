"""What the supervisor writes down about a process, a session, and a fork on its way."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .capture import Capture
from .places import Place


@dataclass(eq=False, slots=True)
class Process:
    """One interpreter process as the supervisor sees it."""

    sock: socket.socket
    pid: int = 0
    outbox: bytearray = field(default_factory=bytearray)
    fds: list[int] = field(default_factory=list)
    inbox: bytearray = field(default_factory=bytearray)


@dataclass(eq=False, slots=True)
class Session:
    """One session: a process that may be replaced, and the request it is working on."""

    sid: int
    seed: int
    limits: dict[str, Any]
    place: Place
    process: Process
    out: int
    tag: int
    state: str = "starting"  # starting, idle, running, grace, forking, dead
    owed: set[bytes] = field(default_factory=set)  # forks it has still to report
    nonce: bytes = b""
    request: int = 0
    capture: Capture | None = None
    token: int = 0  # outdates deadlines
    note: str = ""  # why the interpreter was lost while nobody was looking
    seconds: float = 0.0
    graces: int = 0  # how often an interrupted cell was given more time, and the CPU seconds it had at first
    cpu: float = 0.0
    placed: bool = True
    ended: int | None = None  # wait status, once known


@dataclass(eq=False, slots=True)
class Birth:
    """A fork on its way: what the gate may grant for it, and who waits for it."""

    child: Session
    parent: Session | None
    done: Callable[[str | None], None]
    may_chroot: bool
    may_setuid: bool
