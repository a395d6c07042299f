"""Truncated draws of many rows at once are those of one row after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from arpo_algo.engines import drawing
from arpo_algo.engines.base import Sampling
from arpo_algo.engines.drawing import draw, truncate


def one_row(logp: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """As it was first written: the whole vocabulary is sorted, ``logp``: [V]."""
    order = logp.argsort(descending=True, stable=True)
    ranked = logp[order]
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if top_k:
        keep[top_k:] = False
    if top_p < 1:
        mass = torch.where(keep, ranked, -torch.inf).softmax(-1)
        keep &= mass.cumsum(-1) - mass < top_p
    out = torch.full_like(logp, -torch.inf)
    out[order[keep]] = ranked[keep]
    return torch.log_softmax(out, -1)


def random_logits(seed: int, rows: int, vocab: int, kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * 3
    if kind == "ties":
        logits = logits.round()
    elif kind == "flat":
        logits = torch.zeros_like(logits)
    elif kind == "masked":
        logits[:, 1:][torch.rand(rows, vocab - 1, generator=generator) < 0.7] = -torch.inf
    return logits


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    vocab=st.sampled_from([1, 2, 7, 64, 260, 1000]),
    kind=st.sampled_from(["plain", "ties", "flat", "masked"]),
    top_k=st.sampled_from([0, 1, 2, 5, 20, 64, 300, 10**6]),
    top_p=st.sampled_from([1.0, 0.999, 0.95, 0.5, 1e-3, 1e-9]),
)
def test_the_same_tokens_are_kept(seed: int, vocab: int, kind: str, top_k: int, top_p: float) -> None:
    logp = random_logits(seed, 5, vocab, kind).log_softmax(-1)
    got, p = truncate(logp, top_k, top_p)
    assert torch.allclose(p, got.exp(), atol=1e-7)
    assert torch.equal(p > 0, got.exp() > 0)
    for row, alone in zip(got, logp, strict=True):
        want = one_row(alone, top_k, top_p)
        assert torch.equal(row > -torch.inf, want > -torch.inf)
        assert torch.allclose(row, want, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "ties"])
def test_draws_of_a_mixed_batch_are_those_of_each_alone(kind: str) -> None:
    """Rows of every kind in one batch, a large vocabulary; each row keeps its own random stream."""
    kinds = [
        Sampling(0.6, 0.95, 20), Sampling(), Sampling(0.0), Sampling(0.7, 0.8), Sampling(1.0, 1.0, 3),
        Sampling(0.6, 0.95, 20), Sampling(0.0, 0.5, 2), Sampling(1.3, 1e-6), Sampling(1.0, 0.9, 10**6),
    ]  # fmt: skip
    samplings = kinds * 3
    logits = random_logits(1, len(samplings), 49_152, kind)
    tokens, logprobs, entropies = draw(logits, samplings, [np.random.default_rng(i) for i in range(len(samplings))])
    for i, sampling in enumerate(samplings):
        scaled = (logits[i] / (sampling.temperature or 1.0)).log_softmax(-1)
        assert entropies[i] == pytest.approx(float(-(scaled.exp() * scaled).sum()), abs=1e-4)
        if sampling.temperature == 0:
            assert tokens[i] == int(logits[i].argmax())
            continue
        logp = one_row(scaled, sampling.top_k, sampling.top_p)
        u = torch.tensor([np.random.default_rng(i).random()], dtype=torch.float64)
        assert tokens[i] == int(drawing._inverse_cdf(logp.exp()[None], u))
        assert logprobs[i] == pytest.approx(float(logp[tokens[i]]), abs=1e-6)


def test_top_k_sorts_candidates_only_and_all_rows_at_once() -> None:
    """Evaluation's default. What is sorted is counted, not timed."""
    sizes: list[tuple[int, ...]] = []

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function.overloadpacket in (torch.ops.aten.sort, torch.ops.aten.argsort):
                sizes.append(tuple(args[0].shape))
            return function(*args, **(kwargs or {}))

    logits = random_logits(0, 6, 5000, "plain")
    with Watched():
        draw(logits, [Sampling(0.6, 0.95, 20)] * 6, [np.random.default_rng(i) for i in range(6)])
    assert sizes
    assert set(sizes) == {(6, 20)}
