"""Bounds on work in flight: first come, first served, so that no environment starves and no machine drowns.

Two bounds. Every sandbox lets a fixed number of cells run at a time (:class:`FairGate`); a cell's clock starts
when its turn comes, so waiting is never counted as running. :class:`SandboxPool` bounds the live sessions over
several sandboxes (containers, tiers); whoever asks for one too many waits in line, and gets an ``InfraError`` when
nothing was given back in time, instead of taking the machine down.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ..errors import ConfigError, InfraError
from .base import ExecResult, Limits, Sandbox, SandboxSession


class FairGate:
    """At most ``width`` holders at a time; the others wait in the order they came."""

    def __init__(self, width: int) -> None:
        if width < 1:
            raise ConfigError(f"width must be at least 1, got {width!r}")
        self._free = width
        self._lock = threading.Lock()
        self._queue: deque[threading.Lock] = deque()

    def acquire(self, timeout: float = -1) -> bool:
        """Take a place; False when ``timeout`` seconds were not enough (negative: wait for ever)."""
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return True
            ticket = threading.Lock()
            ticket.acquire()
            self._queue.append(ticket)
        got = False
        try:
            got = ticket.acquire(timeout=timeout)
        finally:
            if not got:  # too late, or interrupted: leave the line, or pass on the turn that came meanwhile
                with self._lock:
                    try:
                        self._queue.remove(ticket)
                    except ValueError:
                        self._hand_on()
        return got

    def release(self) -> None:
        with self._lock:
            self._hand_on()

    def _hand_on(self) -> None:
        if self._queue:
            self._queue.popleft().release()  # the place passes straight to the next in line
        else:
            self._free += 1

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class SandboxPool(Sandbox):
    """Several sandboxes as one, with at most ``max_sessions`` live sessions in all.

    A session goes to the member with the fewest; its clones stay on that member (a live fork cannot move) and
    count too. ``wait_seconds`` is how long :meth:`session` and ``fork`` wait for a place. Closing the pool closes
    its members. Thread-safe.
    """

    def __init__(self, members: Sequence[Sandbox], *, max_sessions: int = 256, wait_seconds: float = 60.0) -> None:
        if not members:
            raise ConfigError("a sandbox pool needs at least one member, got none")
        if not 0 < wait_seconds < threading.TIMEOUT_MAX:
            raise ConfigError(f"wait_seconds must be a positive number of seconds, got {wait_seconds!r}")
        self.tier = "+".join(dict.fromkeys(m.tier for m in members))
        self._members = list(members)
        self._load = [0] * len(members)
        self._lock = threading.Lock()
        self._places = FairGate(max_sessions)
        self._max, self._wait = max_sessions, wait_seconds

    def session(self, *, seed: int, limits: Limits | None = None) -> PooledSession:
        self._enter()
        with self._lock:
            index = self._load.index(min(self._load))
            self._load[index] += 1
        try:
            return PooledSession(self, index, self._members[index].session(seed=seed, limits=limits))
        except BaseException:
            self._leave(index)
            raise

    def close(self) -> None:
        for member in self._members:
            member.close()

    def _enter(self) -> None:
        if not self._places.acquire(self._wait):
            raise InfraError(
                f"all {self._max} sandbox sessions were in use for {self._wait:g} s; close some, or raise max_sessions"
            )

    def _leave(self, index: int) -> None:
        with self._lock:
            self._load[index] -= 1
        self._places.release()


class PooledSession(SandboxSession):
    """A session that gives its place back when it is closed."""

    def __init__(self, pool: SandboxPool, index: int, inner: SandboxSession) -> None:
        self._pool, self._index, self._inner = pool, index, inner
        self._open = True

    def run(self, code: str, *, seconds: float | None = None) -> ExecResult:
        return self._inner.run(code, seconds=seconds)

    def fork(self) -> Self:
        self._pool._enter()
        with self._pool._lock:
            self._pool._load[self._index] += 1
        try:
            return type(self)(self._pool, self._index, self._inner.fork())
        except BaseException:
            self._pool._leave(self._index)
            raise

    def close(self) -> None:
        if self._open:
            self._open = False
            self._inner.close()
            self._pool._leave(self._index)
