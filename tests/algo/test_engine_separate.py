"""Engines that must not share the learner's weights: who copies the model, and what without adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from test_engine import byte_model, drain, request
from toy import byte_tokenizer

from arpo_algo import assembly, engines, options
from arpo_algo.config import RunConfig
from arpo_algo.engines import EngineSetup
from arpo_algo.lora import LoraConfig, attach, merged_weights, without_adapters


def build(model: Any, engine: str, *, separate: bool) -> Any:
    values = {"rollout": {"engine": engine, "slots": 4, "max_tokens": 200}, "learner": {"precision": "float32"}}
    config = options.load(RunConfig, values)
    return assembly.build_engine(config, model, byte_tokenizer(), "source", separate=separate)


@dataclass(frozen=True)
class NoOptions:
    pass


@pytest.mark.parametrize("separate", [False, True])
def test_an_engine_with_weights_of_its_own_gets_no_copy(monkeypatch: pytest.MonkeyPatch, separate: bool) -> None:
    """vLLM reads names and shapes: a copy for that would be the model's memory once more."""
    engines.list_engines()
    monkeypatch.setattr(engines, "_REGISTRY", dict(engines._REGISTRY))
    given: list[EngineSetup] = []

    @engines.register("own-weights", NoOptions)
    def own_weights(setup: EngineSetup, options: NoOptions) -> Any:
        given.append(setup)

    model = byte_model()
    build(model, "own-weights", separate=separate)
    assert given[0].model is model
    assert given[0].separate is separate


def test_the_torch_engine_copies_only_when_it_must() -> None:
    model = byte_model()
    assert build(model, "torch", separate=False).model is model
    made = build(model, "torch", separate=True)
    shared = {p.data_ptr() for p in made.model.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert made.model is not model
    assert not shared


def test_the_copy_has_no_adapters_and_takes_merged_weights() -> None:
    pytest.importorskip("peft", reason="pip install 'arpo[lora]'")
    model = byte_model()
    attach(model, LoraConfig(rank=2))
    generator = torch.Generator().manual_seed(0)

    def stir() -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))

    def tokens(made: Any) -> Any:
        made.submit(request(0))
        return drain(made)[0]

    stir()
    before = {n: p.clone() for n, p in model.named_parameters()}
    made = build(model, "torch", separate=True)
    first = tokens(made)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters()), "the learner's own is untouched"
    stir()
    made.load_weights(merged_weights(model))
    second = tokens(made)
    assert first.logprobs != pytest.approx(second.logprobs, abs=1e-3)
    assert second == tokens(build(model, "torch", separate=True)), "sent, or there from the start: the same bits"


def test_a_model_without_adapters_stays_as_it_is() -> None:
    model = byte_model()
    before = dict(model.named_parameters())
    assert without_adapters(model) is model
    assert {n: id(p) for n, p in model.named_parameters()} == {n: id(p) for n, p in before.items()}
