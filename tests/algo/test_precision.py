"""bfloat16: products only. Parameters stay float32, and engine and learner compute the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_engine import PROMPT, byte_model, drain, engine, request
from trees import random_tree, tiny_model

from arpo_algo.algorithms import make
from arpo_algo.attention import use_arpo_attention
from arpo_algo.engines.workingcopy import WorkingCopy, packs
from arpo_algo.errors import ConfigError
from arpo_algo.learner import Learner
from arpo_algo.optimizer import LearnerConfig
from arpo_algo.packing import Credited, pack
from arpo_algo.precision import autocast, resolve_precision
from arpo_algo.scoring import score
from arpo_algo.tree import Outcome, Tree

CPU = torch.device("cpu")
NEEDS_BF16 = pytest.mark.skipif(not packs(torch.bfloat16, CPU), reason="this CPU has no AVX512 for bfloat16 products")


@pytest.mark.parametrize("packed", [False, pytest.param(True, marks=NEEDS_BF16)])
@pytest.mark.parametrize("tied", [True, False])
def test_a_working_copy_computes_what_autocast_computes_and_follows_new_weights(tied: bool, packed: bool) -> None:
    model = byte_model(kind="qwen2", tie_word_embeddings=tied)  # qwen2's queries, keys and values have biases
    made = WorkingCopy(model, torch.bfloat16, packed)
    ids = torch.tensor([PROMPT])

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad(), autocast("bfloat16", CPU):
            return model(ids).logits, made.model(ids).logits

    assert torch.equal(*both())
    before = both()[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    made.refresh()
    assert torch.equal(*both())
    assert not torch.equal(before, both()[0])
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_engine_in_bfloat16_agrees_with_the_learner_under_autocast() -> None:
    """The mismatch between engine and learner is that of batching, far below that of the number format."""
    model = byte_model()
    made = engine(model, precision="bfloat16")
    made.submit(request(0, n=24))
    event = drain(made)[0]
    tree = Tree("x", list(PROMPT))
    node = tree.add(0, "action", list(event.tokens))
    node.logprobs, node.outcome = list(event.logprobs), Outcome(1.0)
    packed = pack([Credited(tree, {(node.id, node.id): 1.0}, {(node.id, node.id): 1.0})])
    with torch.no_grad(), autocast("bfloat16", CPU):
        learner = score(model, packed).logp
    with torch.no_grad():
        exact = score(model, packed).logp
    engine_error = (packed.rollout_logp - learner).abs().mean()
    format_error = (exact - learner).abs().mean()
    assert format_error > 0
    assert engine_error < format_error


def test_new_weights_reach_the_working_copy() -> None:
    model = byte_model(0)
    made = engine(model, precision="bfloat16")
    made.submit(request(0))
    drain(made)
    made.load_weights(dict(byte_model(1).named_parameters()))
    made.submit(request(1))
    fresh = engine(byte_model(1), precision="bfloat16")
    fresh.submit(request(1))
    assert drain(made)[1] == drain(fresh)[1]


def test_master_weights_moments_and_gradients_are_float32_under_autocast() -> None:
    model = tiny_model("llama")
    use_arpo_attention(model)
    before = {k: v.clone() for k, v in model.named_parameters()}
    learner = Learner(model, LearnerConfig(lr=1e-6, precision="bfloat16"))
    assert learner.precision == "bfloat16"
    learner.update([random_tree(np.random.default_rng(0))], make("grpo"))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    moments = [t for s in learner.optimizer.state.values() for t in s.values() if t.dim() > 0]
    assert moments
    assert all(m.dtype == torch.float32 for m in moments)
    # What bfloat16 parameters would lose: steps of 1e-6 are below half their last digit.
    moved = [(p - before[k]).abs().max() for k, p in model.named_parameters()]
    assert max(moved) > 0
    assert all(torch.equal((before[k].bfloat16() + (p - before[k])).bfloat16(), before[k].bfloat16())
               for k, p in model.named_parameters() if k.endswith("norm.weight"))  # fmt: skip


def test_auto_and_unknown_names() -> None:
    assert resolve_precision("float32", CPU) == "float32"
    assert resolve_precision("auto", CPU) in ("float32", "bfloat16")
    assert resolve_precision("auto", torch.device("cuda")) == "bfloat16"
    with pytest.raises(ConfigError, match="bfloat16"):
        resolve_precision("bfloat", CPU)  # type: ignore[arg-type]
