"""GSPO, group sequence policy optimisation (Zheng et al. 2025, arXiv 2507.18071).

    s_i = (π(y_i)/π_old(y_i))^(1/|y_i|) = exp((1/|y_i|) Σ_t ln r_it)                    Eq. 7
    L   = −(1/G) Σ_i min(s_i·Â_i, clip(s_i, 1−ε_low, 1+ε_high)·Â_i)                    Eq. 5; Â_i as in GRPO

ε = 3e-4 and 4e-4 (section 5.1): a length-normalised ratio stays far closer to 1 than a token's. Tool results
are not part of y_i. On a tree s_i is a sum along the path, so packing stays exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Base
from arpo_algo.losses import LossBatch, LossOutput, check_clip, clipped_sequence


@register("gspo")
@dataclass(frozen=True)
class GSPO(Base):
    """``clip_low``, ``clip_high``: of the sequence ratio."""

    aggregation: Literal["token", "sequence"] = "sequence"
    clip_low: float = 3e-4
    clip_high: float = 4e-4

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high, None)
        super().__post_init__()

    def surrogate(self, batch: LossBatch) -> LossOutput:
        return clipped_sequence(batch, self.clip_low, self.clip_high)
