"""Adapters: exact on trees, sampled from by the engine, saved and merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_engine import byte_model, drain, engine, request
from test_gradient import SYSTEM, credited, flat_gradient, packed_gradient, relative
from test_precision import NEEDS_BF16
from transformers import AutoModelForCausalLM, PreTrainedModel
from trees import random_tree, tiny_model

from arpo_algo import models
from arpo_algo.algorithms import make
from arpo_algo.engines.weights import WeightLayout
from arpo_algo.engines.workingcopy import WorkingCopy
from arpo_algo.errors import ConfigError
from arpo_algo.learner import Learner
from arpo_algo.lora import LoraConfig, attach, export_merged, merged, merged_weights
from arpo_algo.optimizer import LearnerConfig
from arpo_algo.precision import autocast

pytest.importorskip("peft", reason="pip install 'arpo[lora]'")
LORA = LoraConfig(rank=4, alpha=8)


def stir(model: PreTrainedModel) -> None:
    """Adapters start at zero; give them values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("kind", ["llama", "phi3", "gemma3_text"])
def test_packed_gradient_of_adapters_equals_flat_gradient(kind: str) -> None:
    rng = np.random.default_rng(1)
    trees = [random_tree(rng, prompt=SYSTEM), random_tree(rng, prompt=SYSTEM)]
    algorithm = make("arpo")
    model = tiny_model(kind)
    attach(model, LORA)
    stir(model)
    items = credited(trees, algorithm)
    packed = packed_gradient(model, items, algorithm, 10_000)
    flat = flat_gradient(model, items, algorithm)
    assert float(flat.norm()) > 1e-4
    assert relative(packed, flat) < 1e-5
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in n for n in trained)


def test_update_moves_adapters_only_and_the_engine_samples_from_them() -> None:
    model = byte_model()
    made = engine(model)  # built before the adapters are there, as the trainer does
    before = {n: p.clone() for n, p in model.named_parameters()}
    torch.manual_seed(0)  # adapters begin at random; one draw in some thousands lies where rounding decides
    learner = Learner(model, LearnerConfig(lr=1e-2, precision="float32", lora=LORA))
    for seed in range(2):
        learner.update([random_tree(np.random.default_rng(seed))], make("grpo"))
    now = {n.replace(".base_layer", ""): p for n, p in model.named_parameters()}
    assert all(torch.equal(now[n], p) for n, p in before.items())
    made.load_weights(dict(model.named_parameters()))
    made.submit(request(0))
    got = drain(made)[0]
    alone = engine(merged(model))
    alone.submit(request(0))
    want = drain(alone)[0]
    assert got.tokens == want.tokens
    assert got.logprobs == pytest.approx(want.logprobs, abs=1e-5)
    plain = engine(byte_model())
    plain.submit(request(0))
    assert drain(plain)[0].logprobs != pytest.approx(got.logprobs, abs=1e-3)


@pytest.mark.parametrize("packed", [False, pytest.param(True, marks=NEEDS_BF16)])
def test_a_working_copy_takes_over_adapters_given_later(packed: bool) -> None:
    model = byte_model()
    copy = WorkingCopy(model, torch.bfloat16, packed)
    attach(model, LORA)
    stir(model)
    copy.refresh()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), autocast("bfloat16", torch.device("cpu")):
        assert torch.equal(model(ids).logits, copy.model(ids).logits)


def test_saved_adapters_load_again_and_go_on_training(tmp_path: Path) -> None:
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    attach(model, LORA)
    stir(model)
    model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists(), "only the adapter is written"
    assert models.resolve(str(tmp_path / "adapter")) == tmp_path / "adapter"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    attach(again, LORA)
    assert [n for n, p in again.named_parameters() if p.requires_grad]
    export_merged(again, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not [n for n, _ in plain.named_parameters() if "lora" in n]
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.allclose(model(ids).logits, again(ids).logits, atol=1e-6)
    assert torch.allclose(model(ids).logits, plain(ids).logits, atol=1e-5)
    assert not torch.allclose(base(ids).logits, plain(ids).logits, atol=1e-3)
    with pytest.raises(ConfigError, match="already has adapters of rank 4"):
        attach(again, LoraConfig(rank=8))


def test_bad_settings_are_refused() -> None:
    for bad in ({"rank": -1}, {"alpha": 0.0}, {"targets": ("lm_head",)}, {"targets": ()}):
        with pytest.raises(ConfigError):
            LoraConfig(**bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"lora\.targets"):
        attach(tiny_model("llama"), LoraConfig(rank=2, targets=("nothing",)))
    with pytest.raises(ConfigError, match="adamw8bit needs a CUDA GPU"):
        Learner(tiny_model("llama"), LearnerConfig(optimizer="adamw8bit"))
    with pytest.raises(ConfigError, match="optimizer"):
        LearnerConfig(optimizer="sgd")  # type: ignore[arg-type]


def test_merged_weights_are_those_of_the_merged_model() -> None:
    model = tiny_model("llama")
    plain = {n: p.clone() for n, p in model.named_parameters()}
    assert {n: id(p) for n, p in merged_weights(model).items()} == {n: id(p) for n, p in model.named_parameters()}
    attach(model, LORA)
    stir(model)
    weights = merged_weights(model)
    whole = dict(merged(model).named_parameters())
    assert set(weights) == set(whole) == set(plain)
    assert all(torch.allclose(weights[n], whole[n], atol=1e-6) for n in whole)
    assert not torch.equal(
        weights["model.layers.0.self_attn.q_proj.weight"], plain["model.layers.0.self_attn.q_proj.weight"]
    )
    assert WeightLayout.of(model).shapes == WeightLayout.of(tiny_model("llama")).shapes
