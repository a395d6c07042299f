"""Metrics reach TensorBoard, wandb and trackio, really installed; a board that fails does not end the run."""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from tiny_run import Children, config, quiet, run

from arpo_algo.errors import ConfigError
from arpo_algo.learner import Learner
from arpo_algo.runfolder import RunFolder, read_rows
from arpo_algo.tracking import LogSection, Tracker
from arpo_algo.trainer import Trainer


class Fake(ModuleType):
    """What wandb offers. ``fails``: the function that finds its server gone (log: at the second row)."""

    def __init__(self, fails: str = "") -> None:
        super().__init__("wandb")
        self.logged: list[dict[str, Any]] = []
        self.fails = fails

    def init(self, **options: Any) -> None:
        if self.fails == "init":
            raise ConnectionError("the server is gone")

    def define_metric(self, name: str, step_metric: str) -> None: ...

    def log(self, values: dict[str, Any]) -> None:
        if self.fails == "log" and self.logged:
            raise ConnectionError("the server is gone")
        self.logged.append(values)

    def finish(self) -> None:
        if self.fails == "finish":
            raise ConnectionError("the server is gone")


RECORD: dict[str, Any] = {"id": "0123456789ab", "config": {"steps": 3}}


@pytest.mark.parametrize(("fails", "logged"), [("init", 0), ("log", 1), ("finish", 3)])
def test_a_board_that_fails_is_dropped_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, logged: int
) -> None:
    fake = Fake(fails)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    console = quiet()
    folder = RunFolder(tmp_path)
    tracker = Tracker(folder, console, LogSection(boards=("wandb",)), RECORD)
    for step in range(3):
        tracker.log("train", step, {"reward": 1.0})
    tracker.close()
    folder.close()
    assert len(fake.logged) == logged
    assert "wandb failed and is dropped" in console.file.getvalue()  # type: ignore[attr-defined]
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 3


# ------------------------------------------------------------------ the real libraries, without a network


@pytest.mark.parametrize("board", ["wandb", "trackio"])
def test_the_real_board_holds_the_numbers(board: str, tiny_model: Path, children: Children, tmp_path: Path) -> None:
    """A run and its continuation, read back from the library's own file: one stored run, every number."""
    if find_spec(board) is None:
        pytest.skip(f"{board} is not installed (pip install 'arpo[boards]')")
    environ = {
        "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"), "TRACKIO_DIR": str(tmp_path / "trackio"),
    }  # fmt: skip
    out = tmp_path / "mine"
    for steps in (2, 3):
        changes = {"log.boards": [board], "log.project": "p", "eval.tasks": 1, "steps": steps}
        assert children.run(out, tiny_model, changes, kill_at=0, environ=environ) is not None
    found = of_wandb(out) if board == "wandb" else of_trackio(tmp_path / "trackio" / "p.db")
    run_id = json.loads((out / "config.json").read_text())["id"]
    assert found.runs == [run_id if board == "wandb" else f"mine-{run_id}"] * len(found.runs)
    assert found.config["algorithm"]["name"] == "arpo"
    expected = [
        {f"train/{k}": v for k, v in row.items() if k not in ("phase", "nonfinite")}
        for row in read_rows(out / "metrics.jsonl")
    ]
    assert [row for row in found.rows if "train/step" in row] == expected
    evaluations = [(row["eval/step"], row["eval/success"]) for row in found.rows if "eval/step" in row]
    assert evaluations == [(row["step"], row["success"]) for row in read_rows(out / "eval.jsonl")]


@dataclass
class Stored:
    """What a library has on disk: the names of its runs, their configuration, the rows in order."""

    runs: list[str]
    config: dict[str, Any]
    rows: list[dict[str, Any]]


def of_trackio(database: Path) -> Stored:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT run_name, metrics FROM metrics ORDER BY id").fetchall()
        [(settings,)] = connection.execute("SELECT config FROM configs").fetchall()
    return Stored([name for name, _ in rows], json.loads(settings), [json.loads(values) for _, values in rows])


def of_wandb(out: Path) -> Stored:
    """Of the ``.wandb`` files, one a session: records in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    stored = Stored([], {}, [])
    for file in sorted(out.glob("wandb/offline-run-*/*.wandb")):
        for data in log_records(file.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                stored.runs.append(record.run.run_id)
                for item in record.run.config.update:
                    stored.config[item.key] = json.loads(item.value_json)
            elif record.HasField("history"):
                items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                stored.rows.append({key: value for key, value in items.items() if not key.startswith("_")})
    return stored


def log_records(data: bytes, block: int = 32768) -> Iterator[bytes]:
    """Blocks of chunks (checksum 4 bytes, length 2, kind 1: whole, first, middle, last); 7 bytes of header before."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block  # padding
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_a_board_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    folder = RunFolder(tmp_path)
    with pytest.raises(ConfigError, match="pip install trackio"):
        Tracker(folder, quiet(), LogSection(boards=("trackio",)), RECORD)
    folder.close()


def test_tensorboard_holds_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = RunFolder(tmp_path)
    tracker = Tracker(folder, Console(quiet=True), LogSection(), RECORD)
    tracker.log("train", 3, {"reward": 0.5, "kl": float("nan")})
    tracker.close()
    folder.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/reward")] == [(3, 0.5)]
    assert "train/kl" not in events.Tags()["scalars"]
    assert read_rows(tmp_path / "metrics.jsonl")[0]["nonfinite"] == ["kl"]


def test_tensorboard_hides_what_is_done_again_and_no_more(tmp_path: Path, tiny_model: Path) -> None:
    """Each phase counts its own steps: a resume in RL hides nothing of the cold start."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def steps(phase: str, tag: str) -> list[int]:
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / phase))
        events.Reload()
        return [e.step for e in events.Scalars(f"{phase}/{tag}")]

    changes = {"log.boards": ["tensorboard"], "sft.steps": 4, "steps": 4, "save_every": 2, "eval.before": True}

    def killed_in_the_last(method: str) -> None:
        trainer = Trainer(config(tiny_model, **changes), tmp_path / "run", resume=True, console=quiet())
        owner: Any = Learner if method == "imitate" else Trainer
        real, calls = getattr(owner, method), []

        def dies(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return real(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, method, dies)
            patch.setattr(trainer, "_save_now", bool)
            with pytest.raises(KeyboardInterrupt):
                trainer.run()
        trainer.close()

    killed_in_the_last("imitate")
    killed_in_the_last("train_step")
    run(tmp_path / "run", config(tiny_model, **changes))
    assert steps("sft", "loss") == [0, 1, 2, 3]
    assert steps("train", "reward") == [0, 1, 2, 3]
    assert steps("eval", "success") == [0, 0, 4]
