"""LoRA adapters in vLLM: the published one is what generates, and each comes under a name of its own."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from driving import GREEDY, prompt, recompute, run
from safetensors.torch import save_file

from arpo_algo.engines.base import Request
from arpo_algo.engines.vllm import VLLMEngine, VLLMOptions
from arpo_algo.errors import ConfigError

RANK, ALPHA = 8, 16


@pytest.fixture(scope="module")
def lora_engine(loaded: tuple[Any, Any], default_model: Path) -> Iterator[Any]:
    options = VLLMOptions(dtype="float32", lora_rank=RANK)
    made = VLLMEngine(default_model, *loaded, slots=4, max_length=256, options=options)
    yield made
    made.close()


def adapter(model: Any, folder: Path, seed: int) -> Any:
    """Write a random adapter of the query projections as PEFT does; returns the model with it merged in."""
    noise = torch.Generator().manual_seed(seed)
    merged, tensors = copy.deepcopy(model), {}
    with torch.no_grad():
        for i, layer in enumerate(merged.model.layers):
            weight = layer.self_attn.q_proj.weight
            a = 0.1 * torch.randn(RANK, weight.shape[1], generator=noise)
            b = 0.1 * torch.randn(weight.shape[0], RANK, generator=noise)
            stem = f"base_model.model.model.layers.{i}.self_attn.q_proj"
            tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
            weight += (ALPHA / RANK) * b @ a
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none",
                "target_modules": ["q_proj"], "base_model_name_or_path": None}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return merged


def test_each_adapter_is_in_force_from_its_publication(lora_engine: Any, loaded: Any, tmp_path: Path) -> None:
    model, tokenizer = loaded
    before = prompt(tokenizer, "Tell me a story about " + "a river and a bridge and " * 8)
    request = Request(0, before, 12, (), (0,), GREEDY)
    plain = run(lora_engine, [request])[0][0]
    said = [plain.tokens]
    for seed in (1, 2):
        merged = adapter(model, tmp_path / str(seed), seed)
        lora_engine.load_adapter(tmp_path / str(seed))
        lora_engine.cached = 0
        event = run(lora_engine, [request])[0][0]
        assert lora_engine.cached == 0, "no keys of an older policy"
        logprobs, _ = recompute(merged, before, event)
        assert torch.allclose(logprobs, torch.tensor(event.logprobs), atol=2e-3)
        said.append(event.tokens)
    assert len(set(said)) == 3
    with pytest.raises(ConfigError, match="vLLM refuses the adapter"):
        lora_engine.load_adapter(tmp_path / "not there")
