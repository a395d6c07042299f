"""A new algorithm in one file: group advantages that are scaled by how rare success is.

    Â_i = (r_i − mean(r)) / (mean(r) − min(r) + ε)          hard questions weigh more than easy ones
    L   = PPO's clipped surrogate, token mean

and each trajectory's turns are discounted, so that late turns are credited more than early ones:

    Â_i,k = γ^(T_i − k)·Â_i          k counts the turns of trajectory i, T_i is its last

Run it:    python examples/rare_success.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arpo_algo import make, register
from arpo_algo.advantages import EPS
from arpo_algo.algorithms.base import Clipped
from arpo_algo.branching import BranchingRule, Entropy
from arpo_algo.check import check_algorithm
from arpo_algo.errors import ConfigError
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@register("rare_success")
@dataclass(frozen=True)
class RareSuccess(Clipped):
    """``N``: how many of the M trajectories start at the root; ``gamma``: discount a turn."""

    N: int = 8
    gamma: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()  # checks M, N and the shared options
        if not 0 < self.gamma <= 1:
            raise ConfigError(f"gamma must lie in (0, 1], got {self.gamma}")

    @property
    def branching(self) -> BranchingRule:
        return Entropy(k=20)  # ARPO's rule; Never(), RandomResults() and Surprise() are others

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return [self.credit(tree) for tree in trees]

    def credit(self, tree: Tree) -> Credit:
        """(leaf, action) -> advantage, for every action on the way to every leaf."""
        r = self.scores(tree)  # rewards, less a KL penalty if the user asked for one in the reward
        mean, low = sum(r) / len(r), min(r)
        out: dict[tuple[int, int], float] = {}
        for leaf, reward in zip(tree.leaves(), r, strict=True):
            a = (reward - mean) / (mean - low + EPS) if max(r) > low + EPS else 0.0
            turns = [node for node in tree.path(leaf.id) if node.kind == "action"]
            for k, node in enumerate(turns):
                out[leaf.id, node.id] = self.gamma ** (len(turns) - 1 - k) * a
        return out


if __name__ == "__main__":
    check_algorithm(make("rare_success"))
    print(f"{make('rare_success')} keeps the contract")
