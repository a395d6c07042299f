"""TRL's trainer on our environment: what it samples is what our sampler would call a trajectory."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arpo_algo import assembly, options
from arpo_algo.config import RunConfig
from arpo_algo.rendering import Renderer
from benchmarks.peers import table

peer = pytest.importorskip("benchmarks.peers.trl_search", reason="pip install 'arpo[trl]'")

SMALL: dict[str, Any] = {
    "steps": 1,
    "threads": 1,
    "env": {"id": "ARPO-DeepSearch-v0", "options": {"tools": ["search"], "max_tool_calls": 2}},
    "algorithm": {"name": "grpo", "options": {"M": 2}},
    "rollout": {"prompts": 1, "max_turn_tokens": 6, "max_tokens": 640},
}


@pytest.fixture
def config() -> RunConfig:
    return options.load(RunConfig, SMALL)


def episode(config: RunConfig) -> Any:
    made = peer.Episode(lambda: assembly.make_env(config))
    (task,) = assembly.look_at_env(config).family.task_ids("train", 0, 0, 1)
    made.reset(task_id=task, prompt="dropped")
    return made


def call(text: str) -> dict[str, Any]:
    return peer.parse_turn(SimpleNamespace(decode=lambda ids, **_: text), [1])  # type: ignore[no-any-return]


def test_turns_are_calls_until_the_answer() -> None:
    assert call("<think>a</think><search>b</search>")["tool_calls"][0]["function"]["arguments"]["turn"].endswith(">")
    assert "tool_calls" not in call("<think>a</think><answer>\\boxed{1}</answer>")


def test_the_environment_pays_once_and_a_dropped_result_truncates(config: RunConfig) -> None:
    answered, cut = episode(config), episode(config)
    assert "<result>" in answered.act("<think>a</think><search>Paris</search>")
    found: dict[str, float] = {}
    search, answer = (
        call("<think>a</think><search>Rome</search>"),
        call("<think>b</think><answer>\\boxed{none}</answer>"),
    )
    cut.act(search["content"])
    paid = peer.reward(
        [[search, {"role": "tool", "content": ""}, answer], [search]], [answered, cut], log_metric=found.__setitem__
    )
    assert paid == peer.reward([[answer], [search]], [answered, cut], log_metric=found.__setitem__)
    assert found == {"is_success": 0.0, "tool_calls": 1.0}
    assert answered._info["stop_reason"] == "answered"
    assert cut._info["stop_reason"] == "max_tokens"
    assert answered.act("more") == ""


def test_the_table_and_its_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'arpo[bench]'")
    files = {
        "trl/steps.jsonl": [{"seconds": s, "seconds_sampling": 4.0} for s in (8.0, 12.0, 99.0)],
        "mine/metrics.jsonl": [
            {"phase": "sft", "step": 0, "loss": 1.0},
            *({"phase": "train", "step": 0, "seconds_step": s, "seconds_rollout": 1.0} for s in (3.0, 5.0, 99.0)),
        ],
        "mine/config.json": [{"algorithm": "arpo"}],
    }
    for name, rows in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    folders = [str(tmp_path / name) for name in ("trl", "mine")]
    table.main(["--task", "short", *folders, "--steps", "2", "--plot", str(tmp_path / "p.png")])
    out = capsys.readouterr().out
    assert "| short | TRL GRPO | 4.0 | 6.0 | 10.0 | 2 | 1.0 |" in out
    assert "| short | ARPO | 1.0 | 3.0 | 4.0 | 2 | 2.5 |" in out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.filterwarnings("default")  # TRL's and transformers' own
def test_a_step_of_trl(config: RunConfig, default_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []
    real = peer.InlineTrainer._generate

    def generate(self: Any, prompts: Any) -> Any:
        seen.append((self._tokenizer, *real(self, prompts)))
        return seen[-1][1:]

    monkeypatch.setattr(peer.InlineTrainer, "_generate", generate)
    peer.train(config, str(default_model), tmp_path, micro_batch=2)
    (row,) = map(json.loads, (tmp_path / "steps.jsonl").read_text().splitlines())
    assert 0 < row["seconds_sampling"] < row["seconds"]
    assert row["tool_calls"] == 0, "an untrained model says nothing that is a call"
    (tokenizer, prompts, completions, masks, *_) = seen[0]
    error = Renderer(tokenizer).result(tokenizer.decode(_results(completions[0], masks[0])[0]).strip())
    assert len(prompts) == 2
    for ids, mask in zip(completions, masks, strict=True):
        assert len(ids) == len(mask)
        assert _results(ids, mask)[0] == error, "results inline, as ours are, and not trained on"
        runs = "".join(map(str, mask)).split("0")
        assert max(map(len, runs)) <= 6, "a turn has its budget"
    assert (tmp_path / "model" / "model.safetensors").exists()
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["rollout"]["max_turn_tokens"] == 6
    assert record["trl"]["per_device_train_batch_size"] == 2
    assert record["versions"]["trl"][0].isdigit()


def _results(ids: list[int], mask: list[int]) -> list[list[int]]:
    found: list[list[int]] = [[]]
    for token, sampled in zip(ids, mask, strict=True):
        if not sampled:
            found[-1].append(token)
        elif found[-1]:
            found.append([])
    return [r for r in found if r]
