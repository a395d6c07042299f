"""GiGPO, group-in-group policy optimisation (Feng et al. 2025, arXiv 2505.10978).

    Â_E(i)    = (r_i − mean)/std over the group                                   episode level, Eq. 3
    R_k(i)    = γ^(T_i − k)·r_i                                                   return at step k of T_i, Eq. 7
    Â_S(i,k)  = (R_k(i) − mean)/std over all steps that start in one anchor state, Eq. 7
    Â(i,k)    = Â_E(i) + ω·Â_S(i,k)                                               Eq. 8; ω = 1, γ = 0.95

An anchor state is what the agent sees when the step begins: the text of the result (or the prompt). Steps are
turns. A state met once has Â_S = 0. ``scale=False`` drops std at both levels (the paper's F_norm = 1).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from arpo_algo.advantages import actions, group_normalised
from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Clipped
from arpo_algo.errors import ConfigError
from arpo_algo.packing import Credit
from arpo_algo.tree import Node, Tree


@register("gigpo")
@dataclass(frozen=True)
class GiGPO(Clipped):
    """``omega``: weight of the step level; ``gamma``: discount a turn; ``scale``: divide by std."""

    omega: float = 1.0
    gamma: float = 0.95
    scale: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma <= 1:
            raise ConfigError(f"gamma must lie in (0, 1], got {self.gamma}")

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return [self._one(tree) for tree in trees]

    def _one(self, tree: Tree) -> Credit:
        leaves, r = tree.leaves(), self.scores(tree)
        reward = {leaf.id: x for leaf, x in zip(leaves, r, strict=True)}
        episode = {leaf.id: a for leaf, a in zip(leaves, group_normalised(r, scale=self.scale), strict=True)}
        last = {leaf.id: sum(n.kind == "action" for n in tree.path(leaf.id)) - 1 for leaf in leaves}
        at: dict[int, int] = defaultdict(int)  # turns of each trajectory so far
        anchors: dict[object, list[tuple[tuple[int, int], float]]] = defaultdict(list)
        for (leaf, node), action in actions(tree).items():
            step_return = self.gamma ** (last[leaf] - at[leaf]) * reward[leaf]
            anchors[anchor(tree, action)].append(((leaf, node), step_return))
            at[leaf] += 1
        credit: dict[tuple[int, int], float] = {}
        for steps in anchors.values():
            relative = group_normalised([value for _, value in steps], scale=self.scale)
            for (key, _), a in zip(steps, relative, strict=True):
                credit[key] = episode[key[0]] + self.omega * a
        return credit


def anchor(tree: Tree, action: Node) -> object:
    """What the agent saw when it began ``action``: the observation's text, or its tokens where there is no text."""
    above = tree.nodes[action.parent or 0]
    return (above.kind, above.text or tuple(above.tokens))
