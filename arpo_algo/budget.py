"""How much a run may spend: minutes on a machine whose speed nobody knows, or rollouts, tokens and tool calls.

Algorithms are compared honestly at an equal budget, not at equal steps: a tree of M trajectories makes fewer calls
than M separate ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from arpo_algo.errors import ConfigError
from arpo_algo.options import opt

_MARGIN = 1.2  # a step may take longer than the longest before it
#: Option -> what a training step logs of it.
SPENT = {"trajectories": "trajectories", "tokens": "tokens_computed", "tool_calls": "tool_calls_made"}


@dataclass(frozen=True)
class BudgetSection:
    """Training ends when one of these is used up, or after ``steps``.

    Raises:
        ConfigError: a limit that is not positive.
    """

    minutes: float | None = opt(
        None, "of this process: begin no training step that leaves no time for the last evaluation; none: no limit"
    )
    trajectories: int | None = opt(None, "trajectories sampled in training; none: no limit")
    tokens: int | None = opt(None, "tokens that training rollouts may compute, shared ones once; none: no limit")
    tool_calls: int | None = opt(None, "tool calls that training rollouts may make, shared ones once; none: no limit")

    def __post_init__(self) -> None:
        for name in ("minutes", *SPENT):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"budget.{name} must be > 0 (or none), got {value}")


class Budget:
    """What is left of it. The time counts from its making; the rest from the run's first step, resumes included.

    Args:
        limits: see :class:`BudgetSection`.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, limits: BudgetSection, now: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._now = now
        self._begun = now()
        self._step = self._evaluation = 0.0
        self.spent = dict.fromkeys(SPENT, 0.0)
        #: Why training ends, set by the owner when a limit is met; it then stays so.
        self.over: str | None = None

    def step_took(self, metrics: Mapping[str, float]) -> None:
        """A training step's metrics."""
        self._step = max(self._step, metrics.get("seconds_step", 0.0))
        self.count([metrics])

    def count(self, rows: Iterable[Mapping[str, float]]) -> None:
        """What was spent by steps before a resume."""
        for row in rows:
            for name, metric in SPENT.items():
                self.spent[name] += row.get(metric, 0.0)

    def evaluation_took(self, seconds: float) -> None:
        self._evaluation = seconds

    def met(self) -> str | None:
        """The limit that leaves no room for another step, in words; None while there is room."""
        for name, spent in self.spent.items():
            limit = getattr(self.limits, name)
            if limit is not None and spent >= limit:
                return f"budget.{name}={limit} is used up ({spent:.0f})"
        minutes = self.limits.minutes
        if minutes is not None:
            # One more step and an evaluation, as long as they took before.
            end = self._now() - self._begun + _MARGIN * (self._step + self._evaluation)
            if end > 60 * minutes:
                return f"budget.minutes={minutes:g} leaves no time for another step"
        return None
