"""How often the nominal 95 % intervals hold the truth, simulated: ``python -m benchmarks.coverage [--draws N]``.

A task's chance of success is drawn from a beta distribution, its samples from that chance; ``correlation`` is that of
two samples of one task. Compared: :func:`arpo_algo.stats.mean_interval` and the BCa bootstrap over tasks.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from arpo_algo.stats import bootstrap_mean, mean_interval

#: (tasks, samples a task, accuracy) of the table; correlation 0.5.
CELLS = ((10, 4, 0.1), (30, 4, 0.02), (30, 4, 0.1), (30, 4, 0.5), (100, 4, 0.02), (100, 8, 0.5))
#: Of the sweep over the shipped interval alone.
TASKS, ACCURACIES, CORRELATIONS = (10, 30, 100, 500), (0.02, 0.05, 0.1, 0.3, 0.5, 0.9), (0.2, 0.5, 0.8)


def task_means(tasks: int, samples: int, accuracy: float, correlation: float, draws: int) -> np.ndarray:
    """Simulated task means, [draws, tasks]."""
    rng = np.random.default_rng([tasks, samples, int(1000 * accuracy), int(10 * correlation)])
    weight = (1 - correlation) / correlation
    chance = rng.beta(accuracy * weight, (1 - accuracy) * weight, (draws, tasks))
    means: np.ndarray = rng.binomial(samples, chance) / samples
    return means


def ours(tasks: int, samples: int, accuracy: float, correlation: float, draws: int) -> float:
    rows = task_means(tasks, samples, accuracy, correlation, draws)
    spans = [mean_interval(row, samples=tasks * samples) for row in rows]
    return fmean(low <= accuracy <= high for low, high in spans)


def bca(tasks: int, samples: int, accuracy: float, correlation: float, draws: int) -> float:
    spans = [bootstrap_mean(row, draws=1000) for row in task_means(tasks, samples, accuracy, correlation, draws)]
    return fmean(low <= accuracy <= high for low, high in spans)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage")
    parser.add_argument("--draws", type=int, default=2000, help="simulated benchmarks a cell")
    draws = parser.parse_args(argv).draws
    print("| tasks x samples, accuracy | BCa bootstrap | ours |\n| --- | ---: | ---: |")
    for tasks, samples, accuracy in CELLS:
        cell = (tasks, samples, accuracy, 0.5, draws)
        print(f"| {tasks} x {samples}, {accuracy:.0%} | {bca(*cell):.1%} | {ours(*cell):.1%} |", flush=True)
    for samples in (1, 4):
        # With one sample a task there is no correlation within tasks to speak of.
        sweep = itertools.product(TASKS, ACCURACIES, CORRELATIONS if samples > 1 else (0.5,))
        found = [ours(tasks, samples, accuracy, correlation, draws) for tasks, accuracy, correlation in sweep]
        low, high = min(found), max(found)
        print(f"{samples} sample(s) a task, {len(found)} cells: {low:.1%} to {high:.1%}, mean {fmean(found):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
