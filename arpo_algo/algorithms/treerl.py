"""TreeRL (Hou et al. 2025, ACL, arXiv 2506.11902): entropy-guided tree search (EPTree) with process supervision.

    sampling   N chains; in rounds, each tree forks at its most surprising tokens, −ln π(y_t) largest
    V(s)       = mean reward of the leaves below segment s
    Â(s)       = [(V(s) − V(root)) + (V(s) − V(parent))] / √|leaves(s)|               global + local advantage
    L          PPO's clipped surrogate; a segment's tokens weigh Â(s) in each of its trajectories

A segment is what lies between two forks, however many turns it spans; its parent is the segment above the fork.
A surprising token is sampled anew. The √ makes up for a shared segment being seen once by each of its leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arpo_algo.advantages import actions
from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Clipped
from arpo_algo.branching import BranchingRule, Surprise
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@register("treerl")
@dataclass(frozen=True)
class TreeRL(Clipped):
    """``N``: chains to begin with; ``points``: tokens each tree forks at in a round; ``ways``: new branches a token."""

    N: int = 6
    M: int = 30
    points: int = 2
    ways: int = 2

    @property
    def branching(self) -> BranchingRule:
        return Surprise(self.points, self.ways)

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return [self._one(tree) for tree in trees]

    def _one(self, tree: Tree) -> Credit:
        count, total = tree.leaves_below(), [0.0] * len(tree.nodes)
        for leaf, reward in zip(tree.leaves(), self.scores(tree), strict=True):
            for node in tree.path(leaf.id):
                total[node.id] += reward
        value = [t / c if c else 0.0 for t, c in zip(total, count, strict=True)]

        def above(node: int) -> int:
            """The first ancestor that is shared by more leaves (the prompt where there is none)."""
            at = node
            while (up := tree.nodes[at].parent) is not None:
                at = up
                if count[at] > count[node]:
                    break
            return at

        return {
            key: ((value[n.id] - value[0]) + (value[n.id] - value[above(n.id)])) / count[n.id] ** 0.5
            for key, n in actions(tree).items()
        }
