"""Seconds a step of runs beside a peer's, as a table and a picture.

    python -m benchmarks.peers.table --task short runs/trl runs/grpo runs/arpo --task long runs/trl-long runs/long \
        --steps 3 --plot docs/img/peers.png

Each task: its name, the peer's folder (``steps.jsonl``), run folders of ``arpo train`` (``metrics.jsonl``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from arpo_algo.report.data import read_run
from arpo_algo.runfolder import read_rows
from benchmarks.speed import plots, shapes

Row = dict[str, Any]


def peer(folder: Path, steps: int) -> Row:
    """Means over the first steps."""
    rows = read_rows(folder / "steps.jsonl")[:steps]
    return _row("TRL GRPO", fmean(r["seconds"] for r in rows), fmean(r["seconds_sampling"] for r in rows), len(rows))


def ours(folder: Path, steps: int) -> Row:
    """Means over the first steps."""
    run = read_run(folder)
    rows = [row.values for row in run.phase("train")[:steps]]
    name = str(run.config and run.config.algorithm).upper()
    return _row(name, fmean(r["seconds_step"] for r in rows), fmean(r["seconds_rollout"] for r in rows), len(rows))


def _row(name: str, step: float, sampling: float, steps: int) -> Row:
    return {"": name, "sampling": sampling, "update": step - sampling, "step": step, "steps": steps}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", action="append", required=True, metavar=("NAME", "FOLDER"))
    parser.add_argument("--steps", type=int, default=3, help="first steps that count")
    parser.add_argument("--plot", **plots.OPTION)
    options = parser.parse_args(arguments)
    found: list[Row] = []
    for name, theirs, *runs in options.task:
        rows = [peer(Path(theirs), options.steps), *(ours(Path(r), options.steps) for r in runs)]
        found += [{"task": name, **row, "TRL / this": rows[0]["step"] / row["step"]} for row in rows]
    print(shapes.table([{k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()} for row in found]))
    if options.plot is not None:
        draw(options.plot, found)


def draw(path: Path, rows: Sequence[Row]) -> None:
    """A panel a task, a bar a trainer, its parts one on the other."""
    names = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = plots.panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        of = [row for row in rows if row["task"] == name]
        parts = {part: [row[part] for row in of] for part in ("sampling", "update")}
        plots.stacked(axis, [row[""] for row in of], parts, x=name, y="seconds a step")
    plots.save(figure, path)


if __name__ == "__main__":
    main()
