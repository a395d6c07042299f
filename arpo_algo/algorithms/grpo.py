"""GRPO (Shao et al. 2024, arXiv 2402.03300), with the settings the ARPO paper compares against.

    Â_i = (r_i − mean(r)) / std(r)                                              (Eq. 3 there)
    L   = −(1/Σ|y_i|) Σ_i Σ_t min(r_it·Â_i, clip(r_it, 1±ε)·Â_i)                token mean, no KL

GRPO is ARPO with ``branching=Never()``: trajectory-level sampling, so M = N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from arpo_algo.advantages import group_normalised, rewards, soft
from arpo_algo.branching import BranchingRule, Never
from arpo_algo.errors import ConfigError, unknown
from arpo_algo.losses import LossBatch, LossOutput, check_clip, clipped
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@dataclass(frozen=True)
class GRPO:
    """See the module docstring. ``aggregation="sequence"`` is the paper's 1/|y_i| form."""

    M: int = 16
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = 3.0
    aggregation: Literal["token", "sequence"] = "token"
    shared_once: bool = False
    branching: BranchingRule = field(default_factory=Never)

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high, self.dual_clip)
        if self.aggregation not in ("token", "sequence"):
            raise unknown("aggregation", self.aggregation, ("token", "sequence"))
        if self.M < 2:
            raise ConfigError(f"a group of M={self.M} has nothing to compare; need M >= 2")

    @property
    def N(self) -> int:
        """Root rollouts a prompt: all of them."""
        return self.M

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return [soft(tree, group_normalised(rewards(tree))) for tree in trees]

    def loss(self, batch: LossBatch) -> LossOutput:
        return clipped(batch, self.clip_low, self.clip_high, self.dual_clip)
