"""Findings in words, shared by the terminal, the Markdown and the page."""

from __future__ import annotations

import math

from arpo_algo.report.charts import number
from benchmarks.studies.measures import MEASURES
from benchmarks.studies.run import Finding
from benchmarks.studies.verdict import Claim, Estimate

COLUMNS = ("comparison", "measure", "difference (95 %)", "these runs alone", "seeds × tasks", "claimed", "says")


def cells(finding: Finding) -> list[str]:
    """One row under :data:`COLUMNS`."""
    c, e = finding.contrast, finding.estimate
    unit = MEASURES[c.measure].unit
    spread = runs = size = "–"
    if e is not None:
        spread = value(e.mean, unit) + span(e.low, e.high, unit)
        runs = span(e.runs_low, e.runs_high, unit).strip(" ()") or "–"
        size = f"{e.seeds} × {e.tasks}" if e.tasks > 1 else f"{e.seeds}"
        if e.at_least:
            spread = f"≥ {spread}"
    return [comparison(finding), c.measure, spread, runs, size, claimed(c.claim, unit), said(finding)]


def comparison(finding: Finding) -> str:
    c = finding.contrast
    if c.arm == c.base:
        return c.arm
    return f"{c.arm} / {c.base}" if MEASURES[c.measure].unit == "ratio" else f"{c.arm} − {c.base}"


def said(finding: Finding) -> str:
    """The judgement, with its reason where the word alone does not say it, and with the seeds it is not made from."""
    j = finding.judgement
    return "; ".join(filter(None, [f"{j.word}: {j.reason}" if j.reason else j.word, left_out(finding)]))


def left_out(finding: Finding) -> str:
    """``1 seed left out: the base learned nothing``; "" where none is, or where nothing else is said anyway."""
    seeds = finding.left_out
    if not seeds or finding.estimate is None:
        return ""
    why = ", ".join(sorted(set(seeds.values())))
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} left out: {why}"


def value(x: float, unit: str) -> str:
    """A difference on the scale of estimates, in the measure's unit."""
    if unit == "ratio":
        return f"{_ratio(x)}×"
    return f"{_signed(x, unit)} points" if unit == "points" else f"{_signed(x, unit)} nats"


def span(low: float | None, high: float | None, unit: str) -> str:
    """The interval in brackets, after a blank; or nothing."""
    if low is None or high is None:
        return ""
    if unit == "ratio":
        return f" ({_ratio(low)} to {_ratio(high)})"
    return f" ({_signed(low, unit)} to {_signed(high, unit)})"


def times(x: float) -> float:
    """A ratio from its logarithm, which may be beyond all bounds when two seeds disagree."""
    return math.exp(min(x, 20.0))


def _ratio(x: float) -> str:
    return f"{times(x):.2f}" if times(x) < 100 else number(times(x))


def _signed(x: float, unit: str) -> str:
    text = f"{100 * x:+.1f}" if unit == "points" else f"{x:+.4f}"
    return text.replace("-", "−")


def claimed(claim: Claim, unit: str) -> str:
    """The claim in a few words."""
    bound = f"{100 * claim.bound:g} points" if unit == "points" else f"{claim.bound:g}"
    if claim.kind == "within":
        return f"within ±{bound}"
    worth = f", by {100 * claim.worth:g} points or more" if claim.worth else ""
    sign = ">" if claim.kind == "above" else "<"
    return f"{sign} {bound if claim.bound else '0'}{worth}"


def interval(e: Estimate) -> tuple[float | None, float | None]:
    """The interval to draw: the one that decides, else the one over tasks."""
    return (e.low, e.high) if e.low is not None else (e.runs_low, e.runs_high)
