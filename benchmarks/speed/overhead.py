"""What does the trainer itself cost: a step's time outside engine, environments, update and weight loading?

    python -m benchmarks.speed.overhead --model smollm2 --steps 5
    python -m benchmarks.speed.overhead --steps 20            # a tiny random model: the trainer's share at its largest

Runs real training steps with a clock around every call of the parts that do the work: ``engine.step`` and
``engine.submit``, ``learner.update``, ``engine.load_weights``, and the time the sampler waits for environments. What
is left of a step is the trainer, the sampler's bookkeeping, logs and trees on disk. Checkpoints are counted apart: how
often they are made is the user's choice.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arpo_algo import options, sampler
from arpo_algo.config import RunConfig
from arpo_algo.trainer import Trainer
from benchmarks.tiny import save_model


class Clock:
    """Seconds by part; a part inside another counts only there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = False

    def around(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return call(*args, **kwargs)
            self._inside, begin = True, time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - begin
                self._inside = False

        return timed


def measure(config: RunConfig, out: Path) -> dict[str, float]:
    """Seconds a step by part, over all steps but the first (which warms caches)."""
    trainer = Trainer(config, out)
    clock = Clock()
    engine: Any = trainer.rollouts.engine  # type: ignore[attr-defined]
    for name, part in (("step", "engine"), ("submit", "engine"), ("load_weights", "weights")):
        setattr(engine, name, clock.around(part, getattr(engine, name)))
    trainer.learner.update = clock.around("update", trainer.learner.update)  # type: ignore[method-assign]
    trainer.save = clock.around("checkpoint", trainer.save)  # type: ignore[method-assign]
    wait = sampler.wait
    sampler.wait = clock.around("environments", wait)
    totals: list[float] = []
    step = trainer.train_step

    def counted(*args: Any) -> dict[str, float]:
        if len(totals) == 1:
            clock.seconds.clear()
        begin = time.perf_counter()
        metrics = step(*args)
        totals.append(time.perf_counter() - begin)
        return metrics

    trainer.train_step = counted  # type: ignore[method-assign]
    try:
        trainer.train()
    finally:
        sampler.wait = wait
        trainer.close()
    steps = len(totals) - 1
    out_: dict[str, float] = {part: seconds / steps for part, seconds in clock.seconds.items()}
    out_["step"] = sum(totals[1:]) / steps
    work = sum(out_.get(part, 0.0) for part in ("engine", "weights", "update", "environments"))
    out_["trainer"] = out_["step"] - work
    out_["trainer_share"] = out_["trainer"] / out_["step"]
    return out_


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, smollm2, or a folder")
    parser.add_argument("--steps", type=int, default=10, help="steps measured")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
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
        print(json.dumps({k: round(v, 5) for k, v in measure(config, folder / "run").items()}, indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
