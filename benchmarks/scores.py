"""Samples -> scores: per suite, per domain and overall, each with its 95 % interval. Pure functions of a log.

The task is the unit of every interval (samples of one task are alike). What the tasks stand for: more tasks of the
kind; so even a suite that was run whole has an interval. Void samples are left out of every score and counted; a task
without a scored sample counts as missing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from arpo_algo.stats import average_interval, bootstrap_mean, mean_interval, pass_at_k, pass_hat_k
from arpo_env.rewards.verifiers import get_verifier
from benchmarks.store import Sample


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval; ``n`` tasks stand behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float

    def of(self, sample: Sample) -> float | None:
        if sample.prompt_tokens is None or sample.completion_tokens is None:
            return None
        return (self.input * sample.prompt_tokens + self.output * sample.completion_tokens) / 1e6


@dataclass(frozen=True, slots=True)
class SuiteScore:
    """One suite of one run. ``k`` samples were asked for a task.

    ``planned`` tasks; ``scored`` samples; ``void`` samples that infrastructure spoilt; ``retried``: scored ones that
    it spoilt at first. ``pass_at``, ``pass_hat``: by number of samples. ``majority``: maj@k, None where answers cannot
    be compared. ``cost``: dollars of the scored episodes. ``means``: of a sample, with the task as the unit: tool
    calls, tokens …
    """

    name: str
    planned: int
    k: int
    scored: int
    void: int
    retried: int
    pass_at: Mapping[int, Estimate]
    pass_hat: Mapping[int, Estimate]
    majority: Estimate | None
    means: Mapping[str, Estimate]
    cost: float | None
    stop_reasons: Mapping[str, int]
    task_means: Mapping[str, float]

    @property
    def pass_1(self) -> Estimate | None:
        return self.pass_at.get(1)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def score(name: str, samples: Iterable[Sample], *, planned: int, k: int, price: Price | None = None) -> SuiteScore:
    """The scores of one suite from its samples (one row a key)."""
    rows = list(samples)
    scored = [s for s in rows if s.status == "scored"]
    by_task: dict[str, list[Sample]] = {}
    for sample in sorted(scored, key=lambda s: s.key):
        by_task.setdefault(sample.task, []).append(sample)
    counts = {task: (len(of), sum(s.success for s in of)) for task, of in by_task.items()}
    return SuiteScore(
        name,
        planned,
        k,
        len(scored),
        sum(s.status == "void" for s in rows),
        sum(bool(s.errors) for s in scored),
        _passes(counts, k, pass_at_k),
        _passes(counts, k, pass_hat_k),
        _majority(by_task, k),
        _means(by_task, price),
        _cost(scored, price),
        dict(Counter(s.stop_reason for s in scored).most_common()),
        {task: right / n for task, (n, right) in counts.items()},
    )


def sizes(k: int) -> list[int]:
    """The numbers of samples that pass@ is given for: powers of two, and k."""
    return sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k})


def _passes(
    counts: Mapping[str, tuple[int, int]], k: int, estimate: Callable[[int, int, int], float]
) -> dict[int, Estimate]:
    out = {}
    for size in sizes(k):
        usable = [(n, right) for n, right in counts.values() if n >= size]
        if usable:
            values = [estimate(n, right, size) for n, right in usable]
            out[size] = _proportion(values, samples=sum(n for n, _ in usable))
    return out


def _proportion(values: Sequence[float], samples: int) -> Estimate:
    low, high = mean_interval(values, samples=samples)
    return Estimate(math.fsum(values) / len(values), low, high, len(values))


# ---------------------------------------------------------------------- majority


def _majority(by_task: Mapping[str, Sequence[Sample]], k: int) -> Estimate | None:
    """maj@k: the share of tasks whose commonest answer is right."""
    if k < 2:
        return None
    full = [of for of in by_task.values() if len(of) >= k]
    if not full or any(not s.verifier for of in full for s in of):
        return None
    return _proportion([vote(of) for of in full], samples=len(full))


def vote(samples: Sequence[Sample]) -> float:
    """How right the commonest answer of one task is, in [0, 1].

    Answers that the task's verifier takes for one another count as one (an answer joins the first group whose first
    answer accepts it as gold). No answer is no vote; with no votes at all, 0. Of groups of one size, one is drawn: the
    value is the expectation over the draw.
    """
    groups: list[list[Sample]] = []
    for sample in samples:
        if sample.answer is None:
            continue
        for group in groups:
            if _same(sample.verifier, group[0].answer or "", sample.answer):
                group.append(sample)
                break
        else:
            groups.append([sample])
    if not groups:
        return 0.0
    most = max(len(group) for group in groups)
    winners = [sum(s.success for s in group) / most for group in groups if len(group) == most]
    return math.fsum(winners) / len(winners)


@lru_cache(maxsize=100_000)
def _same(verifier: str, first: str, second: str) -> bool:
    return first == second or get_verifier(verifier)(second, [first]).score >= 1.0


# ---------------------------------------------------------------------- what it took

#: Means of a sample, in the order of the tables.
MEASURES: Mapping[str, Callable[[Sample], float | None]] = {
    "score": lambda s: s.score,
    "tool_calls": lambda s: s.tool_calls,
    "tool_errors": lambda s: s.tool_errors,
    "turns": lambda s: s.turns,
    "format_errors": lambda s: not s.format_ok,
    "prompt_tokens": lambda s: s.prompt_tokens,
    "completion_tokens": lambda s: s.completion_tokens,
    "seconds": lambda s: s.seconds,
    "tool_seconds": lambda s: s.tool_seconds,
}


def _means(by_task: Mapping[str, Sequence[Sample]], price: Price | None) -> dict[str, Estimate]:
    measures = dict(MEASURES) | ({} if price is None else {"cost": price.of})
    out = {}
    for name, measure in measures.items():
        values = [[measure(s) for s in of] for of in by_task.values()]
        known = [[float(x) for x in of if x is not None] for of in values]
        means = [math.fsum(of) / len(of) for of in known if of]
        if means and all(len(a) == len(b) for a, b in zip(values, known, strict=True)):
            out[name] = Estimate(math.fsum(means) / len(means), *bootstrap_mean(means), len(means))
    return out


def _cost(scored: Sequence[Sample], price: Price | None) -> float | None:
    costs = [price.of(s) for s in scored] if price is not None else []
    known = [c for c in costs if c is not None]
    return math.fsum(known) if known and len(known) == len(costs) else None


def average(estimates: Iterable[Estimate | None]) -> Estimate | None:
    """The plain average over suites; None unless each has a value."""
    known = list(estimates)
    parts = [(e.value, e.low, e.high) for e in known if e is not None]
    if not parts or len(parts) < len(known):
        return None
    value, low, high = average_interval(parts)
    return Estimate(value, max(0.0, low), min(1.0, high), sum(e.n for e in known if e is not None))
