"""How much of a run's time is left: ``max_minutes`` bounds a run on a machine whose speed nobody knows beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable

_MARGIN = 1.2  # a step may take longer than the longest before it


class Clock:
    """Counts from its making.

    Args:
        max_minutes: the whole run's limit; None: no limit.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, max_minutes: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = None if max_minutes is None else now() + 60 * max_minutes
        self._step = self._evaluation = 0.0
        #: Set by the owner once the time has run out; it then stays so.
        self.up = False

    def step_took(self, seconds: float) -> None:
        self._step = max(self._step, seconds)

    def evaluation_took(self, seconds: float) -> None:
        self._evaluation = seconds

    @property
    def late(self) -> bool:
        """Whether one more step and an evaluation, as long as they took before, would end after the limit."""
        return self._end is not None and self._now() + _MARGIN * (self._step + self._evaluation) > self._end
