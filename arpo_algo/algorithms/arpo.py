"""ARPO (Dong et al., arXiv 2507.19849, ICLR 2026).

    sampling     N rollouts from the root, M − N forks right after tool results where  P_t = α + β·ΔH_t > τ
    soft (default)  every token of trajectory i weighs Â_i = (r_i − mean)/std over the group of M  (GRPO's loss)
    hard            a segment shared by d trajectories weighs (1/d)·Σ Â_i, an own one Â_i          (Eq. 4)
    L            −mean min(r·Â, clip(r, 1±ε)·Â), dual clip c = 3, token mean, no KL

Both attributions count a shared prefix d times; ``shared_once`` weighs it 1/d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from arpo_algo.advantages import group_normalised, hard, rewards, soft
from arpo_algo.branching import BranchingRule, Entropy
from arpo_algo.errors import ConfigError, unknown
from arpo_algo.losses import LossBatch, LossOutput, check_clip, clipped
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@dataclass(frozen=True)
class ARPO:
    """See the module docstring; defaults are the paper's (α=0.5, β=0.2, τ=0.5, k=20, Z=2, N=8, M=16)."""

    M: int = 16
    N: int = 8
    branching: BranchingRule = field(default_factory=Entropy)
    attribution: Literal["soft", "hard"] = "soft"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = 3.0
    aggregation: Literal["token", "sequence"] = "token"
    shared_once: bool = False

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high, self.dual_clip)
        if self.attribution not in ("soft", "hard"):
            raise unknown("attribution", self.attribution, ("soft", "hard"))
        if self.aggregation not in ("token", "sequence"):
            raise unknown("aggregation", self.aggregation, ("token", "sequence"))
        if self.M < 2:
            raise ConfigError(f"a group of M={self.M} has nothing to compare; need M >= 2")
        if not 1 <= self.N <= self.M:
            raise ConfigError(f"need 1 <= N <= M, got N={self.N}, M={self.M}")

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        attribute = soft if self.attribution == "soft" else hard
        return [attribute(tree, group_normalised(rewards(tree))) for tree in trees]

    def loss(self, batch: LossBatch) -> LossOutput:
        return clipped(batch, self.clip_low, self.clip_high, self.dual_clip)
