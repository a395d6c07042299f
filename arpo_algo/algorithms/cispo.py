"""CISPO (MiniMax-M1, arXiv 2506.13585, Eq. 4–5): clip the importance weight, never the token.

    L = −(1/Σ|y_i|) Σ_i Σ_t sg(min(r_it, ρ_max))·Â_i·ln π(y_it),     Â_i as in GRPO, sg = stop-gradient

The paper sets no lower bound and does not publish its upper one; ρ_max = 5 is ScaleRL's (arXiv 2510.13786) and
TRL's default.
"""

from __future__ import annotations

from dataclasses import dataclass

from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Base
from arpo_algo.errors import ConfigError
from arpo_algo.losses import LossBatch, LossOutput, detached_ratio


@register("cispo")
@dataclass(frozen=True)
class CISPO(Base):
    """``ratio_max``: ρ_max, the largest importance weight."""

    ratio_max: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio_max < 1:
            raise ConfigError(f"ratio_max must be >= 1 (the ratio starts at 1), got {self.ratio_max}")

    def surrogate(self, batch: LossBatch) -> LossOutput:
        return detached_ratio(batch, self.ratio_max)
