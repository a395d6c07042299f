"""How a group is sampled, as data: checked before anything runs, and known without the event loop that does it."""

from __future__ import annotations

from dataclasses import dataclass, field

from arpo_algo.branching import BranchingRule, Expanding, Never
from arpo_algo.engines.base import Sampling
from arpo_algo.errors import ConfigError


@dataclass(frozen=True)
class RolloutConfig:
    """How a group is sampled.

    Args:
        M: trajectories a prompt. N: how many of them start at the root; the rest are forks (or filled up).
        branching: when to fork; ``Never()`` is trajectory-level sampling and then N must equal M.
        sampling: temperature and the like.
        max_turn_tokens: new tokens a turn at most. max_tokens: tokens of a trajectory at most, prompt included.
        tool_lag: engine steps between a call and the admission of its result; None: as they come.
        tool_timeout: seconds that a call may run before it is given up and its trajectory is void.

    Raises:
        ConfigError: contradictory values.
    """

    M: int = 16
    N: int = 8
    branching: BranchingRule = field(default_factory=Never)
    sampling: Sampling = field(default_factory=Sampling)
    max_turn_tokens: int = 256
    max_tokens: int = 2048
    tool_lag: int | None = 1
    tool_timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.N < 1:
            raise ConfigError(f"N must be >= 1 root rollout, got {self.N}")
        if self.M < self.N:
            raise ConfigError(f"M={self.M} trajectories cannot hold N={self.N} root rollouts; need M >= N")
        if self.branching.probe_tokens == 0 and self.M != self.N and not isinstance(self.branching, Expanding):
            raise ConfigError(f"branching that never forks needs M == N, got M={self.M}, N={self.N}")
        if self.max_turn_tokens < 1 or self.max_tokens < 1:
            raise ConfigError(f"token budgets must be >= 1, got {self.max_turn_tokens} and {self.max_tokens}")
        if self.tool_lag is not None and self.tool_lag < 0:
            raise ConfigError(f"tool_lag must be >= 0 or None, got {self.tool_lag}")
        if not self.tool_timeout > 0:
            raise ConfigError(f"tool_timeout must be > 0 seconds, got {self.tool_timeout}")
