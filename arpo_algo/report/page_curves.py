"""The page's learning curves: small multiples, grouped by the question they answer; unknown metrics too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from arpo_algo.report import charts, words
from arpo_algo.report.charts import Series, number, percent
from arpo_algo.report.data import EvalRow, MetricRow, RunData


@dataclass(frozen=True, slots=True)
class _Panel:
    """One small chart: which metrics it shares an axis among, and what the axis must hold."""

    title: str
    metrics: tuple[tuple[str, str], ...]
    y_from: float | None = None
    y_to: float | None = None
    fmt: charts.Format = number
    smooth: bool = False


def _one(metric: str, title: str, **options: Any) -> _Panel:
    return _Panel(title, ((metric, ""),), **options)


_GROUPS: tuple[tuple[str, tuple[_Panel, ...]], ...] = (
    (
        "What the policy learnt",
        (
            _one("reward", "Reward, mean of the step", smooth=True),
            _one("success", "Success on training tasks", y_from=0.0, y_to=1.0, fmt=percent, smooth=True),
            _one("format_errors", "Format errors", y_from=0.0),
            _one("tool_calls", "Tool calls a trajectory", y_from=0.0),
            _one("turns", "Turns a trajectory", y_from=0.0),
        ),
    ),
    (
        "How it explored",
        (
            _one("entropy", "Token entropy, nats", y_from=0.0),
            _one("forks", "Forks", y_from=0.0),
            _one("tool_calls_made", "Tool calls really made (a shared call counts once)", y_from=0.0),
        ),
    ),
    (
        "The update",
        (
            _one("loss", "Loss"),
            _one("grad_norm", "Gradient norm before clipping", y_from=0.0),
            _one("clip_fraction", "Clipped terms", y_from=0.0, fmt=percent),
            _one("policy_kl", "KL to the policy before the update", y_from=0.0),
            _one("rollout_kl", "KL between engine and trainer", y_from=0.0),
        ),
    ),
    (
        "What it cost",
        (
            _Panel(
                "Tokens of a step",
                (("tokens_unique", "unique (computed)"), ("tokens_flat", "laid out flat")),
                y_from=0.0,
            ),
            _Panel(
                "Seconds of a step",
                (("seconds_rollout", "rollout"), ("seconds_update", "update"), ("seconds_tools", "tools")),
                y_from=0.0,
            ),
        ),
    ),
)
_SFT = (
    _one("loss", "Loss of the cold start"),
    _one("grad_norm", "Gradient norm", y_from=0.0),
    _one("seconds", "Seconds of a step", y_from=0.0),
)


def curves(data: RunData) -> str:
    parts = ['<section id="curves"><h2>Learning curves</h2>']
    train = data.phase("train")
    if not train:
        parts.append('<p class="empty">No training step has been written yet (metrics.jsonl).</p>')
    else:
        parts.append(_coverage(train))
    drawn: set[str] = set()
    for title, panels in _GROUPS:
        figures = [_panel(p, train) for p in panels]
        drawn |= {name for p in panels for name, _ in p.metrics}
        if title == _GROUPS[0][0]:
            figures.insert(0, _held_out(data.evals))
        parts.append(_group(title, figures))
    parts.append(_group("Other metrics", _unknown(train, drawn)))
    sft = data.phase("sft")
    shown = {name for p in _SFT for name, _ in p.metrics}
    parts.append(_group("Cold start", [*(_panel(p, sft) for p in _SFT), *_unknown(sft, shown)]))
    for phase in sorted({row.phase for row in data.metrics} - {"train", "sft"}):
        parts.append(_group(f"Phase {phase}", _unknown(data.phase(phase), set())))
    return "".join([*parts, "</section>"])


def _group(title: str, figures: Sequence[str]) -> str:
    body = "".join(figures)
    return f'<h3>{escape(title)}</h3><div class="charts">{body}</div>' if body else ""


def _unknown(rows: Sequence[MetricRow], known: set[str]) -> list[str]:
    names = sorted({name for row in rows for name in row.values} - known)
    return [_panel(_one(name, name.replace("_", " "), y_from=_floor(name, rows)), rows) for name in names]


def _floor(name: str, rows: Sequence[MetricRow]) -> float | None:
    """Where an unknown metric's axis begins: at 0 unless it has been below."""
    return None if any(row.values.get(name, 0.0) < 0 for row in rows) else 0.0


def _panel(panel: _Panel, rows: Sequence[MetricRow]) -> str:
    """A figure, or nothing when no row has any of the panel's metrics."""
    series, notes = [], []
    for colour, (metric, name) in enumerate(panel.metrics):
        found = [(float(r.step), r.values[metric]) for r in rows if metric in r.values]
        if not found:
            continue
        bad = sum(not math.isfinite(y) for _, y in found)
        if bad:
            notes.append(f"{bad} value{'s' if bad > 1 else ''} not finite, left out")
        ys: list[float | None] = [y if math.isfinite(y) else None for _, y in found]
        window = max(3, len(found) // 10)
        smooth = panel.smooth and len(found) >= 6
        x, y = charts.binned([x for x, _ in found], ys)
        if len(x) < len(found):
            notes.append(f"{len(found)} steps, drawn as means of {math.ceil(len(found) / charts.MAX_POINTS)}")
        if smooth:
            notes.append(f"smoothed: mean of the last {window} steps")
            series.append(Series("each step", x, y, colour=colour, faint=True))
            x, y = charts.binned([x for x, _ in found], charts.moving_mean(ys, window))
        series.append(Series("smoothed" if smooth else name, x, y, colour=colour))
    if not series:
        return ""
    return charts.line_chart(
        panel.title,
        series,
        x_label="step",
        note="; ".join(dict.fromkeys(notes)),
        fmt=panel.fmt,
        y_from=panel.y_from,
        y_to=panel.y_to,
    )


def _held_out(evals: Sequence[EvalRow]) -> str:
    """Held-out success over steps, when it was evaluated on the way."""
    rows = _on_the_way(evals)
    if not rows:
        return ""
    series = Series(
        "",
        [float(r.step) for r in rows],
        [r.success for r in rows],
        [r.success_low for r in rows],
        [r.success_high for r in rows],
        colour=2,
        notes=[f"{r.name}, n={r.n}" for r in rows],
    )
    return charts.line_chart("Held-out success, 95 % band", [series], x_label="step", fmt=percent, y_from=0.0, y_to=1.0)


def _on_the_way(evals: Sequence[EvalRow]) -> list[EvalRow]:
    """One row a step: the start of RL, what the trainer calls ``step 50``, ``step 100`` …, and the end.

    Else the rows of the last name that was written more than once, as other programs write them.
    """
    if any(words.on_the_way(r) for r in evals):
        # Of the rows of one step the last: the cold start rather than what was before it.
        return sorted({r.step: r for r in evals}.values(), key=lambda r: r.step)
    names = [r.name for r in evals]
    name = next((n for n in reversed(names) if names.count(n) > 1), None)
    return [r for r in evals if r.name == name]


def _coverage(train: Sequence[MetricRow]) -> str:
    """Cost in one sentence, from sums over the steps."""

    def total(name: str) -> float | None:
        values = [r.values[name] for r in train if math.isfinite(r.values.get(name, math.nan))]
        return math.fsum(values) if values else None

    said = [f"{len(train)} training step{'s' if len(train) != 1 else ''}"]
    unique, flat = total("tokens_unique"), total("tokens_flat")
    if unique and flat:
        said.append(
            f"{unique:,.0f} unique tokens where separate trajectories would hold {flat:,.0f} ({flat / unique:.2f}×)"
        )
    made = total("tool_calls_made")
    if made is not None:
        said.append(f"{made:,.0f} tool calls made")
    spent = [(name, total(f"seconds_{name}")) for name in ("rollout", "update")]
    times = [f"{seconds:,.0f} s of {name}" for name, seconds in spent if seconds is not None]
    if times:
        said.append(" and ".join(times))
    return f'<p class="muted">{escape("; ".join(said))}.</p>'
