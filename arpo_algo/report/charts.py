"""Charts as inline SVG: lines with bands, and dots with intervals. Drawn here, so that they need no script.

Colours are CSS classes (``s0`` …), so that light and dark pages share one drawing. Each chart carries what its
points say in ``data-points``; the page's script shows it under the pointer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

#: Longer series are drawn as means of equal bins.
MAX_POINTS = 300
#: Colours that there are (``s0`` …); further ones begin again.
COLOURS = 8

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one line; ``y`` None is a gap. ``low``/``high`` make a band. ``faint``: raw values behind smoothed."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    colour: int = 0
    faint: bool = False
    notes: Sequence[str] = ()  # said after the value under the pointer


@dataclass(frozen=True, slots=True)
class Interval:
    """A row of a dot-and-interval chart."""

    name: str
    value: float
    low: float | None
    high: float | None
    colour: int = 0


def tone(drawn: Series | Interval) -> str:
    """The CSS class of its colour."""
    return f"s{drawn.colour % COLOURS}"


def number(value: float) -> str:
    """Three significant digits, thousands separated, no needless exponent; from a million on in M, G and T."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    size = abs(value)
    if size < 1e-4 or size >= 1e15:
        return f"{value:.1e}"
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if size >= unit:
            return f"{number(float(f'{value / unit:.3g}'))}{letter}"
    if size >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(value: float) -> str:
    return f"{number(float(f'{100 * value:.3g}'))} %"


def points(difference: float) -> str:
    """A difference of two shares in percentage points (the unit is the axis's to say)."""
    return number(float(f"{100 * difference:.3g}"))


def ticks(low: float, high: float, about: int = 4, *, whole: bool = False) -> list[float]:
    """Round numbers that cover [low, high], at most ``about`` + 2 of them; ``whole``: integers only."""
    span = high - low
    size = max(abs(low), abs(high))
    if span <= 1e-9 * size or size < 1e-12:  # a constant: an axis around it
        span = size if size >= 1e-12 else 1.0
        span = max(span, 2.0) if whole else span
        low, high = low - span / 2, high + span / 2
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    if whole:
        step = 1 if raw <= 1 else next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, max(last, first + 1) + 1)]


def moving_mean(values: Sequence[float | None], window: int) -> list[float | None]:
    """Mean of the last ``window`` values (fewer at the start), gaps passed over. Linear in their number.

    No value is ever subtracted again, so that a huge one leaves no rounding error behind: a window is the end of one
    block of ``window`` values and the beginning of the next, and both are sums from the blocks' own edges.
    """
    n = len(values)
    head, tail = [(0.0, 0)] * n, [(0.0, 0)] * (n + 1)  # (sum, how many), from the block's start and to its end
    for at, first, step in ((head, 0, 1), (tail, window - 1, -1)):
        total, seen = 0.0, 0
        for i in range(n)[::step]:
            if i % window == first:
                total, seen = 0.0, 0
            value = values[i]
            if value is not None:
                total, seen = total + value, seen + 1
            at[i] = total, seen
    out: list[float | None] = []
    for i, value in enumerate(values):
        total, seen = head[i]
        begin = i - window + 1
        if begin > 0 and begin % window:
            total, seen = total + tail[begin][0], seen + tail[begin][1]
        out.append(None if value is None else total / seen)
    return out


def binned(
    x: Sequence[float], y: Sequence[float | None], limit: int = MAX_POINTS
) -> tuple[list[float], list[float | None]]:
    """At most ``limit`` points: means of equal bins when there are more."""
    if len(x) <= limit:
        return list(x), list(y)
    size = math.ceil(len(x) / limit)
    xs, ys = [], []
    for i in range(0, len(x), size):
        seen = [v for v in y[i : i + size] if v is not None]
        xs.append(math.fsum(x[i : i + size]) / len(x[i : i + size]))
        ys.append(math.fsum(seen) / len(seen) if seen else None)
    return xs, ys


#: Characters of a row's name that the usual margin holds, and that the widest does.
_NAME, _LONG_NAME = 17, 31
_W, _H = 340, 176
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 8, 34


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    note: str = "",
    fmt: Format = number,
    y_from: float | None = None,
    y_to: float | None = None,
    x_word: str | None = None,
) -> str:
    """A ``<figure>``. ``y_from``/``y_to`` widen the y axis to hold a value (0 for counts, 1 for shares)."""
    drawn = [v for s in series for values in (s.y, s.low, s.high) for v in values if v is not None and math.isfinite(v)]
    xs = [x for s in series for x, y in zip(s.x, s.y, strict=True) if y is not None and math.isfinite(y)]
    head = f"<figcaption><b>{escape(title)}</b>{_legend(series)}</figcaption>"
    tail = f'<p class="note">{escape(note)}</p>' if note else ""
    if not drawn:
        return f'<figure class="chart">{head}<p class="empty">no finite values</p>{tail}</figure>'
    low = min([*drawn, *([y_from] if y_from is not None else [])])
    high = max([*drawn, *([y_to] if y_to is not None else [])])
    if low == high == y_from:  # nothing but that value: the axis begins there, as it always does
        high = low + 1
    marks = ticks(low, high)
    low, high = marks[0], marks[-1]
    x_low, x_high = min(xs), max(xs)
    x_marks = [t for t in ticks(x_low, x_high, 6, whole=True) if x_low <= t <= x_high]
    if x_low == x_high:
        x_marks, x_low, x_high = [x_low], x_low - 1, x_high + 1

    def px(x: float) -> float:
        return round(_LEFT + (x - x_low) / (x_high - x_low) * (_W - _LEFT - _RIGHT), 1)

    def py(y: float) -> float:
        return round(_H - _BOTTOM - (y - low) / (high - low) * (_H - _TOP - _BOTTOM), 1)

    parts = [f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{escape(_spoken(title, series, fmt), quote=True)}">']
    for mark in marks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{py(mark)}" y2="{py(mark)}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{py(mark) + 3.5:.1f}" text-anchor="end">{fmt(mark)}</text>'
        )
    for mark in x_marks:
        parts.append(f'<text class="tick" x="{px(mark)}" y="{_H - 19}" text-anchor="middle">{mark:,.0f}</text>')
    middle = (_LEFT + _W - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{_H - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for s in series:
        parts += _band(s, px, py)
    for s in series:
        parts += _line(s, px, py)
    parts.append('<line class="cursor" x1="0" x2="0" y1="8" y2="142"/></svg>')
    points = json.dumps(_points(series, px, fmt, x_word or x_label), ensure_ascii=True)
    body = "".join(parts)
    return f'<figure class="chart" data-points="{escape(points, quote=True)}">{head}{body}{tail}</figure>'


def _finite(y: float | None) -> bool:
    return y is not None and math.isfinite(y)


def _line(s: Series, px: Callable[[float], float], py: Callable[[float], float]) -> list[str]:
    kind = f"{tone(s)}{' faint' if s.faint else ''}"
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(s.x, s.y, strict=True):
        if y is None or not math.isfinite(y):
            runs.append([])
        else:
            runs[-1].append((px(x), py(y)))
    out = []
    dots = sum(map(len, runs)) <= 24 and not s.faint
    for run in filter(None, runs):
        if len(run) > 1:
            path = " ".join(f"{x},{y}" for x, y in run)
            out.append(f'<polyline class="line {kind}" points="{path}"/>')
        if dots or len(run) == 1:
            out += [f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="2.3"/>' for x, y in run]
    return out


def _band(s: Series, px: Callable[[float], float], py: Callable[[float], float]) -> list[str]:
    edge = [
        (px(x), py(lo), py(hi))
        for x, lo, hi in zip(s.x, s.low, s.high, strict=False)
        if lo is not None and hi is not None and math.isfinite(lo) and math.isfinite(hi)
    ]
    if len(edge) < 2:
        return []
    path = [f"{x},{hi}" for x, _, hi in edge] + [f"{x},{lo}" for x, lo, _ in reversed(edge)]
    return [f'<polygon class="band {tone(s)}" points="{" ".join(path)}"/>']


def _legend(series: Sequence[Series]) -> str:
    named = [s for s in series if s.name]
    if len(named) < 2:
        return ""
    keys = "".join(
        f'<span class="key"><i class="{tone(s)}{" faint" if s.faint else ""}"></i>{escape(s.name)}</span>'
        for s in named
    )
    return f'<span class="keys">{keys}</span>'


def _spoken(title: str, series: Sequence[Series], fmt: Format) -> str:
    """What a screen reader says: where each line starts and ends."""
    said = []
    for s in series:
        values = [y for y in s.y if y is not None and math.isfinite(y)]
        if values and not s.faint:
            said.append(f"{s.name or 'value'} from {fmt(values[0])} to {fmt(values[-1])}")
    return f"{title}: {'; '.join(said)}"


def _points(series: Sequence[Series], px: Callable[[float], float], fmt: Format, x_word: str) -> list[list[object]]:
    """[pixel, line, line …] for each x."""
    rows: dict[float, list[object]] = {}
    for s in series:
        for i, (x, y) in enumerate(zip(s.x, s.y, strict=True)):
            if y is None or not math.isfinite(y):
                continue
            row = rows.setdefault(x, [px(x), f"{x_word} {number(x)}"])
            span = ""
            if i < len(s.low) and i < len(s.high):
                lo, hi = s.low[i], s.high[i]
                if lo is not None and hi is not None:
                    span = f" [{fmt(lo)}, {fmt(hi)}]"
            note = f" {s.notes[i]}" if i < len(s.notes) else ""
            row.append(f"{s.name + ': ' if s.name else ''}{fmt(y)}{span}{note}")
    return [rows[x] for x in sorted(rows)]


def dot_interval(
    title: str,
    rows: Sequence[Interval],
    *,
    x_label: str,
    fmt: Format = number,
    x_from: float | None = None,
    x_to: float | None = None,
    zero: bool = False,
) -> str:
    """Dots with their intervals, one row each. ``zero``: mark 0 strongly (differences)."""
    head = f"<figcaption><b>{escape(title)}</b></figcaption>"
    values = [v for r in rows for v in (r.value, r.low, r.high) if v is not None and math.isfinite(v)]
    if not values:
        return f'<figure class="chart">{head}<p class="empty">no finite values</p></figure>'
    low = min([*values, *([x_from] if x_from is not None else []), *([0.0] if zero else [])])
    high = max([*values, *([x_to] if x_to is not None else []), *([0.0] if zero else [])])
    marks = ticks(low, high, 4)
    low, high = marks[0], marks[-1]
    longest = max(len(r.name) for r in rows)
    left = 112 if longest <= _NAME else min(112 + 6 * (longest - _NAME), 196)
    right, row_height, top = 20, 30, 6
    height = top + row_height * len(rows) + 36
    base = top + row_height * len(rows)

    def px(x: float) -> float:
        return round(left + (x - low) / (high - low) * (_W + 40 - left - right), 1)

    spoken = "; ".join(f"{r.name} {fmt(r.value)}" + _span(r, fmt) for r in rows)
    parts = [
        f'<svg viewBox="0 0 {_W + 40} {height}" role="img" aria-label="{escape(f"{title}: {spoken}", quote=True)}">'
    ]
    for mark in marks:
        strong = " zero" if zero and mark == 0 else ""
        parts.append(f'<line class="grid{strong}" x1="{px(mark)}" x2="{px(mark)}" y1="{top}" y2="{base}"/>')
        parts.append(f'<text class="tick" x="{px(mark)}" y="{base + 14}" text-anchor="middle">{fmt(mark)}</text>')
    middle = (left + _W + 40 - right) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{base + 30}" text-anchor="middle">{escape(x_label)}</text>')
    for i, r in enumerate(rows):
        y = top + row_height * (i + 0.5)
        name = r.name if len(r.name) <= _LONG_NAME else f"{r.name[: _LONG_NAME - 1]}…"
        parts.append(f'<text class="label" x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        if not math.isfinite(r.value):
            continue
        parts.append(f"<g><title>{escape(f'{r.name}: {fmt(r.value)}{_span(r, fmt)}')}</title>")
        if r.low is not None and r.high is not None:
            parts.append(f'<line class="whisker {tone(r)}" x1="{px(r.low)}" x2="{px(r.high)}" y1="{y}" y2="{y}"/>')
            parts += [
                f'<line class="whisker {tone(r)}" x1="{px(x)}" x2="{px(x)}" y1="{y - 4}" y2="{y + 4}"/>'
                for x in (r.low, r.high)
            ]
        parts.append(f'<circle class="dot {tone(r)}" cx="{px(r.value)}" cy="{y}" r="4.5"/></g>')
    return f'<figure class="chart">{head}{"".join(parts)}</svg></figure>'


def _span(r: Interval, fmt: Format) -> str:
    return "" if r.low is None or r.high is None else f" (95 % CI {fmt(r.low)} to {fmt(r.high)})"
