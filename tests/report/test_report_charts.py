"""Ticks, numbers and smoothing: the small arithmetic that a chart's honesty rests on."""

from __future__ import annotations

import math
import re
import time
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_algo.report.charts import (
    Interval,
    Series,
    binned,
    dot_interval,
    line_chart,
    moving_mean,
    number,
    percent,
    points,
    ticks,
)

FINITE = st.floats(-1e6, 1e6)


@given(FINITE, FINITE, st.booleans())
def test_ticks_cover_the_range_and_are_few(a: float, b: float, whole: bool) -> None:
    low, high = min(a, b), max(a, b)
    marks = ticks(low, high, whole=whole)
    assert 2 <= len(marks) <= 7
    assert marks == sorted(set(marks))
    step = marks[1] - marks[0]
    assert marks[0] <= low + 1e-3 * step
    assert marks[-1] >= high - 1e-3 * step
    if whole:
        assert all(m == int(m) for m in marks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (0.0123456, "0.0123"), (12.0, "12"), (2.5, "2.5"), (56901, "56,901"), (3e-5, "3.0e-05"),
     (100.0, "100"), (-0.0617, "-0.0617"), (math.inf, "inf"), (999_999, "999,999"), (1_500_000, "1.5M"),
     (-150e9, "-150G"), (2.34e12, "2.34T"), (7e15, "7.0e+15")],
)  # fmt: skip
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0025, "0.25 %"), (0.6333, "63.3 %"), (1.0, "100 %"), (0.0, "0 %")])
def test_percent(value: float, text: str) -> None:
    assert percent(value) == text


def test_points() -> None:
    assert [points(x) for x in (0.123, -0.05, 0.0)] == ["12.3", "-5", "0"]


def test_smoothing_and_bins_by_hand() -> None:
    assert moving_mean([1.0, 3.0, None, 5.0], 2) == [1.0, 2.0, None, 5.0]
    assert binned([1, 2, 3, 4, 5], [1.0, 3.0, None, 5.0, None], limit=3) == ([1.5, 3.5, 5.0], [2.0, 5.0, None])
    assert binned([1, 2], [1.0, None]) == ([1, 2], [1.0, None])


@given(st.lists(st.none() | FINITE, max_size=40), st.integers(1, 12))
def test_smoothing_is_the_mean_of_each_window(values: list[float | None], window: int) -> None:
    expected = []
    for i, value in enumerate(values):
        seen = [v for v in values[max(0, i - window + 1) : i + 1] if v is not None]
        expected.append(None if value is None else pytest.approx(math.fsum(seen) / len(seen), rel=1e-9, abs=1e-6))
    assert moving_mean(values, window) == expected


def test_a_huge_value_leaves_nothing_behind() -> None:
    """As it would if sums ran on and it were subtracted again."""
    assert moving_mean([1.0, 1e20, *[0.1] * 6], 3)[4:] == pytest.approx([0.1] * 4)


def test_smoothing_a_long_run_takes_a_moment() -> None:
    """Its windows grow with the run: each summed anew, 40,000 steps are 160 million additions."""
    begin = time.process_time()
    moving_mean([0.5] * 40_000, 4_000)
    assert time.process_time() - begin < 1.0


def svg_of(figure: str) -> ET.Element:
    return ET.fromstring(re.search(r"<svg.*</svg>", figure, re.DOTALL)[0])  # type: ignore[index]


def test_a_gap_breaks_the_line_and_hostile_names_stay_text() -> None:
    hostile = "<script>\"'&</script>"
    series = Series(hostile, [1, 2, 3, 4, 5], [1.0, 2.0, math.nan, None, 4.0])
    figure = line_chart(hostile, [series, Series("b", [1], [2.0])], x_label=hostile)
    assert "<script>" not in figure
    svg = svg_of(figure)
    assert len(svg.findall("polyline")) == 1
    assert len(svg.findall("circle")) == 4
    xs = [float(c.get("cx", "nan")) for c in svg.findall("circle")]
    assert 44 <= min(xs) <= max(xs) <= 330


@pytest.mark.parametrize("values", [[], [math.nan]])
def test_nothing_to_draw_is_said(values: list[float]) -> None:
    assert "no finite values" in line_chart("x", [Series("", range(len(values)), values)], x_label="step")
    assert "no finite values" in dot_interval("x", [Interval("a", v, None, None) for v in values], x_label="y")


@pytest.mark.parametrize("step", [0, 7, 37, 1234])
def test_one_step_has_one_tick(step: int) -> None:
    svg = svg_of(line_chart("x", [Series("", [step], [0.0])], x_label="step", y_from=0.0))
    assert [t.text for t in svg.findall("text") if t.get("text-anchor") == "middle"] == [f"{step:,}", "step"]
    heights = [float(t.text or "") for t in svg.findall("text") if t.get("text-anchor") == "end"]
    assert (min(heights), max(heights)) == (0, 1)


def test_dots_lie_within_their_intervals() -> None:
    svg = svg_of(
        dot_interval("x", [Interval("a", 0.4, 0.3, 0.6), Interval("b" * 40, -1.0, None, None)], x_label="y", zero=True)
    )
    group = svg.findall("g")[0]
    line, dot = group.findall("line")[0], group.findall("circle")[0]
    assert float(line.get("x1", "")) < float(dot.get("cx", "")) < float(line.get("x2", ""))
    assert "b" * 30 + "…" in [t.text for t in svg.findall("text")]
