"""The sandbox server is killed while a run uses it: its trees are sampled again, and nothing else happens."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_run import config, quiet

import benchmarks.soak as soak
from arpo_algo.runfolder import read_rows
from arpo_algo.trainer import Trainer
from arpo_env.errors import ToolUnavailable


def sandbox_processes() -> list[int]:
    """Children of this process that are sandbox servers."""
    found = []
    for pid in soak.descendants(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"sandbox" in command or b"bwrap" in command or b"supervisor" in command:
            found.append(pid)
    return found


def test_the_run_goes_on(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {
        "env.id": "ARPO-Soak-v0", "env.options.env_id": "ARPO-Math-v0",
        "rollout.prompts": 2, "guards.retries": 3, "rollout.max_tokens": 1000, "steps": 3,
    }  # fmt: skip
    killed: list[int] = []
    step = soak.Busy.step

    def kill_once(self: Any, action: str) -> Any:
        out = step(self, action)
        if trainer.step == 1 and not killed and "result" in out[0]:  # an interpreter is open
            killed.extend(sandbox_processes())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        return out

    monkeypatch.setattr(soak.Busy, "step", kill_once)
    try:
        trainer = Trainer(config(tiny_model, **values), tmp_path / "run", console=quiet())
    except ToolUnavailable as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    try:
        trainer.run()
    finally:
        trainer.close()
    assert killed, "the server was found and killed"
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in rows] == [0, 1, 2]
    assert rows[2]["tool_calls_made"] > 0
    assert [r["void"] for r in rows] == [0.0, 0.0, 0.0], "spoilt trees were sampled again from their seeds"
