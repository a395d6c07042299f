"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262) and its baseline variant.

    return      R_t = r − β·Σ_{s≥t} k1_s                       KL to the reference inside the reward, γ = 1
    advantage   Â_t = (R_t − mean)/std over all tokens of the batch, not of the group
    baseline    with ``baseline=True`` (REINFORCE++-baseline) r − mean_group(r) takes the place of r
    L           PPO's clipped surrogate, ε = 0.2, token mean

In the baseline variant the paper moves KL into the loss with k2; that is ``kl_in="loss", kl="k2"`` here.
β defaults to 0, as in the ARPO paper's comparison; REINFORCE++'s own runs use 0.01 and less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from arpo_algo.advantages import group_normalised, kl_of, rewards, whitened
from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Clipped
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@register("reinforce_pp")
@dataclass(frozen=True)
class ReinforcePP(Clipped):
    """``baseline``: subtract the group mean before whitening."""

    kl_in: Literal["loss", "reward"] = "reward"
    kl: Literal["k1", "k2", "k3"] = "k1"
    baseline: bool = False

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return whitened(trees, [self.returns_to_go(tree) for tree in trees])

    def returns_to_go(self, tree: Tree) -> Credit:
        """R_t of every token of every trajectory."""
        r = group_normalised(rewards(tree), scale=False) if self.baseline else rewards(tree)
        in_reward = self.kl_coef > 0 and self.kl_in == "reward"
        credit: dict[tuple[int, int], float | list[float]] = {}
        for leaf, reward in zip(tree.leaves(), r, strict=True):
            later = 0.0  # Σ k of the tokens after this node
            for node in reversed([n for n in tree.path(leaf.id) if n.kind == "action"]):
                if not in_reward:
                    credit[leaf.id, node.id] = reward
                    continue
                to_go = list(accumulate(reversed(kl_of(node, self.kl)), initial=later))[1:][::-1]
                credit[leaf.id, node.id] = [reward - self.kl_coef * k for k in to_go]
                later = to_go[0] if to_go else later
        return credit
