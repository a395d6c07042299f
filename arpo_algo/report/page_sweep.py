"""A sweep as one page: held-out success by algorithm, differences from the first, learning against what was spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TypeVar

from arpo_algo.report import charts
from arpo_algo.report.charts import Interval, Series, percent, points
from arpo_algo.report.document import asset, document, scrolled
from arpo_algo.runfolder import write_atomic
from arpo_algo.stats import mean_interval
from arpo_algo.sweep import AXES, SweepRow, differences

_POINTS = 60  # of a curve that is the mean of several seeds
_LINES = 5  # of a drawing, at most

T = TypeVar("T")


def build_sweep_page(rows: Sequence[SweepRow], out: Path) -> Path:
    """Write ``comparison.html`` into the sweep's folder; returns its path."""
    seeds = sorted({r.seed for r in rows})
    page = document(
        "Sweep " + out.resolve().name,
        facts=[
            ("algorithms", ", ".join(dict.fromkeys(r.label for r in rows))),
            ("seeds", ", ".join(map(str, seeds))),
            ("held-out tasks", str(len(rows[0].final.per_task))),
        ],
        sections=[results_section(rows), curves_section(rows)],
        payload={},
        script=asset("page.js"),
    )
    path = out / "comparison.html"
    write_atomic(path, page.encode("utf-8", "backslashreplace"))
    return path


def pooled(rows: Sequence[SweepRow]) -> tuple[float, float, float]:
    """Mean success of an algorithm's runs with a 95 % interval over tasks (a task's seeds averaged first)."""
    tasks = sorted({t for r in rows for t in r.final.per_task})
    means = []
    for task in tasks:
        seen = [r.final.per_task[task] for r in rows if task in r.final.per_task]
        means.append(math.fsum(seen) / len(seen))
    low, high = mean_interval(means, samples=sum(len(r.final.per_task) for r in rows))
    return math.fsum(means) / len(means), low, high


def _of(rows: Sequence[SweepRow]) -> dict[str, list[SweepRow]]:
    return {label: [r for r in rows if r.label == label] for label in dict.fromkeys(r.label for r in rows)}


def results_section(rows: Sequence[SweepRow], *, compare: bool = True) -> str:
    """Held-out success by algorithm as table and drawing; where ``compare``, differences from the first too."""
    table, dots = [], []
    for i, (label, own) in enumerate(_of(rows).items()):
        value, low, high = pooled(own)
        dots.append(Interval(label, value, low, high, i))
        cells = [
            f'{percent(value)} <span class="ci">({percent(low)} to {percent(high)})</span>',
            ", ".join(percent(r.final.success) for r in own),
            *(charts.number(math.fsum(r.spent[axis][-1] for r in own if r.spent[axis]) / len(own)) for axis in AXES),
            charts.number(math.fsum(r.forks for r in own) / len(own)),
        ]
        table.append(f"<tr><th>{escape(label)}</th>{''.join(f'<td>{c}</td>' for c in cells)}</tr>")
    head = "".join(
        f"<th>{t}</th>" for t in ("", "success (95 % CI)", "by seed", *(f"{a} spent" for a in AXES), "forks")
    )
    chart = charts.dot_interval(
        "Success on held-out tasks, 95 % interval over tasks",
        dots,
        x_label="share solved",
        fmt=percent,
        x_from=0,
        x_to=1,
    )
    change = ""
    if compare and len(dots) > 1:
        change = charts.dot_interval(
            f"Difference from {rows[0].label}, same tasks and seeds",
            [Interval(d["label"], d["difference"], d["low"], d["high"], i) for i, d in enumerate(differences(rows), 1)],
            x_label="percentage points",
            fmt=points,
            zero=True,
        )
    note = (
        "Intervals are over tasks; with few seeds the spread between seeds is seen in the column, not in the interval."
    )
    whole = scrolled(f"<table><tr>{head}</tr>{''.join(table)}</table>", "Held-out results")
    return (
        f'<section id="results"><h2>Held-out results</h2>{whole}<p class="note">{note}</p>'
        f'<div class="charts">{chart}{change}</div></section>'
    )


def curves_section(rows: Sequence[SweepRow]) -> str:
    """Success in training against each of :data:`~arpo_algo.sweep.AXES`."""
    figures = [
        charts.line_chart(
            f"Success in training against {axis}",
            [_curve(label, own, axis, i) for i, (label, own) in enumerate(together)],
            x_label=f"{axis} spent",
            fmt=percent,
            y_from=0.0,
            y_to=1.0,
            x_word=axis,
        )
        for together in _groups(list(_of(rows).items()))
        for axis in AXES
    ]
    note = (
        "Means over seeds of a running mean of three steps; the band is the range of seeds. All algorithms of a seed "
        "meet the same prompts in the same order: ups and downs they share are the prompts'."
    )
    drawn = f'<p class="note">{note}</p><div class="charts">{"".join(figures)}</div>'
    return f'<section id="curves"><h2>Learning at equal spending</h2>{drawn}</section>'


def _groups(entrants: Sequence[T]) -> list[list[T]]:
    """As many as can be told apart in one drawing, the first in each, to compare with."""
    first, others = entrants[0], entrants[1:]
    parts = math.ceil(len(others) / (_LINES - 1)) or 1
    size = math.ceil(len(others) / parts)
    return [[first, *others[i * size : (i + 1) * size]] for i in range(parts)]


def _curve(label: str, rows: Sequence[SweepRow], axis: str, colour: int) -> Series:
    """Every seed's running mean, read at common points of what was spent."""
    runs = [(r.spent[axis], charts.moving_mean(r.success, 3)) for r in rows if r.success]
    if not runs:
        return Series(label, (), (), colour=colour)
    end = min(spent[-1] for spent, _ in runs)
    start = max(spent[0] for spent, _ in runs)
    n = min(_POINTS, max(len(spent) for spent, _ in runs))
    xs = [start + (end - start) * i / max(n - 1, 1) for i in range(n)]
    at = [[_read(spent, values, x) for spent, values in runs] for x in xs]
    mean = [math.fsum(v) / len(v) for v in at]
    band = len(runs) > 1
    return Series(
        label, xs, mean, [min(v) for v in at] if band else (), [max(v) for v in at] if band else (), colour=colour
    )


def _read(spent: Sequence[float], values: Sequence[float | None], x: float) -> float:
    """The value at the last step that had spent at most ``x`` (the first step's, before it)."""
    i = max((i for i, s in enumerate(spent) if s <= x + 1e-9), default=0)
    value = values[i]
    assert value is not None
    return value
