"""From an interval to a word: supports, contradicts, cannot tell. Pure functions on numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from arpo_algo.stats import CrossedMean, bootstrap_mean, crossed_mean, mean_interval

Word = Literal["supports", "contradicts", "cannot tell"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a difference should be, in the measure's own unit.

    ``above``, ``below``: on that side of ``bound``. ``within``: in ±``bound``. ``worth``: the smallest effect beyond
    the bound that would matter; an interval that leaves no room for it contradicts the claim on whichever side it lies.

    Raises:
        ValueError: a negative ``worth``, or ``within`` without a positive bound.
    """

    kind: Literal["above", "below", "within"]
    bound: float = 0.0
    worth: float = 0.0

    def __post_init__(self) -> None:
        if self.worth < 0 or (self.kind == "within" and not self.bound > 0):
            raise ValueError(f"need worth >= 0, and a positive bound for 'within'; got {self}")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean difference, on a scale where differences add: of ratios, their logarithm (``ratio``).

    ``low``, ``high``: the 95 % interval that verdicts are made from; it counts seeds and tasks. ``runs_low``,
    ``runs_high``: over tasks alone, what is known of *these* trained models. None where there is no such interval.
    ``at_least``: in some seeds the arm never got there, so that the true value is larger.
    """

    crossed: CrossedMean
    low: float | None
    high: float | None
    runs_low: float | None
    runs_high: float | None
    tasks: int
    ratio: bool = False
    at_least: bool = False

    @property
    def mean(self) -> float:
        return self.crossed.mean

    @property
    def seeds(self) -> int:
        return self.crossed.seeds

    def scale(self, value: float) -> float:
        """A bound in the measure's unit, on the scale of this estimate."""
        return math.log(value) if self.ratio else value


def estimate(
    by_seed: Mapping[int, Mapping[str, float]],
    *,
    bounded: bool = False,
    ratio: bool = False,
    one_model: bool = False,
    at_least: bool = False,
) -> Estimate | None:
    """Differences by seed and task (or one a seed, under any one name) -> their mean with its interval.

    Tasks that some seed lacks are left out. The interval is :func:`~arpo_algo.stats.crossed_mean`'s, and never narrower
    than the one over tasks.

    Args:
        bounded: each difference lies in [−1, 1] (shares): the interval over tasks is
            :func:`~arpo_algo.stats.mean_interval`, the sweep's; else a bootstrap.
        one_model: with one seed, take the interval over tasks: the claim is about what a model does, and not about
            what training makes of it.

    Returns None when no task is left.
    """
    seeds = sorted(by_seed)
    tasks = sorted(set.intersection(*(set(by_seed[s]) for s in seeds))) if seeds else []
    if not tasks:
        return None
    crossed = crossed_mean([[by_seed[s][t] for t in tasks] for s in seeds])
    runs_low = runs_high = None
    if len(tasks) > 1:
        means = [math.fsum(by_seed[s][t] for s in seeds) / len(seeds) for t in tasks]
        runs_low, runs_high = mean_interval(means, low=-1.0, high=1.0) if bounded else bootstrap_mean(means)
    low, high = crossed.low, crossed.high
    if low is None or high is None:
        low, high = (runs_low, runs_high) if one_model else (None, None)
    elif runs_low is not None and runs_high is not None:
        low, high = min(low, runs_low), max(high, runs_high)
    return Estimate(crossed, low, high, runs_low, runs_high, len(tasks), ratio, at_least)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict. ``reason``: where the interval's side does not say it. ``seeds_needed``: how many would about decide,
    if the mean stayed as it is.
    """

    word: Word
    reason: str = ""
    seeds_needed: int | None = None


def judge(claim: Claim, found: Estimate | None) -> Judgement:
    """What an estimate says about a claim."""
    if found is None:
        return Judgement("cannot tell", "no runs to compare")
    if found.low is None or found.high is None:
        return Judgement("cannot tell", "one seed shows no spread between seeds; 2 at least", 2)
    bound, worth = found.scale(claim.bound), claim.worth
    if claim.kind == "within":
        if -bound < found.low and found.high < bound:
            return Judgement("supports")
        if found.low > bound or found.high < -bound:
            return Judgement("contradicts")
        return _cannot_tell(found, abs(bound - abs(found.mean)))
    # "below" is "above" seen in a mirror.
    sign = 1 if claim.kind == "above" else -1
    low, high = sorted((sign * (found.low - bound), sign * (found.high - bound)))
    if high < 0:
        return Judgement("contradicts")
    if high < worth:
        return Judgement("contradicts", "there is no room for an effect that would matter")
    mean = sign * (found.mean - bound)
    never = found.at_least and claim.kind == "below"  # then only a contradiction can come of it
    if never and (low > 0 or mean >= worth):
        return Judgement("cannot tell", "in some seeds the level was never reached, so the ratio is larger")
    if low > 0:
        return Judgement("supports")
    # The interval decides once it ends below what is worth having, or begins above the bound: the nearer is enough.
    return _cannot_tell(found, worth - mean if never else max(mean, worth - mean))


def _cannot_tell(found: Estimate, half_width: float) -> Judgement:
    """``half_width``: of an interval that would decide, just not."""
    if found.crossed.between_seeds is None:
        return Judgement("cannot tell", "the interval of one model is too wide; more tasks would narrow it")
    needed = found.crossed.seeds_for(half_width * (1 - 1e-9) - 1e-12)  # strictly narrower
    if needed is None:
        return Judgement("cannot tell", "no number of seeds would do with so few tasks, or so small a difference")
    needed = max(needed, found.seeds + 1)
    return Judgement("cannot tell", f"about {needed} seeds would be needed", needed)


def overall(decisive: Sequence[Judgement]) -> Word:
    """A study's verdict: one contradiction is enough, support must be unanimous.

    Raises:
        ValueError: nothing is decisive.
    """
    if not decisive:
        raise ValueError("a study needs a decisive contrast")
    words = {j.word for j in decisive}
    if "contradicts" in words:
        return "contradicts"
    return "supports" if words == {"supports"} else "cannot tell"
