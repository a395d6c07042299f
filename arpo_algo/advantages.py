"""From rewards to what each trajectory's tokens weigh: pure functions, one a formula.

Every function takes a tree (one prompt's group) and returns a :data:`~arpo_algo.packing.Credit`. A group whose
rewards are all equal gets zeros, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.packing import Credit
from arpo_algo.tree import Node, Tree

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


def no_signal(values: Sequence[float]) -> bool:
    """Whether a group says nothing: one value, or all equal. Their mean may differ from them in its last bit, and what
    is left of equal rewards must be zeros, or the group is computed and steps the optimiser for nothing."""
    return len(values) < 2 or min(values) == max(values)


def group_normalised(values: Sequence[float], *, scale: bool = True) -> list[float]:
    """Â_i = (r_i − mean) / (std + ε) over the group (GRPO, Eq. 3); without the division if not ``scale``.

    std is the sample standard deviation, as in the released code; zeros when all values are equal.
    """
    n = len(values)
    if no_signal(values):
        return [0.0] * n
    mean = sum(values) / n
    centred = [v - mean for v in values]
    if not scale:
        return centred
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


def leave_one_out(values: Sequence[float]) -> list[float]:
    """Â_i = r_i − mean of the others = G/(G−1)·(r_i − mean)  (RLOO, Ahmadian et al. 2024, arXiv 2402.14740, Eq. 8)."""
    n = len(values)
    if no_signal(values):
        return [0.0] * n
    mean = sum(values) / n
    return [n / (n - 1) * (v - mean) for v in values]


def actions(tree: Tree) -> dict[tuple[int, int], Node]:
    """(leaf, action node) -> node, trajectory by trajectory: the keys of a credit."""
    return {(leaf.id, n.id): n for leaf in tree.leaves() for n in tree.path(leaf.id) if n.kind == "action"}


def misfit(trees: Sequence[Tree], credits: Sequence[Credit]) -> str | None:
    """What is wrong with the shape of ``credits``, one a tree, and how to mend it; None: they fit the trees."""
    if len(credits) != len(trees):
        return f"advantages() gave {len(credits)} credits for {len(trees)} trees; give one a tree, in order"
    for tree, credit in zip(trees, credits, strict=True):
        nodes = actions(tree)
        if credit.keys() != nodes.keys():
            extra, lacking = len(credit.keys() - nodes.keys()), len(nodes.keys() - credit.keys())
            return (
                "a credit's keys must be every (leaf id, action node id) of every trajectory and no other node: "
                f"{extra} are not actions on that leaf's path and {lacking} are missing; "
                "arpo_algo.advantages.actions(tree) lists them"
            )
        for key, node in nodes.items():
            given, wanted = credit[key], len(node.tokens)
            if len(given) != wanted if isinstance(given, Sequence) else getattr(given, "ndim", 0):
                kind = f"{type(given).__name__} of {len(given)}"  # type: ignore[arg-type]
                return f"credit {key} must be one number, or a list of one a token ({wanted}), got a {kind}"
    return None


def whitened(trees: Sequence[Tree], credits: Sequence[Credit]) -> list[Credit]:
    """(A − mean)/std over all loss terms of the batch, every token of every trajectory once.

    The sample variance, as in REINFORCE++'s code. Zeros when all are equal.
    """
    nodes = [actions(tree) for tree in trees]
    flat = [x for own, credit in zip(nodes, credits, strict=True) for k, n in own.items() for x in spread(credit[k], n)]
    count = len(flat)
    mean = sum(flat) / max(count, 1)
    std = math.sqrt(sum((x - mean) ** 2 for x in flat) / max(count - 1, 1))

    def white(a: float | Sequence[float]) -> float | list[float]:
        if isinstance(a, Sequence):
            return [white_one(x) for x in a]
        return white_one(a)

    def white_one(x: float) -> float:
        return (x - mean) / (std + EPS) if std > EPS else 0.0

    return [{key: white(a) for key, a in credit.items()} for credit in credits]


def spread(advantage: float | Sequence[float], node: Node) -> list[float]:
    """One number a token of ``node``."""
    return list(advantage) if isinstance(advantage, Sequence) else [advantage] * len(node.tokens)


def kl_of(node: Node, estimator: Literal["k1", "k2", "k3"]) -> list[float]:
    """Estimates of KL(π ‖ π_ref) at each token of an action, from the sampled token alone (Schulman 2020).

    With d = ln π − ln π_ref:  k1 = d,  k2 = d²/2,  k3 = e^(−d) − 1 + d.  π is the policy that sampled.

    Raises:
        TrainingError: the node has no reference log-probs.
    """
    if len(node.ref_logprobs) != len(node.tokens):
        raise TrainingError(f"node {node.id} has no reference log-probs; Learner.annotate writes them")
    d = [p - q for p, q in zip(node.logprobs, node.ref_logprobs, strict=True)]
    if estimator == "k1":
        return d
    if estimator == "k2":
        return [x * x / 2 for x in d]
    return [math.exp(-x) - 1 + x for x in d]


def term_weights(
    trees: Sequence[Tree],
    aggregation: Literal["token", "sequence", "fixed"],
    *,
    shared_once: bool = False,
    length: int | None = None,
) -> list[dict[tuple[int, int], float]]:
    """What each loss term weighs, so that the weighted sum over a mini-batch is the mean wanted.

    ``token``: 1 / (terms of the mini-batch). ``sequence``: (1/G)·(1/|y_i|), G the trajectories of the mini-batch.
    ``fixed``: (1/G)·(1/``length``), a constant instead of |y_i| (Dr. GRPO); these do not sum to 1.
    ``shared_once`` multiplies by 1/d: a prefix shared by d trajectories counts once, not d times.

    Raises:
        ConfigError: ``fixed`` without a length.
    """
    if aggregation == "fixed" and not length:
        raise ConfigError(f"aggregation='fixed' divides by a constant length >= 1, got length={length}")
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
            divisor = {"token": 1.0, "sequence": leaves * mass, "fixed": leaves * float(length or 1)}[aggregation]
            for n in path:
                weights[leaf.id, n.id] = share[n.id] / divisor
        raw.append(weights)
    if aggregation == "token":
        raw = [{key: w / total for key, w in weights.items()} for weights in raw]
    return raw
