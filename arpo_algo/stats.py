"""Honest error bars and tests: small closed forms and two resampling procedures, NumPy only.

A benchmark score is a mean over tasks of per-task values in [0, 1]; the samples of one task are alike, so the task
is the unit. Why the interval of such a mean is not a bootstrap: with ten tasks at 10 % (four samples each) the BCa
bootstrap covers the truth 87 % of the time, :func:`mean_interval` 97 % (``python -m benchmarks.coverage``). Quantities
without bounds (tokens, seconds) get the bootstrap, :func:`bootstrap_mean`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Z95 = 1.959963984540054
#: Weight of the two pseudo-tasks, one at each end of the range, that keep an estimated variance away from zero.
_PSEUDO = 0.25
#: 97.5 % points of Student's t for 1, 2 … degrees of freedom.
_T95 = (
    12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814,
    2.20099, 2.17881, 2.16037, 2.14479, 2.13145, 2.11991, 2.10982, 2.10092, 2.09302, 2.08596,
)  # fmt: skip
#: Sign patterns are enumerated up to this many tasks that differ, and drawn above it.
_EXACT = 14


def wilson(successes: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion (95 % by default). ``n`` may be an effective number.

    Raises:
        ValueError: n is not positive, or successes lie outside 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n > 0, got {successes} of {n}")
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the closed form is exactly 0 or 1, but for rounding.
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return low, high


def mean_interval(
    values: Sequence[float], *, samples: int | None = None, low: float = 0.0, high: float = 1.0
) -> tuple[float, float]:
    """95 % interval of the mean of independent values in [low, high]: Wilson's, with an effective number of tasks.

    With p the mean and v the variance, both scaled to [0, 1], n_eff = m·p(1 − p)/v (Kish's design effect, as survey
    statistics uses it: Korn & Graubard 1998; Dean & Pagano 2015). v is computed with a quarter of a pseudo-task at
    each end, so that a few alike values are not taken for certainty. For 0/1 values n_eff = m: plain Wilson.

    Args:
        values: one a task (its mean over samples, its pass@k …).
        samples: draws behind all values together, when known: n_eff is at most that.

    Raises:
        ValueError: no values, or one outside the range.
    """
    x = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    if x.size == 0 or x.min() < -1e-9 or x.max() > 1 + 1e-9:
        raise ValueError(f"need at least one value, all in [{low}, {high}], got {list(values)[:5]}…")
    m, p = x.size, min(1.0, max(0.0, float(x.mean())))
    weight = m + 2 * _PSEUDO
    centre = (float(x.sum()) + _PSEUDO) / weight
    variance = (float((x * x).sum()) + _PSEUDO) / weight - centre * centre
    n = max(m, m * centre * (1 - centre) / variance)
    if samples is not None:
        n = min(n, max(m, samples))
    bottom, top = wilson(p * n, n)
    return low + bottom * (high - low), low + top * (high - low)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Mean of b − a over the same tasks with its 95 % interval: (mean, low, high).

    Of right and wrong (each value 0 or 1) it is :func:`tango`'s: with few tasks that differ, as between two good
    models, other intervals are far too narrow. Of shares it is :func:`mean_interval` in [−1, 1]. One pair says nothing
    about the spread: its interval is all that is possible, −1 to 1.

    Raises:
        ValueError: different lengths, no pair, or values outside [0, 1].
    """
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"need two equally long lists of values, got {len(a)} and {len(b)}")
    d = [y - x for x, y in zip(a, b, strict=True)]
    if len(d) == 1:
        return d[0], -1.0, 1.0
    if all(x in (0.0, 1.0) for x in (*a, *b)):
        return sum(d) / len(d), *tango(d.count(1.0), d.count(-1.0), len(d))
    return sum(d) / len(d), *mean_interval(d, low=-1.0, high=1.0)


def tango(gained: int, lost: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval (95 % by default) of the difference of two paired proportions: Tango, Stat. Med. 17 (1998) 891.

    Of n pairs, ``gained`` are right only in the second and ``lost`` only in the first. The interval holds each δ that
    a score test does not refuse, with the share of ``lost`` estimated under δ:
    |gained − lost − nδ| ≤ z·√(n(2q + δ(1 − δ))). Exact coverage with 10 to 200 pairs of which 2 to 40 % differ: 93 %
    and more (``tests/benchmarks/test_stats.py``).

    Raises:
        ValueError: unless gained and lost are >= 0 and together at most n, and n >= 1.
    """
    if min(gained, lost) < 0 or gained + lost > n or n < 1:
        raise ValueError(f"need gained, lost >= 0, gained + lost <= n and n >= 1, got {gained}, {lost} of {n}")

    def refused(delta: float) -> bool:
        a, b, c = 2 * n, (2 * n - gained + lost) * delta - gained - lost, -lost * delta * (1 - delta)
        share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = max(0.0, n * (2 * share + delta * (1 - delta)))
        return abs(gained - lost - n * delta) > z * math.sqrt(variance)

    found = (gained - lost) / n
    ends = []
    for outside in (-1.0, 1.0):
        inside = found
        for _ in range(50 if refused(outside) else 0):  # halves the gap each time
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if refused(middle) else (middle, outside)
        ends.append(outside)
    return ends[0], ends[1]


@dataclass(frozen=True, slots=True)
class CrossedMean:
    """A mean over seeds × tasks, and what it varies with. See :func:`crossed_mean`.

    ``between_seeds``: variance of a seed's mean. ``from_tasks``: variance of the grand mean that stays, however many
    seeds there are. ``low``, ``high``: 95 %; None with one seed, which says nothing about the spread of seeds.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    between_seeds: float | None
    from_tasks: float

    def half_width(self, seeds: int) -> float | None:
        """Half of the interval's width to be expected with ``seeds`` seeds; None with one, or from one."""
        if self.between_seeds is None or seeds < 2:
            return None
        return student_t95(seeds - 1) * math.sqrt(self.between_seeds / seeds + self.from_tasks)

    def seeds_for(self, half_width: float, most: int = 10_000) -> int | None:
        """The fewest seeds whose interval is expected to be ± ``half_width``; None: more than ``most``, or unknown."""
        enough = (n for n in range(2, most + 1) if (self.half_width(n) or 0.0) <= half_width)
        return None if self.between_seeds is None else next(enough, None)


def crossed_mean(rows: Sequence[Sequence[float]]) -> CrossedMean:
    """Mean of values that vary with the seed (row) and with the task (column), as those of training runs do.

    Neither alone makes an honest interval: the runs of one seed share their training, the values of one task its
    difficulty. Two-way analysis of variance with both effects random; the interval is Student's over the seeds' means
    (which already holds a task's own noise), widened by the variance between tasks: Var = MS_seed/ST +
    max(MS_task − MS_rest, 0)/ST with S − 1 degrees of freedom. Simulated, it covers 95 % and more for 2 to 10 seeds
    (``tests/benchmarks/test_stats.py``); with one column it is Student's interval.

    Raises:
        ValueError: no rows, no columns, or rows of different lengths.
    """
    x = np.asarray(rows, dtype=np.float64) if len({len(r) for r in rows}) == 1 else np.empty((0, 0))
    if x.size == 0:
        raise ValueError(f"need rows of one length, at least one value each, got lengths {[len(r) for r in rows]}")
    s, t = x.shape
    mean, by_seed, by_task = float(x.mean()), x.mean(1), x.mean(0)
    if s == 1:
        return CrossedMean(mean, None, None, 1, None, float(by_task.var(ddof=1)) / t if t > 1 else 0.0)
    between = float(by_seed.var(ddof=1))
    tasks = 0.0
    if t > 1:
        rest = x - by_seed[:, None] - by_task[None, :] + mean
        noise = float((rest**2).sum()) / ((s - 1) * (t - 1))
        tasks = max(s * float(by_task.var(ddof=1)) - noise, 0.0) / (s * t)
    half = student_t95(s - 1) * math.sqrt(between / s + tasks)
    return CrossedMean(mean, mean - half, mean + half, s, between, tasks)


def student_t95(df: int) -> float:
    """The 97.5 % point of Student's t.

    Raises:
        ValueError: no degree of freedom.
    """
    if df < 1:
        raise ValueError(f"need at least one degree of freedom, got {df}")
    if df <= len(_T95):
        return _T95[df - 1]
    z = Z95  # Cornish-Fisher (Abramowitz & Stegun 26.7.5): within 3e-4 from here on
    return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)


def paired_permutation(a: Sequence[float], b: Sequence[float], *, draws: int = 20_000, seed: int = 0) -> float:
    """Two-sided p-value of "a and b are exchangeable within each task": signs of the differences are flipped.

    Exact when at most 14 tasks differ; else ``draws`` seeded sign patterns, p = (1 + as extreme)/(1 + draws)
    (Phipson & Smyth 2010), which is never 0.

    Raises:
        ValueError: different lengths, or no pair.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"need two equally long lists of at least one value, got {len(a)} and {len(b)}")
    d = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    d = d[np.abs(d) > 1e-12]
    if d.size == 0:
        return 1.0
    observed = abs(float(d.sum())) - 1e-9  # sums of the same numbers in another order may differ by rounding
    if d.size <= _EXACT:
        patterns = (np.arange(2**d.size)[:, None] >> np.arange(d.size)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ d) >= observed))
    rng = np.random.default_rng(seed)
    extreme = 0
    for block in range(0, draws, 1000):
        signs = rng.integers(0, 2, (min(1000, draws - block), d.size)) * 2 - 1
        extreme += int(np.sum(np.abs(signs @ d) >= observed))
    return (1 + extreme) / (1 + draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for looking at all of them (Holm 1979); an adjusted value below 0.05 is significant."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples is right) from c right among n: 1 − C(n−c, k)/C(n, k).

    Chen et al. 2021 (arXiv 2107.03374), equation 1.

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n.
    """
    _check_counts(n, c, k)
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def pass_hat_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of P(all of k samples are right), pass^k: C(c, k)/C(n, k) (τ-bench, arXiv 2406.12045).

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n.
    """
    _check_counts(n, c, k)
    return math.comb(c, k) / math.comb(n, k)


def _check_counts(n: int, c: int, k: int) -> None:
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"need 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")


def average_interval(parts: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The plain average of independent estimates (value, low, high) with its interval: MOVER (Zou & Donner 2008).

    Each side's distances add as squares, so that an interval near 0 or 1 stays as lopsided as it is.

    Raises:
        ValueError: no parts.
    """
    if not parts:
        raise ValueError("need at least one estimate to average")
    n = len(parts)
    mean = math.fsum(value for value, _, _ in parts) / n
    below = math.sqrt(math.fsum((value - low) ** 2 for value, low, _ in parts)) / n
    above = math.sqrt(math.fsum((high - value) ** 2 for value, _, high in parts)) / n
    return mean, mean - below, mean + above


def bootstrap_mean(values: Sequence[float], *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % BCa bootstrap interval of a mean of independent values of any range (Efron 1987), seeded.

    With fewer than two different values it is that value, twice: there is no spread to resample.

    Raises:
        ValueError: no values.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        raise ValueError("need at least one value")
    if float(np.ptp(x)) == 0.0:
        return float(x[0]), float(x[0])
    rng = np.random.default_rng(seed)
    block = max(1, 1_000_000 // x.size)  # bounds memory: indices of a block at a time
    means = np.concatenate(
        [x[rng.integers(0, x.size, (min(block, draws - i), x.size))].mean(1) for i in range(0, draws, block)]
    )
    normal = NormalDist()
    centred = x - x.mean()
    share = (np.sum(means < x.mean()) + 0.5 * np.sum(means == x.mean())) / draws
    bias = normal.inv_cdf(min(max(float(share), 1 / draws), 1 - 1 / draws))
    acceleration = float((centred**3).sum()) / (6 * float((centred**2).sum()) ** 1.5)
    ends = [bias + z for z in (-Z95, Z95)]
    low, high = np.quantile(means, [normal.cdf(bias + e / (1 - acceleration * e)) for e in ends])
    return float(low), float(high)
