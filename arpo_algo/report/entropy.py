"""Does entropy rise after tool results? The paper's first claim, as statistics over trees.

A *segment* is what the model wrote in one turn, however many nodes it lies in: an algorithm may fork inside a turn
(TreeRL), and then an action stands below an action. Positions count its tokens from 0, either in the first turn (the
start of a trajectory) or in a turn right after a tool result.

Segments that were FORKED, and all that follows them, are left out: entropy chose where forks are made, so they
would count uncertain places twice and bias the rise upwards. What is left are the trajectories that would have been
sampled without any forking. Trees, not tokens, make the intervals: segments of one tree answer one question and are
not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arpo_algo.stats import student_t95
from arpo_algo.tree import Node, Tree

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over ``n`` segments or trajectories, with its 95 % interval over trees; None where one tree makes none."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Rise:
    """Mean token entropy (nats) of the first ``k`` tokens, start against after a tool result.

    Over the ``trajectories`` that called a tool at least once: ``start`` averages their first turns, ``after``
    their turns after a tool result, ``difference`` is after − start, paired by trajectory. Intervals: Student's t.
    """

    k: int
    trees: int
    trajectories: int
    segments: int
    start: Estimate
    after: Estimate
    difference: Estimate
    share_rising: float


@dataclass(frozen=True, slots=True)
class EntropyProfile:
    """``start[i]`` and ``after[i]``: entropy of the i-th token. ``rise`` is None when no trajectory called a tool."""

    trees: int
    start: tuple[Estimate, ...]
    after: tuple[Estimate, ...]
    rise: Rise | None


@dataclass(frozen=True, slots=True)
class Windows:
    """Mean entropy (nats a token) of windows of k tokens along one trajectory; None where there is no such window.

    ``start``: the first k tokens of the first turn. ``after``: the first k of each turn after a tool result.
    ``before``: the last k of each turn that ends in a call, the same distance from the result on its other side.
    ``fade``: the first k less the next k, over the turns after a result that have 2k.
    """

    start: float | None
    after: float | None
    before: float | None
    fade: float | None


def turn_windows(tree: Tree, k: int) -> list[Windows]:
    """One a root rollout, forked siblings left out; turns without finite entropies are passed over."""
    return [_windows(chain, k) for chain in _unforked(tree)]


def entropy_profile(
    trees: Sequence[Tree], *, k: int = 20, positions: int = 64, resamples: int = 1000, seed: int = 0
) -> EntropyProfile:
    """Mean token entropy by position, and the rise after tool results.

    Args:
        trees: any; turns without entropies, or with one that is not finite, are passed over.
        k: tokens that the rise averages over (shorter turns: all they have). positions: how many are profiled.
        resamples, seed: of the bootstrap over trees (percentile, 2.5 % to 97.5 %) behind the bands by position.
    """
    if k < 1 or positions < 1 or resamples < 1:
        raise ValueError(f"k, positions and resamples must be >= 1, got {k}, {positions}, {resamples}")
    weights = _bootstrap_weights(len(trees), resamples, seed)
    starts: list[list[list[float]]] = []
    afters: list[list[list[float]]] = []
    pairs: list[list[tuple[float, float]]] = []
    segments = 0
    for tree in trees:
        first, later, paired = [], [], []
        for chain in _unforked(tree):
            head, tail = chain[0], [turn for turn in chain[1:] if turn]
            if head:
                first.append(head[:positions])
            later += [turn[:positions] for turn in tail]
            found = _windows(chain, k)
            if found.start is not None and found.after is not None:
                segments += len(tail)
                paired.append((found.start, found.after))
        starts.append(first)
        afters.append(later)
        pairs.append(paired)
    rise = None
    if any(pairs):
        start = _over_trees([[a for a, _ in paired] for paired in pairs], least=0.0)
        after = _over_trees([[b for _, b in paired] for paired in pairs], least=0.0)
        difference = _over_trees([[b - a for a, b in paired] for paired in pairs])
        flat = [b > a for paired in pairs for a, b in paired]
        rise = Rise(k, sum(map(bool, pairs)), len(flat), segments, start, after, difference, sum(flat) / len(flat))
    return EntropyProfile(
        len(trees), _estimates(starts, positions, weights), _estimates(afters, positions, weights), rise
    )


#: Token entropies of one turn; None where they were not saved, or one is not finite.
_Turn = list[float] | None


def _unforked(tree: Tree) -> list[list[_Turn]]:
    """Each root rollout's turns, first to last, never stepping into a forked sibling."""
    chains = []
    for child in tree.nodes[0].children:
        chain: list[list[Node]] = []
        at = tree.nodes[child]
        if at.fork_of is not None:
            continue
        while True:
            if at.kind == "action":
                if chain and at.parent == chain[-1][-1].id:
                    chain[-1].append(at)  # the turn goes on
                else:
                    chain.append([at])
            onward = [tree.nodes[c] for c in at.children if tree.nodes[c].fork_of is None]
            if not onward:
                break
            at = onward[0]
        if chain:
            chains.append([_turn(nodes) for nodes in chain])
    return chains


def _turn(nodes: Sequence[Node]) -> _Turn:
    entropies = [h for node in nodes for h in node.entropies]
    known = all(len(node.entropies) == len(node.tokens) for node in nodes) and all(map(math.isfinite, entropies))
    return entropies if known and entropies else None


def _windows(chain: Sequence[_Turn], k: int) -> Windows:
    head, tail = chain[0], [turn for turn in chain[1:] if turn]
    calls = [turn for turn in chain[:-1] if turn]
    fades = [_mean(e[:k]) - _mean(e[k : 2 * k]) for e in tail if len(e) >= 2 * k]

    def mean(windows: Sequence[Sequence[float]]) -> float | None:
        return _mean([_mean(w) for w in windows]) if windows else None

    return Windows(
        start=mean([head[:k]] if head else []),
        after=mean([e[:k] for e in tail]),
        before=mean([e[-k:] for e in calls]),
        fade=_mean(fades) if fades else None,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _over_trees(values: Sequence[Sequence[float]], *, least: float = -math.inf) -> Estimate:
    """Mean of all values with Student's interval over trees, cut off at ``least``. ``values[t]`` are tree t's.

    The standard error is the jackknife's: the mean without each tree in turn. A percentile bootstrap of a few trees is
    far too narrow: of two it is the two trees' own values, which miss the truth every second time.
    """
    own = [v for v in values if v]
    sums, counts = np.array([math.fsum(v) for v in own]), np.array([len(v) for v in own])
    mean, n, trees = float(sums.sum() / counts.sum()), int(counts.sum()), len(own)
    if trees < 2:
        return Estimate(mean, None, None, n)
    without = (sums.sum() - sums) / (n - counts)
    error = math.sqrt((trees - 1) / trees * float(((without - mean) ** 2).sum()))
    half = student_t95(trees - 1) * error
    return Estimate(mean, max(least, mean - half), mean + half, n)


def _bootstrap_weights(n: int, resamples: int, seed: int) -> Floats | None:
    """[resamples, n]: how often each of n trees is drawn. None when an interval makes no sense."""
    if n < 2:
        return None
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    return rng.multinomial(n, [1.0 / n] * n, size=resamples).astype(np.float64)


def _estimates(trees: list[list[list[float]]], positions: int, weights: Floats | None) -> tuple[Estimate, ...]:
    """Per position, the mean over all segments that reach it. ``trees[t][s]`` are the values of a segment."""
    total, count = np.zeros((len(trees), positions)), np.zeros((len(trees), positions))
    for t, segments in enumerate(trees):
        for values in segments:
            total[t, : len(values)] += values
            count[t, : len(values)] += 1
    out = []
    for i in range(positions):
        n = int(count[:, i].sum())
        if n == 0:
            break
        low = high = None
        if weights is not None and (count[:, i] > 0).sum() > 1:
            drawn = weights @ count[:, i]
            sums = (weights @ total[:, i])[drawn > 0]
            low, high = (float(q) for q in np.percentile(sums / drawn[drawn > 0], (2.5, 97.5)))
        out.append(Estimate(float(total[:, i].sum() / n), low, high, n))
    return tuple(out)
