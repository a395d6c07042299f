"""Tree-GRPO (Ji et al. 2025, "Tree search for LLM agent reinforcement learning", arXiv 2509.21240).

    sampling   N trees of one chain each; in rounds, each tree expands nodes (whole agent steps) drawn at random
    Â_i        = (r_i − mean_tree)/std_tree + (r_i − mean_prompt)/std_prompt       intra-tree + inter-tree
    L          PPO's clipped surrogate

A tree of the paper is, here, all that descends from one root rollout; the prompt's group is the forest. A tree
with one leaf has no intra-tree part. Expanding means a fork right after a tool result; a tree without one gets
no expansion, and its share goes to others (or to new root rollouts).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from arpo_algo.advantages import group_normalised, soft
from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Clipped
from arpo_algo.branching import BranchingRule, RandomResults
from arpo_algo.errors import ConfigError
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@register("tree_grpo")
@dataclass(frozen=True)
class TreeGRPO(Clipped):
    """``N``: trees a prompt; ``expansions``: nodes each tree expands in a round, until there are M leaves."""

    N: int = 8
    expansions: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expansions < 1:
            raise ConfigError(f"expansions must be >= 1, got {self.expansions}")

    @property
    def branching(self) -> BranchingRule:
        return RandomResults(per_root=self.expansions)

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        out: list[Credit] = []
        for tree in trees:
            r = self.scores(tree)
            inter = group_normalised(r)
            subtrees: dict[int, list[int]] = defaultdict(list)  # root action -> its leaves, by position
            for i, leaf in enumerate(tree.leaves()):
                subtrees[tree.path(leaf.id)[1].id].append(i)
            total = list(inter)
            for members in subtrees.values():
                for i, intra in zip(members, group_normalised([r[i] for i in members]), strict=True):
                    total[i] += intra
            out.append(soft(tree, total))
        return out
