"""Runs with adapters whose sampling model is not the learner's: ahead of the update, or in workers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Children, config, differences, run
from transformers import AutoModelForCausalLM, PreTrainedModel

from arpo_algo import assembly
from arpo_algo.errors import ConfigError
from arpo_algo.lora import LoraConfig, attach, merged, merged_weights
from arpo_algo.replay import replay_rollout
from arpo_algo.runfolder import read_rows, read_trees
from arpo_algo.workers.base import Job
from arpo_algo.workers.ray import Worker

pytest.importorskip("peft", reason="pip install 'arpo[lora]'")

AHEAD = {"rollout.overlap": "one-step", "learner.lora.rank": 2, "steps": 4}


def outcome(out: Path) -> dict[str, Any]:
    """What a finished run came to: the final adapters and optimiser as bytes, and every logged number but times."""
    last = sorted((out / "checkpoints").glob("step-*"))[-1]
    files = (last / "model" / "adapter_model.safetensors", last / "optimizer.pt")
    rows = read_rows(out / "metrics.jsonl")
    return {
        "name": last.name,
        **{file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "metrics": [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows],
    }


def adapter(base: Path, folder: Path, seed: int = 0) -> PreTrainedModel:
    """A model with adapters that do something, saved in ``folder``."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base)
    attach(model, LoraConfig(rank=2))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    tokenizer = assembly.load_policy(str(base), "cpu")[1]
    tokenizer.save_pretrained(folder)
    return model


def test_adapters_trained_while_sampling_ahead_survive_a_kill(
    tiny_model: Path, children: Children, tmp_path: Path
) -> None:
    calls = children.run(tmp_path / "undisturbed", tiny_model, AHEAD)
    assert calls is not None
    assert children.run(tmp_path / "killed", tiny_model, AHEAD, kill_at=int(0.65 * calls)) is None
    saved = [path.name for path in (tmp_path / "killed" / "checkpoints").glob("step-*")]
    assert saved, "the second run begins from adapters"
    assert f"step-{AHEAD['steps']:06d}" not in saved
    assert children.run(tmp_path / "killed", tiny_model, AHEAD) is not None
    assert not differences(outcome(tmp_path / "killed"), outcome(tmp_path / "undisturbed"))


def test_a_run_that_samples_ahead_begins_from_an_adapter_folder(tiny_model: Path, tmp_path: Path) -> None:
    adapter(tiny_model, tmp_path / "adapter")
    run(tmp_path / "run", config(tmp_path / "adapter", **{**AHEAD, "steps": 2}))
    first = next(r for r in read_rows(tmp_path / "run" / "metrics.jsonl") if r["phase"] == "train")
    assert first["rollout_kl"] < 1e-6, "sampled with the adapters: the base alone is far from the learner"


def test_a_worker_on_an_adapter_folder_takes_merged_weights(tiny_model: Path, tmp_path: Path) -> None:
    """Without Ray: what an actor does between its start and its first trees."""
    adapter(tiny_model, tmp_path / "old")
    newer = adapter(tiny_model, tmp_path / "new", seed=1)
    merged(newer).save_pretrained(tmp_path / "merged")
    assembly.load_policy(str(tiny_model), "cpu")[1].save_pretrained(tmp_path / "merged")
    job = Job(("toy/train/0/0", "toy/train/0/1"), (0, 1, 5))

    def sampled(source: str, weights: dict[str, torch.Tensor] | None) -> Any:
        worker = Worker(config(tiny_model, **{"rollout.actors": 1}), str(tmp_path / source))
        try:
            if weights is not None:
                worker.sync(weights)
            return [[(n["kind"], n["tokens"]) for n in tree["nodes"]] for tree in worker.sample(job)]
        finally:
            worker._local.close()

    want = sampled("merged", None)
    assert sampled("new", None) == want
    assert sampled("old", merged_weights(newer)) == want
    assert sampled("old", None) != want


def test_adapters_that_nothing_would_train_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    adapter(tiny_model, tmp_path / "adapters")
    with pytest.raises(ConfigError, match=r"no parameter of the model is trained: .* set learner.lora.rank"):
        run(tmp_path / "run", config(tmp_path / "adapters", steps=1))


def test_a_run_that_sampled_ahead_is_replayed(tiny_model: Path, tmp_path: Path) -> None:
    adapter(tiny_model, tmp_path / "adapters")
    settings = config(tmp_path / "adapters", **{**AHEAD, "steps": 1, "log.replay": True})
    run(tmp_path / "run", settings)
    out = replay_rollout(tmp_path / "run", 0)
    saved = read_trees(tmp_path / "run" / "replay" / "train-000000.jsonl.gz")
    assert [n.logprobs for t in out.trees for n in t.nodes] == [n.logprobs for t in saved for n in t.nodes]
