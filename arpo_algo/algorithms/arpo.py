"""ARPO (Dong et al., arXiv 2507.19849, ICLR 2026).

    sampling        N rollouts from the root, M − N forks right after tool results where  P_t = α + β·ΔH_t > τ
    soft (default)  every token of trajectory i weighs Â_i = (r_i − mean)/std over the group of M  (GRPO's loss)
    hard            a segment shared by d trajectories weighs (1/d)·Σ Â_i, an own one Â_i
    L               −mean min(r·Â, clip(r, 1±ε)·Â), dual clip c = 3, token mean, no KL

Both attributions count a shared prefix d times; ``shared_once`` weighs it 1/d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from arpo_algo.advantages import group_normalised, hard, soft
from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Clipped
from arpo_algo.branching import BranchingRule, Entropy
from arpo_algo.errors import unknown
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@dataclass(frozen=True)
class Forking(Clipped):
    """What ARPO shares with its controls: the group and its two attributions."""

    N: int = 8  # a field here: of the M trajectories, how many start at the root
    dual_clip: float | None = 3.0
    attribution: Literal["soft", "hard"] = "soft"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attribution not in ("soft", "hard"):
            raise unknown("attribution", self.attribution, ("soft", "hard"))

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        attribute = soft if self.attribution == "soft" else hard
        return [attribute(tree, group_normalised(self.scores(tree))) for tree in trees]


@register("arpo")
@dataclass(frozen=True)
class ARPO(Forking):
    """Defaults are the paper's. ``k`` … ``rule``: see :class:`~arpo_algo.branching.Entropy`.

    Args:
        N: how many of the M trajectories start at the root.
        attribution: ``soft`` or ``hard``, see above.
        aggregation: ``token`` (the released code) or ``sequence`` (the paper's 1/|y_i|).
    """

    k: int = 20
    alpha: float = 0.5
    beta: float = 0.2
    tau: float = 0.5
    Z: int = 2
    rule: Literal["threshold", "bernoulli"] = "threshold"

    @property
    def branching(self) -> BranchingRule:
        return Entropy(self.k, self.alpha, self.beta, self.tau, self.Z, self.rule)
