"""AEPO, agentic entropy-balanced policy optimisation (Dong et al. 2025, arXiv 2510.14545), ARPO's follow-up.

    budget     one rollout as a probe, then N = M·σ(b·(H_root − H_tool)) rollouts in all from the root, M − N forks
    branching  P_t = (α + β·ΔH_t)·(1 − P̂(l)),  P̂(l) = min(1, penalty·l) after l consecutive forks on the path
    advantage  Ã = Â·(1 + a·(H − mean H)/std H),  a = 0.2,  H of each token as sampled, Â as in GRPO
    L          −mean min(δ·Ã, clip(δ, 1−ε_l, (1+ε_h)·δ/sg(δ))·Ã): tokens clipped above keep a gradient

What the paper leaves open: P̂ is linear in l, its slope is our choice (0.2). H_root, H_tool are normalised means
over k tokens; a probe without tool calls has H_tool = 0. Mean and std of H are over the tokens of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from arpo_algo.advantages import EPS, actions, spread
from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Base
from arpo_algo.branching import BalancedEntropy, BranchingRule
from arpo_algo.losses import LossBatch, LossOutput, balanced_clip, check_clip
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@register("aepo")
@dataclass(frozen=True)
class AEPO(Base):
    """``k`` … ``Z``, ``penalty``, ``b``: see :class:`~arpo_algo.branching.BalancedEntropy`; ``a``: see above."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    k: int = 20
    alpha: float = 0.5
    beta: float = 0.2
    tau: float = 0.5
    Z: int = 2
    penalty: float = 0.2
    b: float = 1.0
    a: float = 0.2

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high, None)
        super().__post_init__()

    @property
    def N(self) -> int:
        """Rollouts to begin with: the probe. The rule plans the rest."""
        return 1

    @property
    def branching(self) -> BranchingRule:
        return BalancedEntropy(self.k, self.alpha, self.beta, self.tau, self.Z, penalty=self.penalty, b=self.b)

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        plain = super().advantages(trees)
        seen = [h for tree in trees for n in actions(tree).values() for h in n.entropies]
        mean = sum(seen) / max(len(seen), 1)
        std = math.sqrt(sum((h - mean) ** 2 for h in seen) / max(len(seen) - 1, 1))

        def shaped(advantage: list[float], entropies: list[float]) -> list[float]:
            if std <= EPS:
                return advantage
            return [x * (1 + self.a * (h - mean) / std) for x, h in zip(advantage, entropies, strict=True)]

        return [
            {key: shaped(spread(credit[key], n), n.entropies) for key, n in actions(tree).items()}
            for tree, credit in zip(trees, plain, strict=True)
        ]

    def surrogate(self, batch: LossBatch) -> LossOutput:
        return balanced_clip(batch, self.clip_low, self.clip_high)
