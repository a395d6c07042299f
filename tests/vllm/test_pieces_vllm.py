"""What the vLLM engines are made of, without vLLM: entropy bounds, weight names, options, the hint."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from arpo_algo import engines
from arpo_algo.engines.base import Finished, Probed, Request
from arpo_algo.engines.collect import Progress, TopEntropy, seed_of
from arpo_algo.engines.stopping import Stopping
from arpo_algo.engines.weights import WeightLayout
from arpo_algo.entropy import entropy_from_logits
from arpo_algo.errors import ConfigError, TrainingError

VLLM_REFUSES = (
    {"top_logprobs": 0}, {"memory_share": 1.5}, {"kv_gib": 0}, {"lora_rank": -1}, {"step_tokens": 0}, {"dtype": "int8"},
)  # fmt: skip


def tiny(tied: bool) -> Any:
    config = AutoConfig.for_model(
        "llama", vocab_size=260, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        eos_token_id=257, tie_word_embeddings=tied,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


@given(st.lists(st.floats(-30, 30), min_size=4, max_size=60), st.integers(1, 4))
def test_the_exact_entropy_lies_within_the_kept_width(logits: list[float], k: int) -> None:
    logp = torch.tensor(logits).double().log_softmax(-1)
    exact = float(-(logp.exp() * logp).sum())
    bound = TopEntropy(len(logits))
    lower = bound(logp.topk(k).values.tolist())
    assert lower <= exact + 1e-9
    assert exact <= lower + bound.largest_width + 1e-9
    assert bound.mean_width == pytest.approx(bound.largest_width)


def test_tokens_cut_off_weigh_nothing() -> None:
    bound = TopEntropy(1000)
    assert bound([math.log(0.5), math.log(0.5), -math.inf]) == pytest.approx(math.log(2))
    assert bound.largest_width == pytest.approx(0.0)
    assert math.isnan(bound([math.nan, math.nan])), "for the log-prob's own check to report"
    assert float(entropy_from_logits(torch.tensor([0.0, 0.0, -torch.inf]))) == pytest.approx(math.log(2))


def test_progress_says_probe_and_end_once() -> None:
    progress = Progress(Request(5, (1,), 3, (), (0,), probe=2), Stopping(byte_tokenizer(), frozenset({257})))
    assert progress.add(65, -1.0, 0.5) is None
    assert progress.add(66, -2.0, 0.25) == Probed(5, (0.5, 0.25))
    assert progress.add(67, -3.0, 0.125) == Finished(
        5, (65, 66, 67), (-1.0, -2.0, -3.0), (0.5, 0.25, 0.125), byte_tokenizer().decode([65, 66, 67]), "length"
    )
    for bad in (math.nan, -math.inf):
        with pytest.raises(TrainingError, match="of request 5; the model's weights have diverged"):
            progress.add(65, bad, 0.0)


def test_streams_of_different_requests_differ() -> None:
    seeds = {seed_of(Request(0, (1,), 1, (), seed)) for seed in ((0, 0), (0, 1), (1, 0), (1, 1))}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_goes_by_both_names(tied: bool) -> None:
    model = tiny(tied)
    layout = WeightLayout.of(model)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    sent = dict(layout.checkpoint(weights, torch.bfloat16))
    assert set(sent) == set(model.state_dict())
    assert ("lm_head.weight" in weights) is not tied
    source = "model.embed_tokens.weight" if tied else "lm_head.weight"
    assert torch.equal(sent["lm_head.weight"], weights[source].bfloat16())


def test_unknown_engines_and_options_are_refused_by_name() -> None:
    assert {"torch", "vllm", "vllm-server"} <= set(engines.list_engines())
    with pytest.raises(ConfigError, match="unknown engine 'vlm'; did you mean 'vllm'"):
        engines.choose("vlm", {})
    with pytest.raises(ConfigError, match=r"did you mean 'rollout\.engine_options\.dtype'"):
        engines.choose("vllm", {"dtpe": "auto"})
    for bad in VLLM_REFUSES:
        with pytest.raises(ConfigError):
            engines.choose("vllm", bad)
    for bad in ({"top_logprobs": 0}, {"timeout": 0}):
        with pytest.raises(ConfigError):
            engines.choose("vllm-server", bad)


def test_without_vllm_the_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed
    tiny(True).save_pretrained(tmp_path)
    setup = engines.EngineSetup(tiny(True), byte_tokenizer(), str(tmp_path), 2, 64)
    with pytest.raises(ConfigError, match=r"lacks: `pip install vllm`.*make setup-vllm.*rollout\.engine=torch"):
        engines.choose("vllm", {}).build(setup)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match="cannot share a process with distributed training"):
        engines.choose("vllm", {}).build(setup)
