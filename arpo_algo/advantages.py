"""From rewards to what each trajectory's tokens weigh: pure functions, one a formula.

Every function takes a tree (one prompt's group) and returns a :data:`~arpo_algo.packing.Credit`. A group whose
rewards are all equal gets zeros, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from arpo_algo.errors import TrainingError
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree

EPS = 1e-6


def rewards(tree: Tree) -> list[float]:
    """The leaves' rewards, in leaf order.

    Raises:
        TrainingError: a reward is not finite.
    """
    out = [leaf.outcome.reward for leaf in tree.leaves() if leaf.outcome is not None]
    bad = [r for r in out if not math.isfinite(r)]
    if bad:
        raise TrainingError(f"task {tree.task_id} has a reward of {bad[0]}; check its verifier and wrappers")
    return out


def group_normalised(values: Sequence[float], *, scale: bool = True) -> list[float]:
    """Â_i = (r_i − mean) / (std + ε) over the group (GRPO, Eq. 3); without the division if not ``scale``.

    std is the sample standard deviation, as in the released code; zeros when all values are equal.
    """
    n = len(values)
    mean = sum(values) / max(n, 1)
    centred = [v - mean for v in values]
    if not scale or n < 2:
        return centred if n > 1 else [0.0] * n
    std = math.sqrt(sum(c * c for c in centred) / (n - 1))
    return [c / (std + EPS) for c in centred] if std > EPS else [0.0] * n


def soft(tree: Tree, per_leaf: Sequence[float]) -> Credit:
    """ARPO's soft attribution (its default): every token of trajectory i weighs Â_i.

    Trajectories that share a prefix have equal ratios on it, so a shared token sees the sum over its leaves.
    """
    return {
        (leaf.id, node.id): a
        for leaf, a in zip(tree.leaves(), per_leaf, strict=True)
        for node in tree.path(leaf.id)
        if node.kind == "action"
    }


def hard(tree: Tree, per_leaf: Sequence[float]) -> Credit:
    """ARPO's hard attribution: a segment shared by d trajectories weighs (1/d)·Σ Â_i, an own one Â_i."""
    total = [0.0] * len(tree.nodes)
    count = tree.leaves_below()
    paths = [[n for n in tree.path(leaf.id) if n.kind == "action"] for leaf in tree.leaves()]
    for path, a in zip(paths, per_leaf, strict=True):
        for node in path:
            total[node.id] += a
    return {(path[-1].id, node.id): total[node.id] / count[node.id] for path in paths for node in path}


def term_weights(
    trees: Sequence[Tree], aggregation: Literal["token", "sequence"], *, shared_once: bool = False
) -> list[dict[tuple[int, int], float]]:
    """What each loss term weighs, so that the weighted sum over a mini-batch is the mean wanted.

    ``token``: 1 / (terms of the mini-batch). ``sequence``: (1/G)·(1/|y_i|), G the trajectories of the mini-batch.
    ``shared_once`` multiplies by 1/d: a prefix shared by d trajectories counts once, not d times.
    """
    leaves = sum(len(t.leaves()) for t in trees)
    raw: list[dict[tuple[int, int], float]] = []
    total = 0.0
    for tree in trees:
        count = tree.leaves_below()
        weights: dict[tuple[int, int], float] = {}
        for leaf in tree.leaves():
            path = [n for n in tree.path(leaf.id) if n.kind == "action"]
            share = {n.id: 1.0 / count[n.id] if shared_once else 1.0 for n in path}
            mass = sum(share[n.id] * len(n.tokens) for n in path)
            total += mass
            for n in path:
                weights[leaf.id, n.id] = share[n.id] / (leaves * mass) if aggregation == "sequence" else share[n.id]
        raw.append(weights)
    if aggregation == "token":
        raw = [{key: w / total for key, w in weights.items()} for weights in raw]
    return raw
