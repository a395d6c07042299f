"""What a resume refuses, says and keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import config, quiet, run

from arpo_algo.assembly import Position
from arpo_algo.config import RunConfig
from arpo_algo.errors import ConfigError
from arpo_algo.trainer import Trainer


def resumed(settings: RunConfig, out: Path) -> str:
    """What a resume says."""
    trainer = Trainer(settings, out, resume=True, console=quiet())
    trainer.close()
    text: str = trainer.console.file.getvalue()  # type: ignore[attr-defined]
    return text


class TestOtherTasks:
    def settings(self, model: Path, folder: Path, shift: int = 0, rows: int = 6, **changes: Any) -> RunConfig:
        for split in ("train", "test"):
            lines = [{"question": f"{split} {i + shift}", "answer": str(i)} for i in range(rows)]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        of_env = {f"env.options.{k}": v for k, v in {"path": str(folder), "name": "mine", "tools": []}.items()}
        changes = {"env.id": "ARPO-Dataset-v0", "rollout.max_tokens": 1000, "guards.no_tools": "off", **changes}
        return config(model, **{**changes, **of_env})

    @pytest.mark.parametrize("change", [{"shift": 100}, {"rows": 7}])
    def test_a_file_that_changed_is_refused(self, tiny_model: Path, tmp_path: Path, change: dict[str, int]) -> None:
        run(tmp_path / "run", self.settings(tiny_model, tmp_path, steps=1))
        with pytest.raises(ConfigError, match=r"--resume: the tasks are not those that the run began with"):
            resumed(self.settings(tiny_model, tmp_path, steps=2, **change), tmp_path / "run")

    def test_another_evaluation_of_the_same_file_is_not(self, tiny_model: Path, tmp_path: Path) -> None:
        run(tmp_path / "run", self.settings(tiny_model, tmp_path, steps=1))
        for tasks in (3, 4):  # compared with what it was each time
            resumed(self.settings(tiny_model, tmp_path, steps=2, **{"eval.tasks": tasks}), tmp_path / "run")
        record = json.loads((tmp_path / "run" / "config.json").read_text())
        del record["questions"]  # a folder of an older release
        (tmp_path / "run" / "config.json").write_text(json.dumps(record))
        resumed(self.settings(tiny_model, tmp_path, shift=1, steps=2), tmp_path / "run")


def test_a_run_that_never_began_leaves_its_folder_free(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    Trainer(config(tiny_model, seed=1), out, console=quiet()).close()
    trainer = Trainer(config(tiny_model, seed=2, steps=1), out, console=quiet())
    assert "never began" in trainer.console.file.getvalue()  # type: ignore[attr-defined]
    trainer.run()
    trainer.close()
    assert json.loads((out / "config.json").read_text())["seed"] == 2
    with pytest.raises(ConfigError, match="already holds a run"):
        Trainer(config(tiny_model, seed=2, steps=1), out, console=quiet())


def test_fewer_steps_than_are_done_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", config(tiny_model, steps=2))
    with pytest.raises(ConfigError, match="stands at step 2 and steps=1 is behind it"):
        resumed(config(tiny_model, steps=1), tmp_path / "run")


def test_what_goes_on_is_not_stopped(tiny_model: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", config(tiny_model, steps=1))
    (tmp_path / "run" / "stopped.json").write_text("{}")
    resumed(config(tiny_model, steps=2), tmp_path / "run")
    assert not (tmp_path / "run" / "stopped.json").exists()


def test_a_run_ahead_that_is_made_longer_says_what_that_changes(tiny_model: Path, tmp_path: Path) -> None:
    """At its old end nothing was sampled ahead: that step's trees are of other weights than a longer run's."""
    ahead = {"rollout.overlap": "one-step"}
    run(tmp_path / "run", config(tiny_model, steps=2, **ahead))
    said = resumed(config(tiny_model, steps=4, **ahead), tmp_path / "run")
    assert "step 2 samples with the weights of now" in said
    assert "weights of now" not in resumed(config(tiny_model, steps=2, **ahead), tmp_path / "run")


@pytest.mark.parametrize(
    ("log", "row", "before"),
    [
        ("metrics.jsonl", {"phase": "sft", "step": 4}, True),
        ("metrics.jsonl", {"phase": "sft", "step": 5}, False),
        ("metrics.jsonl", {"phase": "train", "step": 1}, True),
        ("metrics.jsonl", {"phase": "train", "step": 2}, False),
        ("alarms.jsonl", {"phase": "sft", "step": 4}, True),
        ("alarms.jsonl", {"phase": "sft", "step": 5}, False),
        ("alarms.jsonl", {"phase": "train", "step": 2}, False),
        ("alarms.jsonl", {"step": 1}, True),  # of an older release
        ("alarms.jsonl", {"step": 2}, False),
        ("eval.jsonl", {"name": "step 2", "step": 2}, True),
        ("eval-tasks.jsonl", {"name": "step 3", "step": 3}, False),
        ("eval.jsonl", {"name": "cold start", "step": 0}, True),
    ],
)
def test_rows_before_a_position(log: str, row: dict[str, Any], before: bool) -> None:
    from arpo_algo.resume import is_before

    assert is_before(Position(sft=5, step=2), log, row) == before
    assert not is_before(Position(sft=5, in_sft=True), "eval.jsonl", {"name": "cold start", "step": 0})


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_something_else(tiny_model: Path, tmp_path: Path, resume: bool) -> None:
    (tmp_path / "config.json").write_text('{"format": 1, "policy": {}, "suites": {}}')  # a benchmark's
    with pytest.raises(ConfigError, match=r"holds no training run.*choose another --out"):
        Trainer(config(tiny_model), tmp_path, resume=resume, console=quiet())


def test_a_folder_that_cannot_be_made(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"run folder .*file/run cannot be used: .*choose another --out"):
        Trainer(config(tiny_model), tmp_path / "file" / "run", console=quiet())
