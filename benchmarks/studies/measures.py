"""What two runs of one seed are compared by. Each measure is a pure function of what the runs left on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from arpo_algo.report.charts import moving_mean
from arpo_algo.report.entropy import Windows, turn_windows
from arpo_algo.runfolder import read_trees

if TYPE_CHECKING:
    from arpo_algo.sweep import SweepRow

#: Of the way from the base's start to its end: where "as good as the base" is read off the curves.
LEVEL = 0.9
#: Steps of the running mean that levels are read from.
WINDOW = 3
_NO_WINDOWS = "no evaluation's trees with such turns"
#: The one "task" of measures that have a single value a run.
RUN = "run"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run. ``start``: the folder of its seed's cold start. ``k``: tokens that entropy is averaged over."""

    row: SweepRow
    algorithm: str
    start: Path
    k: int


@dataclass(frozen=True, slots=True)
class Paired:
    """Differences by task (:data:`RUN`: one for the run). ``at_least``: the true one is larger."""

    values: Mapping[str, float]
    at_least: bool = False


#: (arm, base) of one seed -> differences, or why there are none. Measures of one run ignore the base.
Compare = Callable[[Run, Run], Paired | str]


@dataclass(frozen=True, slots=True)
class Measure:
    """``unit``: points (shares of tasks, differences), ratio (compared as logarithms), nats.

    ``across_steps``: compares success at different steps of the two runs, that is on different training questions. That
    is fair only on average over questions, so each seed must have questions of its own: with the same ones under all
    seeds the luck of these questions would be counted as a difference that every seed confirms.
    """

    what: str
    unit: Literal["points", "ratio", "nats"]
    compare: Compare
    across_steps: bool = False


def success(arm: Run, base: Run) -> Paired:
    own, other = arm.row.final.per_task, base.row.final.per_task
    return Paired({task: own[task] - other[task] for task in own.keys() & other.keys()})


def success_by_step(arm: Run, base: Run) -> Paired | str:
    """Difference of mean training success over the steps that both made, on the same questions."""
    pairs = list(zip(arm.row.success, base.row.success, strict=False))
    drawn = [r.row.spent["trajectories"][: len(pairs)] for r in (arm, base)]
    if not pairs or arm.row.task_seed != base.row.task_seed or drawn[0] != drawn[1]:
        return "the steps of the two runs are not on the same questions"
    return Paired({RUN: fmean(own - other for own, other in pairs)})


def area(axis: str) -> Compare:
    """Difference of mean training success over what both runs spent of ``axis``.

    The run that spends less a step gets further in its steps, so that it is ahead where success rises and both have the
    same success at each step.
    """

    def compare(arm: Run, base: Run) -> Paired | str:
        end = min((r.row.spent[axis][-1] for r in (arm, base) if r.row.spent[axis]), default=0.0)
        if not end > 0:
            return f"a run spent no {axis}"
        return Paired({RUN: _mean_until(arm.row, axis, end) - _mean_until(base.row, axis, end)})

    return compare


def _mean_until(row: SweepRow, axis: str, end: float) -> float:
    """Success weighted by what each step spent, up to ``end``."""
    total = before = 0.0
    for spent, value in zip(row.spent[axis], row.success, strict=True):
        total += value * (min(spent, end) - min(before, end))
        before = spent
    return total / end


def per_trajectory(axis: str) -> Compare:
    """Log ratio of what a trajectory costs."""

    def compare(arm: Run, base: Run) -> Paired | str:
        costs = [r.row.spent[axis][-1] / r.row.spent["trajectories"][-1] for r in (arm, base) if r.row.success]
        if len(costs) < 2 or min(costs) <= 0:
            return f"a run spent no {axis}"
        return Paired({RUN: math.log(costs[0] / costs[1])})

    return compare


def to_level(axis: str) -> Compare:
    """Log ratio of what is spent until training success stands at :data:`LEVEL` of the base's own way up."""

    def compare(arm: Run, base: Run) -> Paired | str:
        curve = moving_mean(base.row.success, WINDOW)[WINDOW - 1 :]
        if not curve:
            return f"fewer than {WINDOW} steps"
        first, last = curve[0], curve[-1]
        assert first is not None
        assert last is not None
        if last <= first:
            return "the base learned nothing, so there is no level to reach"
        level = first + LEVEL * (last - first)
        reached = [_spent_at(r.row, axis, level) for r in (arm, base)]
        assert reached[1] is not None, "the base reaches its own level"
        own = arm.row.spent[axis][-1] if reached[0] is None else reached[0]
        return Paired({RUN: math.log(own / reached[1])}, at_least=reached[0] is None)

    return compare


def _spent_at(row: SweepRow, axis: str, level: float) -> float | None:
    curve = moving_mean(row.success, WINDOW)
    for i, value in enumerate(curve):
        if i >= WINDOW - 1 and value is not None and value >= level - 1e-9:
            return row.spent[axis][i]
    return None


def entropy_rise(trained: bool, control: Literal["start", "before"]) -> Compare:
    """Entropy right after a tool result less that of a control window, by held-out task."""

    def compare(arm: Run, base: Run) -> Paired | str:
        found = _windows(arm, trained)
        values = {}
        for task, windows in found.items():
            other = getattr(windows, control)
            if windows.after is not None and other is not None:
                values[task] = windows.after - other
        return Paired(values) if values else _NO_WINDOWS

    return compare


def entropy_fade(trained: bool) -> Compare:
    """Entropy right after a tool result less that of the next k tokens of the same turns, by held-out task."""

    def compare(arm: Run, base: Run) -> Paired | str:
        values = {task: w.fade for task, w in _windows(arm, trained).items() if w.fade is not None}
        return Paired(values) if values else _NO_WINDOWS

    return compare


def entropy_change(arm: Run, base: Run) -> Paired | str:
    """Entropy after a tool result: after training less before it, by held-out task."""
    before, after = _windows(arm, False), _windows(arm, True)
    values = {}
    for task in before.keys() & after.keys():
        old, new = before[task].after, after[task].after
        if old is not None and new is not None:
            values[task] = new - old
    return Paired(values) if values else _NO_WINDOWS


def _windows(run: Run, trained: bool) -> dict[str, Windows]:
    """Of the evaluation's trajectories, one a held-out task."""
    assert run.row.folder is not None
    folder = run.row.folder if trained else run.start
    name = f"eval-after-{run.algorithm.lower()}" if trained else "eval-after-sft"
    file = folder / "trees" / f"{name}.jsonl.gz"
    found = {tree.task_id: turn_windows(tree, run.k) for tree in read_trees(file)} if file.exists() else {}
    return {task: windows[0] for task, windows in found.items() if windows}


MEASURES: Mapping[str, Measure] = {
    "success": Measure("success on held-out tasks at the end", "points", success),
    "success by step": Measure(
        "mean success in training over the steps that both made, on the same questions", "points", success_by_step
    ),
    "success by calls": Measure(
        "mean success in training over the tool calls that both made", "points", area("tool calls"), True
    ),
    "success by tokens": Measure(
        "mean success in training over the tokens that both computed", "points", area("tokens"), True
    ),
    "calls a trajectory": Measure("tool calls really made, a trajectory", "ratio", per_trajectory("tool calls")),
    "tokens a trajectory": Measure("tokens computed, a trajectory", "ratio", per_trajectory("tokens")),
    "calls to the level": Measure(
        f"tool calls until training success stands at {LEVEL:.0%} of the base's way up",
        "ratio",
        to_level("tool calls"),
        True,
    ),
    "rise on start": Measure(
        "entropy of the first k tokens after a result less that of a trajectory's first k, before RL",
        "nats",
        entropy_rise(False, "start"),
    ),
    "rise on later": Measure(
        "entropy of the first k tokens after a result less that of the next k of the same turns, before RL",
        "nats",
        entropy_fade(False),
    ),
    "rise on before": Measure(
        "entropy of the first k tokens after a result less that of the k before the call's end, before RL",
        "nats",
        entropy_rise(False, "before"),
    ),
    "trained rise on start": Measure("the rise on the start, after RL", "nats", entropy_rise(True, "start")),
    "trained rise on later": Measure("the rise on the next k tokens, after RL", "nats", entropy_fade(True)),
    "entropy change": Measure("entropy after a result, after RL less before it", "nats", entropy_change),
}
