"""Rows that a full disk did not take: written later, made up for on resume, or said; never a run that cannot go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import config, outcome, quiet, run

from arpo_algo.errors import TrainingError
from arpo_algo.runfolder import RunFolder, read_rows
from arpo_algo.sweep import entrant, sweep
from arpo_algo.tracking import LogSection, Tracker
from arpo_algo.trainer import Trainer

FULL = OSError(28, "No space left on device")
RECORD: dict[str, Any] = {"id": "0123456789ab", "config": {"steps": 3}}
Disk = set[str]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The logs that find no room."""
    names: Disk = set()
    real: Callable[..., None] = RunFolder.append

    def append(self: RunFolder, name: str, *rows: Any) -> None:
        if name in names:
            raise FULL
        real(self, name, *rows)

    monkeypatch.setattr(RunFolder, "append", append)
    return names


def trainer_of(out: Path, model: Path, **changes: Any) -> Trainer:
    return Trainer(config(model, **changes), out, resume=True, console=quiet())


def said(trainer: Trainer) -> str:
    text: str = trainer.console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_an_evaluation_without_its_tasks_is_made_again(tiny_model: Path, tmp_path: Path, full: Disk) -> None:
    """As older releases left it: the long row of its tasks did not fit, the short one did."""
    run(tmp_path / "run", config(tiny_model, steps=1))
    (tmp_path / "run" / "eval-tasks.jsonl").write_bytes(b"")
    trainer = trainer_of(tmp_path / "run", tiny_model, steps=1)
    try:
        assert [r.name for r in trainer.run()] == ["ARPO"]
    finally:
        trainer.close()
    assert len(read_rows(tmp_path / "run" / "eval-tasks.jsonl")) == 1


def test_an_evaluation_is_told_after_its_tasks(tmp_path: Path, full: Disk) -> None:
    """A kill between the two leaves no evaluation without tasks."""
    folder = RunFolder(tmp_path)
    tracker = Tracker(folder, quiet(), LogSection(boards=()), RECORD)
    row = dict.fromkeys(("success", "reward", "tool_calls", "format_errors"), 0.5)
    full.add("eval-tasks.jsonl")
    tracker.evaluation({"name": "x", "step": 1, "per_task": {"t": 1.0}, **row})
    assert not folder.rows("eval.jsonl")
    full.clear()
    tracker.log("train", 1, {"reward": 1.0})  # whatever is written next takes along what waits
    assert [len(folder.rows(f"{name}.jsonl")) for name in ("eval-tasks", "eval", "metrics")] == [1, 1, 1]
    tracker.close()
    folder.close()


def test_what_waits_is_written_at_the_end(tiny_model: Path, tmp_path: Path, full: Disk) -> None:
    """There is room again after the last row: nothing is lost."""
    trainer = trainer_of(tmp_path / "run", tiny_model, steps=2, **{"save_every": 0})
    evaluate = trainer.evaluate

    def evaluated(name: str) -> Any:
        full.update(("eval.jsonl", "eval-tasks.jsonl"))
        result = evaluate(name)
        full.clear()
        return result

    trainer.evaluate = evaluated  # type: ignore[method-assign]
    trainer.run()
    trainer.close()
    assert [len(read_rows(tmp_path / "run" / name)) for name in ("eval.jsonl", "eval-tasks.jsonl")] == [1, 1]


def test_before_a_checkpoint_waiting_rows_are_tried_again(tiny_model: Path, tmp_path: Path, full: Disk) -> None:
    """A kill right after it would lose them for good: the steps before a checkpoint are never done again."""
    trainer = trainer_of(tmp_path / "run", tiny_model, steps=2)
    check = trainer.guards.check
    written: list[int] = []
    full.add("metrics.jsonl")

    def checked(step: int, metrics: Any) -> Any:
        full.clear()
        return check(step, metrics)

    save = trainer.save

    def saved() -> Path:
        point = save()
        written.append(len(read_rows(tmp_path / "run" / "metrics.jsonl")))
        return point

    trainer.guards.check = checked  # type: ignore[method-assign]
    trainer.save = saved  # type: ignore[method-assign]
    trainer.run()
    trainer.close()
    assert written == [1, 2]


def test_rows_that_are_lost_for_good_are_an_error(tiny_model: Path, tmp_path: Path, full: Disk) -> None:
    full.add("metrics.jsonl")
    trainer = trainer_of(tmp_path / "run", tiny_model, steps=2)
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: 2 rows .*No space left"):
        trainer.run()
    trainer.close()
    assert (tmp_path / "run" / "stopped.json").exists()


def test_a_sweep_whose_last_evaluation_was_lost_finishes_when_there_is_room(
    tiny_model: Path, tmp_path: Path, full: Disk
) -> None:
    settings = config(tiny_model, steps=1)
    entrants = [entrant("arpo", settings)]
    full.add("eval-tasks.jsonl")
    with pytest.raises(TrainingError, match=r"eval-tasks\.jsonl"):
        sweep(settings, entrants, [0], tmp_path / "sweep", quiet())
    assert not (tmp_path / "sweep/arpo/seed-0/finished.json").exists()
    full.clear()
    (row,) = sweep(settings, entrants, [0], tmp_path / "sweep", quiet())
    assert len(row.final.per_task) == 2


def test_no_room_for_the_reference(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the cold start: said plainly, reported, and made up for."""
    changes = {"sft.steps": 1, "steps": 1, "algorithm.options.kl_coef": 0.05, "algorithm.options.kl_in": "loss"}
    run(tmp_path / "whole", config(tiny_model, **changes))
    trainer = trainer_of(tmp_path / "run", tiny_model, **changes)
    real = type(trainer.model).save_pretrained

    def save(self: Any, folder: Any, **options: Any) -> None:
        if "reference" in str(folder):
            raise FULL
        real(self, folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(trainer.model), "save_pretrained", save)
        with pytest.raises(TrainingError, match=r"reference cannot be written: .*No space left.*--resume"):
            trainer.run()
    trainer.close()
    assert (tmp_path / "run" / "stopped.json").exists()
    run(tmp_path / "run", config(tiny_model, **changes))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("file", ["metrics.jsonl", "config.json"])
def test_no_room_when_a_run_is_resumed(
    file: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import arpo_algo.runfolder as module

    run(tmp_path / "run", config(tiny_model, steps=2))
    real = module.write_atomic

    def write(path: Path, data: bytes) -> None:
        if path.name == file:
            raise FULL
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", write)
        with pytest.raises(TrainingError, match=rf"{file} cannot be written: .*No space left.*make room"):
            trainer_of(tmp_path / "run", tiny_model)
    run(tmp_path / "run", config(tiny_model))  # the lock is free, the run as it was
