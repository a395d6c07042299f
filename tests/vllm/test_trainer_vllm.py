"""ARPO end to end on the vLLM engine: real model, real search, fork, update, weights to vLLM, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import tiny_run
import torch
from driving import recompute, run
from transformers import AutoModelForCausalLM

from arpo_algo import options
from arpo_algo.config import RunConfig
from arpo_algo.engines.base import Request
from arpo_algo.engines.vllm import VLLMEngine
from arpo_algo.lora import merged
from arpo_algo.runfolder import read_rows, read_trees
from arpo_algo.trainer import Trainer

pytestmark = pytest.mark.slow

VALUES: dict[str, Any] = {
    "device": "cpu",
    "steps": 1,
    "env": {
        "id": "ARPO-DeepSearch-v0",
        "options": {"tools": ["search"], "hops": [1, 2], "arithmetic": 0.0, "search_k": 1, "pages": 200},
    },
    # Every fork that the budget has is wanted (alpha); the KL penalty has every tree computed, rewarded alike or not.
    "algorithm": {
        "name": "arpo",
        "options": {"M": 4, "N": 2, "k": 4, "alpha": 1.0, "tis_cap": 2.0, "kl_coef": 0.01},
    },
    "rollout": {
        "engine": "vllm",
        "engine_options": {"dtype": "float32"},
        "prompts": 1,
        "max_turn_tokens": 40,
        "max_tokens": 640,
        "slots": 8,
    },
    "learner": {"lr": 1e-4, "precision": "float32"},
    "sft": {"steps": 2, "batch": 2, "lr": 3e-4},
    "eval": {"tasks": 1, "before": False},
}


def test_a_step_of_arpo(default_model: Path, tmp_path: Path) -> None:
    trainer = Trainer(options.load(RunConfig, {**VALUES, "model": str(default_model)}), tmp_path / "run")
    engine: Any = trainer.rollouts.engine  # type: ignore[attr-defined]
    assert isinstance(engine, VLLMEngine)
    try:
        results = trainer.run()
    finally:
        trainer.close()
    assert engine.version >= 2, "weights went to vLLM after the cold start and after the step"
    assert engine.cached > 0, "siblings and continuations found their prefix"
    assert [r.name for r in results] == ["cold start", "ARPO"]
    row = next(r for r in read_rows(tmp_path / "run" / "metrics.jsonl") if r["phase"] == "train")
    trees = read_trees(tmp_path / "run" / "trees" / "train-000000.jsonl.gz")
    assert [len(t.leaves()) for t in trees] == [4]
    # Weights of the cold start are in use: with the old ones, the learner's log-probs would be far from the engine's.
    assert row["rollout_kl"] < 1e-6
    assert 1.0 <= row["rollout_ratio_max"] < 1.01
    assert sum(t.n_forks for t in trees) > 0
    assert all(len(n.logprobs) == len(n.tokens) for t in trees for n in t.nodes if n.kind == "action")


def test_lora_trains_while_vllm_generates_with_merged_weights(tmp_path: Path) -> None:
    """Adapters stay in the learner; what vLLM generates with after each update is W + (alpha/rank)·B·A."""
    changes = {
        "rollout.engine": "vllm",
        "rollout.engine_options.dtype": "float32",
        "learner.lora.rank": 4,
        "learner.lora.alpha": 64,
        "learner.lr": 0.1,
        "learner.warmup_steps": 0,
        "steps": 2,
    }
    trainer = Trainer(tiny_run.config(tiny_llama.save(tmp_path / "model"), **changes), tmp_path / "run")
    engine: Any = trainer.rollouts.engine  # type: ignore[attr-defined]
    try:
        trainer.run()
        before = tuple(range(65, 95))
        event = run(engine, [Request(0, before, 40, (), (0,))])[0][0]
        whole = merged(trainer.model)
        weights = dict(whole.named_parameters())
        logprobs, _ = recompute(whole, before, event)
    finally:
        trainer.close()
    assert engine.version >= 2, "after each step"
    # The second step's trees were sampled after an update, and the learner computes them again before the next.
    rows = [r for r in read_rows(tmp_path / "run" / "metrics.jsonl") if r["phase"] == "train"]
    assert len(rows) == 2
    assert all(1.0 <= r["rollout_ratio_max"] < 1.001 for r in rows)
    assert torch.allclose(logprobs, torch.tensor(event.logprobs), atol=2e-4)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    plain, _ = recompute(base, before, event)
    assert float((plain - logprobs).abs().max()) > 0.5, "the adapters do something, so the above says something"
    assert set(weights) == {name for name, _ in base.named_parameters()}
