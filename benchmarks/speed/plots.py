"""Pictures of measurements: a row of panels with lines or grouped bars, one style for all of docs/img.

``parser.add_argument("--plot", **plots.OPTION)`` refuses before any measuring where matplotlib is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Told apart by people with any colour vision, dark enough on white (Okabe and Ito's palette).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def picture(text: str) -> Path:
    """A path to draw to, as an argparse type."""
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("drawing needs matplotlib: pip install 'arpo[bench]'")
    return Path(text)


OPTION: dict[str, Any] = {"type": picture, "metavar": "PNG", "help": "draw a picture here (needs matplotlib)"}


def panels(count: int, *, width: float = 4.0, height: float = 3.6) -> tuple[Any, list[Any]]:
    """A figure and its axes, side by side. White behind everything: a dark page shows it as a card."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=(width * count, height), constrained_layout=True, squeeze=False)
    figure.set_facecolor("white")
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
        axis.grid(axis="y", alpha=0.3)
    return figure, list(axes[0])


def lines(
    axis: Any,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log: str = "",
    dotted: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:
    """One line a name, through its (x, y) points; ticks where points are.

    Args:
        log: axes that are logarithmic, ``"x"`` or ``"xy"``.
        dotted: companions, in the colour of the line whose name they begin with.
    """
    names = list(series)
    for name, points in series.items():
        i = names.index(name)
        axis.plot(*zip(*points, strict=True), MARKERS[i] + "-", color=COLOURS[i], label=name)
    for name, points in (dotted or {}).items():
        i = next(i for i, full in enumerate(names) if name.startswith(full))
        axis.plot(*zip(*points, strict=True), ":", color=COLOURS[i], label=name)
    for which in log:
        getattr(axis, f"set_{which}scale")("log")
    ticks = sorted({point[0] for points in series.values() for point in points})
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.minorticks_off()
    if "y" not in log:
        axis.set_ylim(bottom=0)
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def bars(
    axis: Any, groups: Sequence[str], series: Mapping[str, Sequence[float]], *, y: str, form: str = "{:g}"
) -> None:
    """Bars of every name beside each other, a cluster a group, each with its value on top."""
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        at = [group + (i - (len(series) - 1) / 2) * width for group in range(len(groups))]
        drawn = axis.bar(at, values, width * 0.94, color=COLOURS[i], label=name)
        axis.bar_label(drawn, [form.format(value) for value in values], fontsize=7, padding=1)
    axis.set_xticks(range(len(groups)), groups)
    axis.tick_params(axis="x", length=0)
    axis.set_ylabel(y)


def stacked(axis: Any, groups: Sequence[str], series: Mapping[str, Sequence[float]], *, x: str, y: str) -> None:
    """One bar a group, made of every name's share."""
    below = [0.0] * len(groups)
    for i, (name, values) in enumerate(series.items()):
        axis.bar(range(len(groups)), values, 0.7, bottom=below, color=COLOURS[i % len(COLOURS)], label=name)
        below = [b + v for b, v in zip(below, values, strict=True)]
    axis.set_xticks(range(len(groups)), groups)
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def save(figure: Any, path: Path) -> None:
    """With a legend above every panel that has names, as a PNG."""
    for axis in figure.axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
