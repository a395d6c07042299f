"""What goes wrong around a run costs the step in flight at most: disks, tools, tasks, numbers, clocks, operators."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from tiny_run import ByLength, config, outcome, quiet, run
from toy import toy_env

from arpo_algo import checkpoint
from arpo_algo.config import AlgorithmSection, RunConfig
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.guards import Alarm
from arpo_algo.runfolder import RunFolder, read_rows, read_trees
from arpo_algo.trainer import Trainer
from arpo_env.errors import InfraError

Hooks = dict[str, Callable[[Any], None]]
_HOOKS: Hooks = {}


class Breakable(ByLength):
    """Calls the test's hooks first."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        _HOOKS.get("reset", bool)(options or {})
        return super().reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        _HOOKS.get("step", bool)(action)
        return super().step(action)


if "Breakable-v0" not in gymnasium.registry:
    gymnasium.register("Breakable-v0", entry_point=lambda **options: Breakable(toy_env(**options)))


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    """Called in the environment: ``step`` with the action, ``reset`` with the options."""
    yield _HOOKS
    _HOOKS.clear()


def breakable(folder: Path, /, **changes: Any) -> RunConfig:
    return config(folder, **{"env.id": "Breakable-v0", "guards.retries": 2, **changes})


@pytest.fixture(scope="module")
def expected(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The undisturbed run."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run(out, breakable(tiny_model))
    return outcome(out)


def trainer_of(settings: RunConfig, out: Path) -> Trainer:
    return Trainer(settings, out, resume=True, console=quiet())


class TestDisk:
    def test_full_while_saving(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any]
    ) -> None:
        """The second checkpoint does not fit: said, tried again after the next step, nothing lost."""
        real, calls = checkpoint._digests, []

        def full(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return real(*args)

        monkeypatch.setattr(checkpoint, "_digests", full)
        run(tmp_path / "run", breakable(tiny_model, keep=9))
        assert [p.name for p in sorted((tmp_path / "run/checkpoints").iterdir())] == ["step-000001", "step-000003"]
        alarms = read_rows(tmp_path / "run" / "alarms.jsonl")
        assert any(a["name"] == "checkpoint" and "step-000001 is the newest" in a["message"] for a in alarms)
        assert outcome(tmp_path / "run")["weights"] == expected["weights"]

    def test_full_at_the_end_stops_with_a_report(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any]
    ) -> None:
        def full(*args: Any) -> Any:
            raise RuntimeError("PytorchStreamWriter failed writing file")

        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", full)
            with pytest.raises(TrainingError, match="no checkpoint could be written"):
                run(tmp_path / "run", breakable(tiny_model))
        report = json.loads((tmp_path / "run" / "stopped.json").read_text())
        assert report["newest_checkpoint"] is None
        assert report["position"]["step"] == 3
        run(tmp_path / "run", breakable(tiny_model))  # there is room again
        assert outcome(tmp_path / "run") == expected

    def test_full_where_a_guard_stops_the_run(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Why it stops is not hidden by what could not be saved."""

        def full(*args: Any) -> Any:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint, "_digests", full)
        trainer = trainer_of(breakable(tiny_model, **{"guards.action": "stop", "save_every": 0}), tmp_path / "run")
        monkeypatch.setattr(trainer.guards, "check", lambda *_: [Alarm(0, "x", 1.0, 0.0, "x is above y", stop=True)])
        with pytest.raises(TrainingError, match="stopped by a guard: x is above y"):
            trainer.run()
        trainer.close()
        report = json.loads((tmp_path / "run" / "stopped.json").read_text())
        assert "x is above y" in report["reason"]
        assert {a["name"] for a in read_rows(tmp_path / "run" / "alarms.jsonl")} == {"x", "checkpoint"}

    def test_rows_that_did_not_fit_are_written_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rows wait in memory; a try that wrote some of them before the disk was full leaves none of them behind."""
        folder, real = RunFolder(tmp_path / "run"), os.pwrite

        def full(fd: int, data: bytes, at: int) -> int:
            if len(data) < 30:
                raise OSError(28, "No space left on device")
            return real(fd, data[:30], at)

        folder.append("metrics.jsonl", {"step": 0})
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(OSError, match="No space"):
                folder.append("metrics.jsonl", {"step": 1}, {"step": 2}, {"step": 3})
        folder.append("metrics.jsonl", {"step": 1}, {"step": 2}, {"step": 3})
        assert [row["step"] for row in folder.rows("metrics.jsonl")] == [0, 1, 2, 3]
        folder.close()

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
    def test_a_really_full_file_system(self, tiny_model: Path, tmp_path: Path) -> None:
        import subprocess

        out = tmp_path / "run"
        out.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(out)], check=False).returncode:
            pytest.skip("this machine allows no mounts")
        try:
            with pytest.raises(TrainingError, match=r"No space left|no checkpoint could be written"):
                run(out, breakable(tiny_model, keep=9, steps=6))
            points = checkpoint.CheckpointStore(out / "checkpoints").paths()
            assert points, "at least one fitted"
            for point in points:
                checkpoint.verify(point)
            subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
            run(out, breakable(tiny_model, keep=9, steps=6))
            run(tmp_path / "other", breakable(tiny_model, keep=9, steps=6))
            assert outcome(out)["weights"] == outcome(tmp_path / "other")["weights"]
        finally:
            subprocess.run(["umount", str(out)], check=True)

    def test_rows_wait_for_room(self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = trainer_of(breakable(tiny_model), tmp_path / "run")
        real, failures = trainer.folder.append, [2]

        def full(name: str, *rows: Any) -> None:
            if name == "metrics.jsonl" and failures[0]:
                failures[0] -= 1
                raise OSError(28, "No space left on device")
            real(name, *rows)

        monkeypatch.setattr(trainer.folder, "append", full)
        trainer.run()
        trainer.close()
        assert [r["step"] for r in read_rows(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2]

    def test_a_truncated_checkpoint(self, tiny_model: Path, tmp_path: Path, expected: dict[str, Any]) -> None:
        run(tmp_path / "run", breakable(tiny_model, steps=2))
        weights = tmp_path / "run/checkpoints/step-000002/model/model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        trainer = trainer_of(breakable(tiny_model), tmp_path / "run")
        said = trainer.console.file.getvalue()  # type: ignore[attr-defined]
        assert "model.safetensors has" in said
        assert "going on from step-000001" in said
        trainer.run()
        trainer.close()
        assert outcome(tmp_path / "run") == expected


class TestEnvironments:
    def test_a_task_that_always_raises(self, tiny_model: Path, tmp_path: Path, hooks: Hooks) -> None:
        """Its trajectories are void, with the reason; the others train."""

        def broken(options: dict[str, Any]) -> None:
            if options.get("task_id", "").endswith("/2"):
                raise KeyError("a bug in task 2")

        hooks["reset"] = broken
        run(tmp_path / "run", breakable(tiny_model))
        rows = read_rows(tmp_path / "run" / "metrics.jsonl")
        assert [r["step"] for r in rows] == [0, 1, 2]
        assert [r["void"] for r in rows] == [0.0, 1.0, 0.0]

    def test_when_all_tasks_raise_the_run_stops_and_says_why(
        self, tiny_model: Path, tmp_path: Path, hooks: Hooks
    ) -> None:
        def broken(action: str) -> None:
            raise KeyError("a bug")

        hooks["step"] = broken
        with pytest.raises(TrainingError, match="spoilt every rollout of step 0: error: KeyError: 'a bug'"):
            run(tmp_path / "run", breakable(tiny_model))
        assert "KeyError" in json.loads((tmp_path / "run" / "stopped.json").read_text())["reason"]

    def test_a_tool_server_that_comes_back_costs_nothing(
        self, tiny_model: Path, tmp_path: Path, hooks: Hooks, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Spoilt trees are sampled again from their seeds: the same trees, the same weights."""
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        left, lock = [3], threading.Lock()

        def down(action: str) -> None:
            with lock:
                left[0] -= 1
                if left[0] >= 0:
                    raise InfraError("the server is down")

        hooks["step"] = down
        run(tmp_path / "run", breakable(tiny_model))
        assert left[0] < 0
        found = outcome(tmp_path / "run")
        assert [r["void"] for r in found["metrics"]] == [0.0, 0.0, 0.0]
        rewards = [[r["reward"] for r in rows["metrics"]] for rows in (found, expected)]
        assert rewards[0] == pytest.approx(rewards[1])

    def test_a_tool_that_hangs_is_given_up(self, tiny_model: Path, tmp_path: Path, hooks: Hooks) -> None:
        release, hung, lock = threading.Event(), [1], threading.Lock()

        def hang(action: str) -> None:
            with lock:
                mine = hung[0] > 0
                hung[0] -= 1
            if mine:
                release.wait(60)

        hooks["step"] = hang
        try:
            run(
                tmp_path / "run",
                breakable(tiny_model, **{"rollout.tool_timeout": 1.0, "guards.retries": 0, "steps": 1}),
            )
        finally:
            release.set()
        assert hung[0] <= 0
        row = read_rows(tmp_path / "run" / "metrics.jsonl")[0]
        assert row["void"] >= 1.0
        assert row["void"] < 8.0

    def test_a_clock_that_jumps(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any]
    ) -> None:
        """Wall time a year back and an hour on again: nothing is decided by it."""
        jump = iter(range(10**9))
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + (-31e6 if next(jump) % 2 else 3600.0))
        run(tmp_path / "run", breakable(tiny_model))
        assert outcome(tmp_path / "run") == expected


class TestNumbers:
    def spoil(self, trainer: Trainer, updates: set[int]) -> None:
        """NaN gradients in these updates."""
        real, count = trainer.learner._accumulate, [0]

        def nan(*args: Any) -> Any:
            out = real(*args)
            if count[0] in updates:
                next(iter(trainer.model.parameters())).grad.fill_(float("nan"))  # type: ignore[union-attr]
            return out

        def counted(*args: Any, **options: Any) -> Any:
            out = update(*args, **options)
            count[0] += 1
            return out

        update = trainer.learner.update
        trainer.learner._accumulate = nan  # type: ignore[method-assign]
        trainer.learner.update = counted  # type: ignore[method-assign]

    def test_skipped_steps_between_taken_ones_are_not_in_a_row(self, tiny_model: Path, tmp_path: Path) -> None:
        """The first mini-batch of every update is spoilt, the second is fine: no reason to stop."""
        changes = {"learner.mini_batch": 1, "guards.nonfinite": 2, "steps": 4}
        trainer = trainer_of(breakable(tiny_model, **changes), tmp_path / "run")
        real, calls = trainer.learner._accumulate, [0]

        def nan(*args: Any) -> Any:
            out = real(*args)
            calls[0] += 1
            if calls[0] % 2:
                next(iter(trainer.model.parameters())).grad.fill_(float("nan"))  # type: ignore[union-attr]
            return out

        trainer.learner._accumulate = nan  # type: ignore[method-assign]
        trainer.run()
        assert trainer.step == 4
        assert [r["skipped_steps"] for r in read_rows(tmp_path / "run" / "metrics.jsonl")] == [1.0] * 4
        assert all(result.trees == () for result in trainer.results), "saved, and not kept in memory"
        trainer.close()

    def test_a_nonfinite_step_is_skipped_and_counted(self, tiny_model: Path, tmp_path: Path) -> None:
        trainer = trainer_of(breakable(tiny_model), tmp_path / "run")
        self.spoil(trainer, {1})
        trainer.run()
        trainer.close()
        rows = read_rows(tmp_path / "run" / "metrics.jsonl")
        assert [r["skipped_steps"] for r in rows] == [0.0, 1.0, 0.0]
        assert all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())
        alarms = read_rows(tmp_path / "run" / "alarms.jsonl")
        assert [a["step"] for a in alarms if a["name"] == "nonfinite"] == [1]

    def test_three_in_a_row_stop_with_a_report(self, tiny_model: Path, tmp_path: Path) -> None:
        trainer = trainer_of(breakable(tiny_model, steps=9), tmp_path / "run")
        self.spoil(trainer, {2, 3, 4, 5, 6})
        with pytest.raises(TrainingError, match="3 optimiser steps in a row"):
            trainer.run()
        trainer.close()
        report = json.loads((tmp_path / "run" / "stopped.json").read_text())
        assert report["newest_checkpoint"] == "step-000004"
        assert [a["name"] for a in report["alarms"]].count("nonfinite") == 3
        assert len(report["last_metrics"]) == 4

    def test_an_alarm_can_stop_the_run_after_its_step(self, tiny_model: Path, tmp_path: Path) -> None:
        changes = {"guards.no_tools": "stop", "save_every": 0, "sft.steps": 0}
        with pytest.raises(TrainingError, match="no tool was called in any trajectory of step 0"):
            run(tmp_path / "run", breakable(tiny_model, **changes))
        assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]


class TestSignals:
    def interrupted(self, trainer: Trainer, where: str, times: int) -> None:
        """Signals from inside ``rollouts``, ``update`` or ``save`` of the second step."""
        owner: Any = {"sample": trainer.rollouts, "_accumulate": trainer.learner, "save": trainer}[where]
        real = getattr(owner, where)

        def wrapped(*args: Any, **options: Any) -> Any:
            if trainer.step == 1:
                setattr(owner, where, real)
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0)  # lets the handler run
            return real(*args, **options)

        setattr(owner, where, wrapped)

    @pytest.mark.parametrize("where", ["sample", "_accumulate"])
    def test_one_finishes_the_step(self, tiny_model: Path, tmp_path: Path, where: str) -> None:
        trainer = trainer_of(breakable(tiny_model, save_every=0), tmp_path / "run")
        self.interrupted(trainer, where, 1)
        trainer.run()
        trainer.close()
        assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]

    @pytest.mark.parametrize("where", ["sample", "_accumulate"])
    @pytest.mark.parametrize("overlap", ["off", "one-step"])
    def test_two_save_at_the_last_consistent_point(
        self, tiny_model: Path, tmp_path: Path, where: str, overlap: str
    ) -> None:
        if (where, overlap) == ("sample", "one-step"):
            return  # the second step's trees are sampled in the first step's thread
        changes = {"save_every": 0, "rollout.overlap": overlap}
        run(tmp_path / "whole", breakable(tiny_model, **changes))
        trainer = trainer_of(breakable(tiny_model, **changes), tmp_path / "run")
        self.interrupted(trainer, where, 2)
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        trainer.close()
        assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]
        run(tmp_path / "run", breakable(tiny_model, **changes))
        assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")

    def test_two_in_a_half_done_update_say_where_to_go_on(self, tiny_model: Path, tmp_path: Path) -> None:
        """After the first of two mini-batches memory holds no consistent point: nothing false is saved."""
        changes = {"learner.mini_batch": 1}
        run(tmp_path / "whole", breakable(tiny_model, **changes))
        trainer = trainer_of(breakable(tiny_model, **changes), tmp_path / "run")
        real = trainer.learner.optimizer_step

        def twice() -> float:
            norm = real()
            if trainer.step == 1:
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0)
            return norm

        trainer.learner.optimizer_step = twice  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        trainer.close()
        assert "goes on from step-000001" in trainer.console.file.getvalue()  # type: ignore[attr-defined]
        run(tmp_path / "run", breakable(tiny_model, **changes))
        assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")

    def test_while_groups_are_replaced_more_are_drawn_as_ever(self, tiny_model: Path, tmp_path: Path) -> None:
        """A signal must not make a step smaller: the resumed run would be another one."""
        import arpo_algo.algorithms.dapo as dapo

        settings = dataclasses.replace(breakable(tiny_model, steps=2), algorithm=AlgorithmSection("dapo", {"M": 4}))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dapo.DAPO, "keep", lambda self, tree: not tree.task_id.endswith(("/2", "/3")))
            run(tmp_path / "whole", settings)
            trainer = trainer_of(settings, tmp_path / "run")
            self.interrupted(trainer, "sample", 1)
            trainer.run()
            trainer.close()
            run(tmp_path / "run", settings)
        rows = [r for r in read_rows(tmp_path / "whole" / "metrics.jsonl") if r["step"] == 1]
        assert rows[0]["groups_dropped"] == 2
        assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


class TestFiniteTasks:
    """A file of questions is gone through again and again, and an evaluation asks for no more than there are."""

    def settings(self, model: Path, folder: Path, **changes: Any) -> RunConfig:
        for split, first, count in (("train", 0, 3), ("test", 10, 2)):
            rows = [{"question": f"Q{i}", "answer": str(i)} for i in range(first, first + count)]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"path": str(folder), "name": "mine", "tools": []}
        of_env = {f"env.options.{k}": v for k, v in options.items()}
        return config(model, **{"env.id": "ARPO-Dataset-v0", "rollout.max_tokens": 1000, **of_env, **changes})

    def test_training_goes_on_after_an_epoch(self, tiny_model: Path, tmp_path: Path) -> None:
        settings = self.settings(tiny_model, tmp_path, **{"log.replay": True, "steps": 4})
        run(tmp_path / "run", settings)
        asked = [
            tree.task_id
            for step in range(4)
            for tree in read_trees(tmp_path / "run" / "replay" / f"train-{step:06d}.jsonl.gz")
        ]
        assert asked == [f"mine/train/{seed}/{i}" for seed in (0, 1, 2) for i in range(3)][:8]

    def test_an_evaluation_of_more_tasks_than_there_are_is_refused(self, tiny_model: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"eval.tasks=3, and split 'test' of 'mine' has 2; set eval.tasks=2"):
            trainer_of(self.settings(tiny_model, tmp_path, **{"eval.tasks": 3}), tmp_path / "run")


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"learner.rl": 1e-3}, "unknown configuration key 'learner.rl'; did you mean 'learner.lr'"),
            ({"learner.mini_batch": 3}, "learner.mini_batch=3 does not divide rollout.prompts=2"),
            ({"rollout.overlap": "two"}, "rollout.overlap"),
            ({"learner.pack_tokens": 600}, "rollout.max_tokens=700 tokens, and a forward takes"),
            ({"log.boards": ["tensorbord"]}, "did you mean 'tensorboard'"),
            ({"guards.patience": 0}, "guards.patience must be >= 1"),
            ({"rollout.tool_timeout": 0.0}, "tool_timeout must be > 0"),
            ({"algorithm.name": "arpoo"}, "did you mean"),
            ({"env.id": "ARPO-Nothing-v0"}, "ARPO-Nothing"),
        ],
    )
    def test_before_the_first_token(
        self, tiny_model: Path, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            Trainer(breakable(tiny_model, **changes), tmp_path / "run", console=quiet())
        assert not (tmp_path / "run" / "config.json").exists()

    def test_processes_that_do_not_divide_the_prompts(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from arpo_algo.distributed import World

        monkeypatch.setattr(World, "join", classmethod(lambda cls, device: World(0, 3)))
        with pytest.raises(ConfigError, match=r"rollout\.prompts=2 cannot be dealt evenly to 3 processes"):
            Trainer(breakable(tiny_model), tmp_path / "run", console=quiet())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"algorithm.name": "arpo_inverted"}, "algorithm.name: 'arpo' in the folder"),
            ({"model": "elsewhere"}, "model: .* in the folder, 'elsewhere' now"),
            ({"seed": 7}, "seed: 0 in the folder, 7 now"),
            ({"rollout.overlap": "one-step"}, "rollout.overlap: 'off' in the folder"),
        ],
    )
    def test_a_resume_as_another_run(
        self, tiny_model: Path, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        run(tmp_path / "run", breakable(tiny_model, steps=0))
        with pytest.raises(ConfigError, match=message):
            trainer_of(breakable(tiny_model, **changes), tmp_path / "run")

    def test_what_may_change_on_resume(self, tiny_model: Path, tmp_path: Path, expected: dict[str, Any]) -> None:
        run(tmp_path / "run", breakable(tiny_model, steps=1))
        free = {"keep": 5, "save_every": 2, "eval.tasks": 3, "guards.patience": 9, "log.trees": 1, "rollout.workers": 1}
        run(tmp_path / "run", breakable(tiny_model, **free))
        assert outcome(tmp_path / "run")["weights"] == expected["weights"]
        record = json.loads((tmp_path / "run" / "config.json").read_text())
        assert record["config"]["keep"] == 5
        assert [r["step"] for r in record["resumed"]] == [1]


def test_nothing_of_a_phase_is_left_in_the_engine(tiny_model: Path, tmp_path: Path) -> None:
    """What ran before must not decide how the next step is batched: a resumed run has no before."""
    trainer = trainer_of(breakable(tiny_model, **{"eval.every": 1}), tmp_path / "run")
    engine = trainer.rollouts.engine  # type: ignore[attr-defined]
    sample, dirty = trainer.rollouts.sample, []

    def watched(*args: Any) -> Any:
        dirty.append(engine._steps or any(slot.tokens or slot.held or slot.used for slot in engine._slots))
        return sample(*args)

    trainer.rollouts.sample = watched  # type: ignore[method-assign]
    trainer.run()
    trainer.close()
    assert dirty == [False] * 6, "three steps, three evaluations"


def test_an_evaluation_on_the_way_that_was_not_reached_is_made_up_for(tiny_model: Path, tmp_path: Path) -> None:
    """The run dies after the checkpoint of step 1 and before its evaluation has ended."""
    settings = breakable(tiny_model, **{"eval.every": 1})
    run(tmp_path / "whole", settings)
    trainer = trainer_of(settings, tmp_path / "run")

    def dies(name: str) -> Any:
        raise MemoryError(name)

    trainer.evaluate = dies  # type: ignore[method-assign]
    with pytest.raises(MemoryError, match="step 1"):
        trainer.run()
    trainer.close()
    trainer = trainer_of(settings, tmp_path / "run")
    results = trainer.run()
    trainer.close()
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    trainer = trainer_of(settings, tmp_path / "run")
    assert [r.name for r in trainer.run()] == [r.name for r in results] == ["step 1", "step 2", "ARPO"]
    trainer.close()
