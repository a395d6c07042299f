"""Bounds on work in flight: first come, first served, so that no environment starves and no machine drowns."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class FairGate:
    """At most ``width`` holders at a time; the others wait in the order they came."""

    def __init__(self, width: int) -> None:
        self._free = width
        self._lock = threading.Lock()
        self._queue: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return
            ticket = threading.Lock()
            ticket.acquire()
            self._queue.append(ticket)
        try:
            ticket.acquire()
        except BaseException:  # interrupted while waiting: hand the turn on if it was given meanwhile
            with self._lock:
                try:
                    self._queue.remove(ticket)
                except ValueError:
                    self._hand_on()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._hand_on()

    def _hand_on(self) -> None:
        if self._queue:
            self._queue.popleft().release()  # the slot passes straight to the next in line
        else:
            self._free += 1
