"""What a job script sees: 0 only for a run that did all it was asked for."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_run import VALUES, save_model

from arpo_algo.cli import main
from arpo_algo.trainer import Trainer


def arguments(folder: Path, command: str = "train", **changes: Any) -> list[str]:
    values = {**VALUES, "model": str(folder / "model"), "threads": 1, **changes}
    return [command, "--out", str(folder / "run"), *(f"{k}={json.dumps(v)}" for k, v in flat(values).items())]


def flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return out


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def terminated_at(patch: pytest.MonkeyPatch, method: str, step: int) -> None:
    """SIGTERM once, when ``method`` is called at that step."""
    real = getattr(Trainer, method)

    def terminated(self: Trainer, *args: Any, **options: Any) -> Any:
        if self.step == step and not self.interrupts.stop:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)  # lets the handler run
        return real(self, *args, **options)

    patch.setattr(Trainer, method, terminated)


@pytest.mark.usefixtures("model")
def test_a_run_that_was_told_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(tmp_path, steps=2)
    with monkeypatch.context() as patch:
        terminated_at(patch, "train_step", 0)
        assert main(words) == 130
    assert "Stopped at step-000001; the same command with --resume goes on." in capsys.readouterr().out
    assert (tmp_path / "run/report.html").exists()
    with monkeypatch.context() as patch:
        terminated_at(patch, "train_step", 1)  # all steps done, the last evaluation not
        assert main([*words, "--resume"]) == 130
    assert main([*words, "--resume"]) == 0


@pytest.mark.usefixtures("model")
def test_a_signal_that_came_too_late_to_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminated_at(monkeypatch, "evaluate", 1)
    assert main(arguments(tmp_path, steps=1)) == 0


@pytest.mark.usefixtures("model")
def test_a_cold_start_that_was_told_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = arguments(tmp_path, "sft", sft={"steps": 2, "batch": 1})
    with monkeypatch.context() as patch:
        terminated_at(patch, "_save_if_due", 0)
        assert main(words) == 130
    assert main([*words, "--resume"]) == 0


@pytest.mark.usefixtures("model")
def test_a_folder_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text('{"format": 1}')
    assert main([*arguments(tmp_path), "--resume"]) == 2
    assert "holds no training run" in capsys.readouterr().err


def test_play_of_what_is_no_agent_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "CartPole-v1"]) == 2
    assert "got CartPoleEnv" in capsys.readouterr().err
