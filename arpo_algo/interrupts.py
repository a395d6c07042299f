"""SIGINT and SIGTERM in two steps: the first ends the run after the step under way, the second at once.

"At once" means: wherever a rollout can be dropped, by ``KeyboardInterrupt`` from the signal handler. The update and
the writing of a checkpoint change state in several moves, so there the second signal only sets a flag, which
:meth:`Interrupts.check` turns into the exception between two packs, before the optimiser has stepped.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """What the operator asked for. ``say`` is told, once a signal, what will happen."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._signals = 0
        self._held = 0

    @property
    def stop(self) -> bool:
        """End after this step."""
        return self._signals > 0

    def check(self) -> None:
        """Raises:
        KeyboardInterrupt: a second signal came while they were held.
        """
        if self._signals > 1:
            raise KeyboardInterrupt

    def request_stop(self) -> None:
        """As if a first signal had come (another process of the run got one)."""
        self._signals = max(self._signals, 1)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A stretch that no signal may tear; call :meth:`check` where it can be left."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM here (in the main thread; elsewhere nothing is changed)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signals += 1
        if self._signals == 1:
            self._say("Stopping after this step, with a checkpoint (again: stop now, at the last consistent point).")
        elif not self._held:
            raise KeyboardInterrupt
