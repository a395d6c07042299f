"""Combinations that elsewhere give wrong numbers without a word: here they raise, or are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_engine import PROMPT, byte_model, drain, engine, request
from test_gradient import credited, gradient
from toy import byte_tokenizer
from trees import random_tree, tiny_model

from arpo_algo import learner as learner_module
from arpo_algo.algorithms import make
from arpo_algo.attention import use_arpo_attention
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.learner import Learner
from arpo_algo.optimizer import LearnerConfig
from arpo_algo.packing import pack
from arpo_algo.rendering import Renderer
from arpo_algo.scoring import loss_of, score


def packed_tree(seed: int = 0) -> Any:
    return pack(credited([random_tree(np.random.default_rng(seed))], make("grpo")))


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(1, 1, 3, 3, dtype=torch.bool),  # eager attention would add it
        torch.zeros(1, 1, 3, 3),
        torch.tensor([[0, 1, 1]]),  # padding
    ],
)
def test_a_mask_is_refused(mask: torch.Tensor) -> None:
    model = tiny_model("llama")
    use_arpo_attention(model)
    with pytest.raises(RuntimeError, match="takes no mask"):
        model(torch.tensor([[5, 6, 7]]), attention_mask=mask)


def test_tree_positions_without_a_plan_are_refused() -> None:
    """Stock attention reads a reset of positions as the next packed document."""
    model = tiny_model("llama")
    use_arpo_attention(model)
    with pytest.raises(RuntimeError, match="needs plan="):
        model(torch.tensor([[5, 6, 7, 8]]), position_ids=torch.tensor([[0, 1, 2, 1]]))


def test_a_cache_of_transformers_is_refused() -> None:
    model = tiny_model("llama")
    use_arpo_attention(model)
    made = packed_tree()
    inputs = {"input_ids": made.tokens[None], "position_ids": made.positions[None], "plan": made.plan()}
    cache = model(**inputs, use_cache=True).past_key_values
    with pytest.raises(RuntimeError, match="takes no cache of transformers"):
        model(**inputs, past_key_values=cache)


def test_checkpointing_with_a_cache_configured_changes_nothing() -> None:
    """A config that says use_cache=True, as most do: with checkpointing, stock trees lose their cache in silence."""
    model = tiny_model("llama", use_cache=True)
    made, algorithm = packed_tree(3), make("grpo")
    grads = []
    for on in (False, True):
        learner = Learner(model, LearnerConfig(precision="float32", gradient_checkpointing=on))
        model.zero_grad()
        model.train()
        loss_of(made, score(learner.model, made), algorithm, made.rollout_logp).loss.backward()
        grads.append(gradient(model))
    assert torch.allclose(*grads, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("kind", "option"), [("llama", "attention_dropout"), ("phi3", "resid_pdrop")])
def test_dropout_is_refused_by_engine_and_learner(kind: str, option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        Learner(tiny_model(kind, **{option: 0.1}), LearnerConfig())
    with pytest.raises(ConfigError, match=option):
        engine(byte_model(kind=kind, **{option: 0.1}))


def test_models_that_look_ahead_or_are_not_tested_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="use_bidirectional_attention"):
        use_arpo_attention(tiny_model("gemma3_text", use_bidirectional_attention=True))
    with pytest.raises(ConfigError, match="'olmo2' is not supported by tree attention; supported: llama"):
        use_arpo_attention(tiny_model("olmo2"))


def test_a_trajectory_beyond_the_context_is_refused_in_training() -> None:
    model = tiny_model("llama", max_position_embeddings=16)
    learner = Learner(model, LearnerConfig(precision="float32"))
    with pytest.raises(ConfigError, match=r"exceeds the model's context of 16; lower rollout\.max_tokens"):
        learner.update([random_tree(np.random.default_rng(1), prompt=list(range(3, 20)))], make("grpo"))


def test_no_pad_token_is_needed() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    model = byte_model(pad_token_id=None)
    made = engine(model)
    made.tokenizer = tokenizer
    for i in range(3):
        made.submit(request(i, PROMPT[: 9 + i]))
    assert sorted(drain(made)) == [0, 1, 2]


def test_a_tokenizer_that_adds_bos_does_not_put_it_inside_a_trajectory() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    bos = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.eos_token_id)]
    )
    assert tokenizer.encode("x")[0] == tokenizer.eos_token_id
    renderer = Renderer(tokenizer)
    assert tokenizer.eos_token_id not in renderer.result("a result")
    assert tokenizer.eos_token_id not in renderer.turn("a turn")


def test_out_of_memory_names_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match=r"out of memory: lower rollout\.slots"):
        engine(slots=10**9)
    learner = Learner(tiny_model("llama"), LearnerConfig(precision="float32"))

    def full(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(learner_module, "score", full)
    with pytest.raises(TrainingError, match=r"out of memory: lower learner\.pack_tokens.*20\.00 GiB"):
        learner.update([random_tree(np.random.default_rng(2))], make("grpo"))
