"""Metrics reach TensorBoard, and wandb and trackio by their interface; a board that fails does not end the run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from tiny_run import config, quiet, run

from arpo_algo.errors import ConfigError
from arpo_algo.runfolder import RunFolder, read_rows
from arpo_algo.tracking import LogSection, Tracker


class Fake(ModuleType):
    """What both libraries offer: init, log, finish."""

    def __init__(self, name: str, fail_at: int | None = None) -> None:
        super().__init__(name)
        self.started: dict[str, Any] = {}
        self.logged: list[dict[str, Any]] = []
        self.finished = 0
        self.fail_at = fail_at

    def init(self, **options: Any) -> None:
        self.started = options

    def log(self, values: dict[str, Any]) -> None:
        if len(self.logged) == self.fail_at:
            raise ConnectionError("the server is gone")
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_is_told(name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(name)
    monkeypatch.setitem(sys.modules, name, fake)
    run(tmp_path / "mine", config(tiny_model, **{"log.boards": [name], "log.project": "p", "steps": 2}))
    assert (fake.started["project"], fake.started["name"], fake.started["resume"]) == ("p", "mine", "allow")
    assert fake.started["config"]["steps"] == 2
    train = [row for row in fake.logged if "train/reward" in row]
    rows = read_rows(tmp_path / "mine" / "metrics.jsonl")
    assert [(r["train/step"], r["train/reward"]) for r in train] == [(r["step"], r["reward"]) for r in rows]
    assert sum("eval/success" in row for row in fake.logged) == 1
    assert fake.finished == 1


def test_wandb_goes_on_with_the_same_run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for steps in (1, 2):
        fake = Fake("wandb")
        monkeypatch.setitem(sys.modules, "wandb", fake)
        run(tmp_path / "mine", config(tiny_model, **{"log.boards": ["wandb"], "steps": steps}))
        ids.append(fake.started["id"])
    assert ids[0] == ids[1]


def test_a_board_that_fails_is_dropped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("wandb", fail_at=1)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    console = quiet()
    folder = RunFolder(tmp_path)
    tracker = Tracker(folder, console, LogSection(boards=("wandb",)))
    for step in range(3):
        tracker.log("train", step, {"reward": 1.0})
    tracker.close()
    folder.close()
    assert len(fake.logged) == 1
    assert "wandb failed and is dropped" in console.file.getvalue()  # type: ignore[attr-defined]
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 3


def test_a_board_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    folder = RunFolder(tmp_path)
    with pytest.raises(ConfigError, match="pip install trackio"):
        Tracker(folder, quiet(), LogSection(boards=("trackio",)))
    folder.close()


def test_tensorboard_holds_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = RunFolder(tmp_path)
    tracker = Tracker(folder, Console(quiet=True))
    tracker.log("train", 3, {"reward": 0.5, "kl": float("nan")})
    tracker.close()
    folder.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/reward")] == [(3, 0.5)]
    assert "train/kl" not in events.Tags()["scalars"]
    assert read_rows(tmp_path / "metrics.jsonl")[0]["nonfinite"] == ["kl"]
