"""Nothing of a forward or backward pass depends on the device being a CPU, and nothing in it waits for the device.

On torch's ``meta`` device tensors have no values: whatever asks for one (which on a GPU waits until all queued work is
done) raises, and so do most operations between it and a tensor that was left on the CPU. Real GPUs: test_cuda.py.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import flex_on_cpu
import numpy as np
import pytest
import torch
import transformers.masking_utils
from test_engine import PROMPT, byte_model, engine, request
from test_gradient import KINDS, SYSTEM, credited
from test_speed import small_tree
from trees import random_tree, tiny_model

import arpo_algo.engines.torch as torch_engine
from arpo_algo.algorithms import make
from arpo_algo.attention import use_arpo_attention
from arpo_algo.packing import pack
from arpo_algo.scoring import score
from benchmarks.speed import update
from benchmarks.speed.update import Job, flat_pass, tree_pass

META = torch.device("meta")


@pytest.fixture(autouse=True)
def _meta(monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers looks at the positions once a forward, before the layers; and knows no autocast for "meta".
    monkeypatch.setattr(transformers.masking_utils, "find_packed_sequence_indices", lambda positions: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: False)
    monkeypatch.setattr(torch, "autocast", lambda *device, **options: nullcontext())


def test_meta_finds_what_it_is_used_for() -> None:
    values = torch.zeros(3, device=META)
    with pytest.raises(RuntimeError, match="meta"):
        float(values.sum())
    with pytest.raises(RuntimeError, match="meta"):
        values + torch.zeros(3)


@pytest.mark.parametrize("how", ["blocks", "flex"])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_the_update(kind: str, options: dict, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flex_on_cpu.use(monkeypatch)
    trees = [random_tree(np.random.default_rng(i), prompt=SYSTEM) for i in range(2)]
    made = pack(credited(trees, make("arpo"))).to(META)
    model = tiny_model(kind, **options).to(META)
    use_arpo_attention(model)
    out = score(model, made, attention=how, head_rows=16, entropy_gradient=True)
    (out.logp.sum() + out.entropy.sum()).backward()
    assert all(p.grad is not None and p.grad.device == META for p in model.parameters())


def test_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefill, decoding and forks; only the draw of tokens asks for values, once a step."""
    draws = 0

    def draw(logits: torch.Tensor, samplings: list[Any], rngs: list[Any]) -> Any:
        nonlocal draws
        draws += 1
        assert logits.device == META
        return [65] * len(logits), [-1.0] * len(logits), [1.0] * len(logits)

    monkeypatch.setattr(torch_engine, "draw", draw)
    made = engine(byte_model(kind="gemma2", sliding_window=7).to(META), slots=4)
    for i in range(6):
        made.submit(request(i, PROMPT[: 20 + i], n=5))
    steps = 0
    while made.busy:
        made.step()
        steps += 1
    assert draws == steps


@pytest.mark.parametrize("method", [tree_pass, flat_pass])  # stock transformers look at masks
def test_the_measured_updates(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``benchmarks.speed.update --device`` times runs where the model is."""
    model = byte_model().to(META)
    # The real one also returns metrics, which are numbers.
    monkeypatch.setattr(update, "loss_of", lambda packed, out, how: SimpleNamespace(loss=out.logp.sum()))
    method(Job("", 16, 2, "float32", 1, 1, device="meta"), [small_tree()], model)
    assert all(p.grad is not None and p.grad.device == META for p in model.parameters())
