"""What does the trainer itself cost: a step's time outside engine, environments, update and weight loading?

    python -m benchmarks.speed.overhead --model smollm2 --steps 5
    python -m benchmarks.speed.overhead --steps 20            # a tiny random model: the trainer's share at its largest

Runs real training steps with clocks around every call of the parts that do the work: ``engine.step`` and
``engine.submit``, ``learner.update``, ``engine.load_weights``, the environments' reset and cloning, and the sampler's
waiting for their steps. What is left of a step is the trainer, the sampler's bookkeeping, logs and trees on disk.
Checkpoints are left out: how often they are made is the user's choice.

Two clocks: seconds that passed, and CPU seconds of this process (all threads), which a busy machine leaves as they are.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from arpo_algo import options, sampler
from arpo_algo.config import RunConfig
from arpo_algo.trainer import Trainer
from arpo_env.env import AgentEnv
from benchmarks.tinymodel import save_model

WORK = ("engine", "environments", "update", "weights")
#: Seconds that passed, and CPU seconds.
Seconds = NDArray[np.float64]


def now() -> Seconds:
    return np.array([time.perf_counter(), time.process_time()])


class Clock:
    """Seconds by part; a part inside another counts only there."""

    def __init__(self) -> None:
        self.seconds = {part: np.zeros(2) for part in WORK}
        self._inside = False

    def around(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return call(*args, **kwargs)
            self._inside, begin = True, now()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[part] += now() - begin
                self._inside = False

        return timed


def measure(config: RunConfig, out: Path) -> dict[str, Seconds]:
    """Seconds of a step by part: medians over all steps but the first (which warms caches)."""
    trainer = Trainer(config, out)
    clock = Clock()
    engine: Any = trainer.rollouts.engine  # type: ignore[attr-defined]
    steps: list[dict[str, Seconds]] = []
    with ExitStack() as patches:
        for owner, name, part in (
            (engine, "step", "engine"),
            (engine, "submit", "engine"),
            (engine, "load_weights", "weights"),
            (trainer.learner, "update", "update"),
            (sampler, "wait", "environments"),
            (AgentEnv, "reset", "environments"),
            (AgentEnv, "__deepcopy__", "environments"),
        ):
            patches.enter_context(patch.object(owner, name, clock.around(part, getattr(owner, name))))
        step = trainer.train_step

        def counted(*args: Any) -> dict[str, float]:
            clock.seconds = {part: np.zeros(2) for part in WORK}
            begin = now()
            metrics = step(*args)
            took = now() - begin
            rest = took - sum(clock.seconds.values())
            steps.append({**clock.seconds, "step": took, "trainer": rest, "trainer/step": rest / took})
            return metrics

        patches.enter_context(patch.object(trainer, "train_step", counted))
        try:
            trainer.train()
        finally:
            trainer.close()
    return {part: np.median([row[part] for row in steps[1:]], axis=0) for part in steps[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, smollm2, or a folder")
    parser.add_argument("--steps", type=int, default=10, help="steps measured")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="arpo-overhead-"))
    try:
        model = str(save_model(folder / "tiny", hidden=128)) if args.model == "tiny" else args.model
        values: dict[str, Any] = {
            "model": model,
            "steps": args.steps + 1,
            "save_every": 0,
            "env": {"id": "ARPO-DeepSearch-v0", "options": {"tools": ["search"], "hops": [1, 2]}},
            "algorithm": {"name": "arpo", "options": {"M": 8, "N": 4, "k": 10}},
            "rollout": {"prompts": 4, "max_turn_tokens": 48, "max_tokens": 640 if args.model != "tiny" else 2000},
            "guards": {"no_tools": "off"},
        }
        config = options.load(RunConfig, options.override(values, args.overrides))
        print(f"{'':14}{'passed':>10}{'CPU':>10}")
        for part, seconds in measure(config, folder / "run").items():
            print(f"{part:14}" + "".join(f"{value:10.5f}" for value in seconds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
