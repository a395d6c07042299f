"""GRPO (Shao et al. 2024, arXiv 2402.03300), with the settings the ARPO paper compares against.

    Â_i = (r_i − mean(r)) / std(r)
    L   = −(1/Σ|y_i|) Σ_i Σ_t min(r_it·Â_i, clip(r_it, 1±ε)·Â_i)                token mean, no KL

GRPO is ARPO without branching: all M trajectories start at the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from arpo_algo.advantages import group_normalised, rewards, soft
from arpo_algo.algorithms import register
from arpo_algo.branching import Never
from arpo_algo.errors import ConfigError
from arpo_algo.losses import LossBatch, LossOutput, check_clip, clipped
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@register("grpo")
@dataclass(frozen=True)
class GRPO:
    """``M``: trajectories a prompt. ``aggregation="sequence"`` is the DeepSeekMath paper's 1/|y_i| form."""

    M: int = 16
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = 3.0
    aggregation: Literal["token", "sequence"] = "token"
    shared_once: bool = False

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high, self.dual_clip)
        if self.M < 2:
            raise ConfigError(f"a group of M={self.M} has nothing to compare; need M >= 2")

    @property
    def branching(self) -> Never:
        return Never()

    @property
    def N(self) -> int:
        return self.M

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return [soft(tree, group_normalised(rewards(tree))) for tree in trees]

    def loss(self, batch: LossBatch) -> LossOutput:
        return clipped(batch, self.clip_low, self.clip_high, self.dual_clip)
