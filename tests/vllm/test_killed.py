"""A vLLM server that is killed: the run ends, says what died, and goes on where it was. The server is a stand-in in a
process of its own; real processes of vLLM are killed in test_server_vllm.py and test_workers_vllm.py.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from tiny_run import ByLength, config, quiet, run, save_model
from toy import byte_tokenizer, toy_env
from transformers import AutoModelForCausalLM

from arpo_algo.engines.vllm_server import VLLMServerEngine, VLLMServerOptions
from arpo_algo.errors import TrainingError
from arpo_algo.runfolder import read_rows
from arpo_algo.trainer import Trainer

_HOOKS: list[Callable[[], None]] = []


class Hooked(ByLength):
    """Calls what the test wants called at each step of an environment."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        for hook in _HOOKS:
            hook()
        return super().step(action)


if "Hooked-v0" not in gymnasium.registry:
    gymnasium.register("Hooked-v0", entry_point=lambda **options: Hooked(toy_env(**options)))


@pytest.fixture
def start() -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts the server, on the same port each time; ``url`` is where."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[subprocess.Popen[str]] = []

    def one() -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).with_name("completions_server.py")), str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http"), "it listens"
        return process

    one.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    yield one
    _HOOKS.clear()
    for process in started:
        process.kill()
        process.communicate()


def test_the_run_ends_says_so_and_resumes(start: Any, tmp_path: Path) -> None:
    server = start()
    settings = config(
        save_model(tmp_path / "model"),
        **{
            "env.id": "Hooked-v0",
            "rollout.engine": "vllm-server",
            "rollout.engine_options.url": start.url,
            "rollout.engine_options.timeout": 60.0,
            "rollout.engine_options.folder": str(tmp_path),
            "guards.retries": 2,
        },
    )
    trainer = Trainer(settings, tmp_path / "run", console=quiet())
    _HOOKS.append(lambda: server.kill() if trainer.step == 1 else None)
    try:
        with pytest.raises(TrainingError, match=f"The vLLM server at {start.url} is gone .*start it again and resume"):
            trainer.run()
    finally:
        trainer.close()
    _HOOKS.clear()
    for thread in threading.enumerate():
        if thread.name.startswith("arpo-vllm"):
            thread.join(60)
            assert not thread.is_alive(), "nobody waits for a dead server"
    stopped = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert "is gone" in stopped["reason"]
    assert stopped["newest_checkpoint"] == "step-000001"
    assert [r["step"] for r in read_rows(tmp_path / "run" / "metrics.jsonl")] == [0]

    start()
    run(tmp_path / "run", settings)
    assert [r["step"] for r in read_rows(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2]
    assert not list(tmp_path.glob("arpo-weights-*")), "no weights are left where servers read them"


def test_killed_before_it_takes_weights(start: Any, tmp_path: Path) -> None:
    server = start()
    model = AutoModelForCausalLM.from_pretrained(save_model(tmp_path / "model"))
    options = VLLMServerOptions(url=start.url, timeout=60.0, folder=str(tmp_path))
    engine = VLLMServerEngine(model, byte_tokenizer(), slots=2, max_length=128, options=options)
    server.kill()
    server.wait()
    with pytest.raises(TrainingError, match=r"did not take the new weights: .* is gone .*undefined: start it afresh"):
        engine.load_weights(dict(model.named_parameters()))
    engine.close()
    assert not list(tmp_path.glob("arpo-weights-*"))
