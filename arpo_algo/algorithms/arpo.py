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

from arpo_algo.advantages import group_normalised, hard, rewards, soft
from arpo_algo.algorithms import register
from arpo_algo.branching import Entropy
from arpo_algo.errors import ConfigError, unknown
from arpo_algo.losses import LossBatch, LossOutput, check_clip, clipped
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@register("arpo")
@dataclass(frozen=True)
class ARPO:
    """Defaults are the paper's. ``k`` … ``rule``: see :class:`~arpo_algo.branching.Entropy`.

    Args:
        M, N: trajectories a prompt, and how many of them start at the root.
        attribution: ``soft`` or ``hard``, see above.
        aggregation: ``token`` (the released code) or ``sequence`` (the paper's 1/|y_i|).
    """

    M: int = 16
    N: int = 8
    k: int = 20
    alpha: float = 0.5
    beta: float = 0.2
    tau: float = 0.5
    Z: int = 2
    rule: Literal["threshold", "bernoulli"] = "threshold"
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
        if self.M < 2:
            raise ConfigError(f"a group of M={self.M} has nothing to compare; need M >= 2")
        if not 1 <= self.N <= self.M:
            raise ConfigError(f"need 1 <= N <= M, got N={self.N}, M={self.M}")
        self.branching  # noqa: B018 (checks its values now, not at the first fork)

    @property
    def branching(self) -> Entropy:
        return Entropy(self.k, self.alpha, self.beta, self.tau, self.Z, self.rule)

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        attribute = soft if self.attribution == "soft" else hard
        return [attribute(tree, group_normalised(rewards(tree))) for tree in trees]

    def loss(self, batch: LossBatch) -> LossOutput:
        return clipped(batch, self.clip_low, self.clip_high, self.dual_clip)
