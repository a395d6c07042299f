"""RLOO, REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740, Eq. 8).

    Â_i = r_i − (1/(G−1)) Σ_{j≠i} r_j  =  G/(G−1)·(r_i − mean(r))
    L   = −(1/G) Σ_i Σ_t r_it·Â_i·(1/L)          plain REINFORCE: at ratio 1 its gradient is Σ ∇ln π·Â

The paper has no clip and sums over tokens. We keep PPO's clip as a guard for several mini-batches (it does
nothing at ratio 1) and, by default, the token mean of the rest. The paper's KL is in the reward, k1:
``make("rloo", kl_coef=0.03, kl_in="reward", kl="k1")``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arpo_algo.advantages import leave_one_out, soft
from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Clipped
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@register("rloo")
@dataclass(frozen=True)
class RLOO(Clipped):
    """Options: see :class:`~arpo_algo.algorithms.base.Clipped`."""

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return [soft(tree, leave_one_out(self.scores(tree))) for tree in trees]
