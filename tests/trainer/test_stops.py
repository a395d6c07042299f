"""A run that stops by itself keeps what it has done, and says where it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from tiny_run import ByLength, config, outcome, quiet, run
from toy import toy_env

from arpo_algo.errors import NonFiniteError, TrainingError
from arpo_algo.learner import Learner
from arpo_algo.runfolder import read_rows
from arpo_algo.trainer import Trainer
from arpo_env.errors import InfraError, ToolUnavailable

Hooks = dict[str, Callable[[], None]]
_HOOKS: Hooks = {}


class Failing(ByLength):
    """Calls the test's hooks first."""

    def reset(self, **options: Any) -> tuple[str, dict[str, Any]]:
        _HOOKS.get("reset", bool)()
        return super().reset(**options)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        _HOOKS.get("step", bool)()
        return super().step(action)


def make_env(**options: Any) -> Failing:
    _HOOKS.get("make", bool)()
    return Failing(toy_env(**options))


if "Failing-v0" not in gymnasium.registry:
    gymnasium.register("Failing-v0", entry_point=make_env)


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    """Called in the environment: ``make``, ``reset``, ``step``."""
    yield _HOOKS
    _HOOKS.clear()


def trainer_of(out: Path, model: Path, **changes: Any) -> Trainer:
    changes = {"env.id": "Failing-v0", "guards.retries": 0, **changes}
    return Trainer(config(model, **changes), out, resume=True, console=quiet())


def before_step(trainer: Trainer, step: int, do: Callable[[], None]) -> None:
    real = trainer.train_step

    def train_step(live: Any) -> dict[str, float]:
        if trainer.step == step:
            do()
        return real(live)

    trainer.train_step = train_step  # type: ignore[method-assign]


def raising(error: Exception) -> Callable[[], None]:
    def do() -> None:
        raise error

    return do


@pytest.mark.parametrize(("overlap", "save_every"), [("off", 10), ("one-step", 10), ("one-step", 1)])
def test_an_outage_costs_the_step_in_flight(
    tiny_model: Path, tmp_path: Path, hooks: Hooks, overlap: str, save_every: int
) -> None:
    """What is done since the last checkpoint is saved; spoilt trees are sampled again, also those of a checkpoint."""
    changes = {"save_every": save_every, "steps": 3, "rollout.overlap": overlap}
    trainer = trainer_of(tmp_path / "run", tiny_model, **changes)
    # One step ahead, the trees of step 2 are sampled while step 1 runs.
    before_step(trainer, 1 if overlap == "one-step" else 2, lambda: hooks.update(step=raising(InfraError("down"))))
    with pytest.raises(TrainingError, match="spoilt every rollout of step 2: infra: down"):
        trainer.run()
    trainer.close()
    assert json.loads((tmp_path / "run" / "stopped.json").read_text())["newest_checkpoint"] == "step-000002"
    assert "Saved at step-000002" in trainer.console.file.getvalue()  # type: ignore[attr-defined]
    hooks.clear()
    trainer = trainer_of(tmp_path / "run", tiny_model, **changes)
    trainer.run()
    trainer.close()
    assert [r["void"] for r in read_rows(tmp_path / "run" / "metrics.jsonl")] == [0.0, 0.0, 0.0]
    if overlap == "off":
        trainer = trainer_of(tmp_path / "whole", tiny_model, **changes)
        trainer.run()
        trainer.close()
        assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_any_exception_is_reported_and_what_is_consistent_saved(tiny_model: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path / "run", tiny_model, save_every=10)
    before_step(trainer, 2, raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    trainer.close()
    report = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert report["reason"] == "ZeroDivisionError: a bug"
    assert report["newest_checkpoint"] == "step-000002"


@pytest.mark.parametrize("cold_start", [0, 2])
def test_nothing_done_is_nothing_to_save(tiny_model: Path, tmp_path: Path, hooks: Hooks, cold_start: int) -> None:
    """No copy of the model that the run began with."""
    hooks["reset"] = raising(InfraError("down"))
    trainer = trainer_of(tmp_path / "run", tiny_model, **{"sft.steps": cold_start})
    with pytest.raises(InfraError if cold_start else TrainingError, match="down"):
        trainer.run()
    trainer.close()
    assert not trainer.store.paths()
    assert "--resume begins again" in trainer.console.file.getvalue()  # type: ignore[attr-defined]


def test_an_environment_that_cannot_be_made_is_an_outage_too(tiny_model: Path, tmp_path: Path, hooks: Hooks) -> None:
    """The reset fails, the environment is given up, and its successor cannot be made: retried, then the run goes on."""
    trainer = trainer_of(tmp_path / "run", tiny_model, **{"guards.retries": 2})
    trainer.rollouts._wait = lambda seconds: None  # type: ignore[attr-defined]
    failures = [3]

    def down(error: Exception) -> Callable[[], None]:
        def do() -> None:
            failures[0] -= 1
            if failures[0] >= 0:
                raise error

        return do

    def outage() -> None:
        hooks["reset"] = down(InfraError("the sandbox server is gone"))
        hooks["make"] = down(ToolUnavailable("the sandbox server cannot be reached"))

    before_step(trainer, 1, outage)
    trainer.run()
    trainer.close()
    assert failures[0] < 0
    run(tmp_path / "whole", config(tiny_model))
    rewards = [[r["reward"] for r in read_rows(tmp_path / name / "metrics.jsonl")] for name in ("run", "whole")]
    assert rewards[0] == pytest.approx(rewards[1])


def test_alarms_of_the_cold_start_outlive_a_resume(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of steps that are done again go, as metrics do."""
    changes = {"sft.steps": 4, "steps": 1, "guards.nonfinite": 3}
    real, calls = Learner.imitate, [0]

    def imitate(self: Learner, trees: Any) -> dict[str, float]:
        calls[0] += 1
        if calls[0] in (1, 3):
            raise NonFiniteError("the loss is nan")
        if calls[0] == 4:
            raise KeyboardInterrupt
        return real(self, trees)

    trainer = trainer_of(tmp_path / "run", tiny_model, save_every=2, **changes)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "imitate", imitate)
        patch.setattr(trainer, "_save_now", bool)  # a kill
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    trainer.close()
    alarms = read_rows(tmp_path / "run" / "alarms.jsonl")
    assert [(a["phase"], a["step"]) for a in alarms] == [("sft", 0), ("sft", 2)]
    trainer_of(tmp_path / "run", tiny_model, save_every=2, **changes).close()
    assert read_rows(tmp_path / "run" / "alarms.jsonl") == alarms[:1]
