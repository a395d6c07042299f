"""The two fused operations against what they replace, written out plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_algo.head import token_logprobs
from arpo_algo.treeattention import Segment, blocks, tree_attention


def random_segments(rng: np.random.Generator, count: int) -> list[Segment]:
    """Segments in depth-first order under random parents of the open path; at times a second tree."""
    out: list[Segment] = []
    path: list[int] = []
    begin = 0
    for i in range(count):
        path = path[: int(rng.integers(0, len(path) + 1))]
        above = tuple((out[j].begin, out[j].end) for j in path)
        length = int(rng.integers(1, 9))
        out.append(Segment(begin, begin + length, sum(b - a for a, b in above), above))
        path.append(i)
        begin += length
    return out


def dense_mask(segments: list[Segment], window: int | None) -> torch.Tensor:
    total = segments[-1].end
    depth = torch.cat([torch.arange(s.start, s.start + s.end - s.begin) for s in segments])
    seen = torch.zeros(total, total, dtype=torch.bool)
    for s in segments:
        for a, b in (*s.above, (s.begin, s.end)):
            seen[s.begin : s.end, a:b] = True
    seen &= depth[None] <= depth[:, None]
    return seen if window is None else seen & (depth[None] > depth[:, None] - window)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 9),
    size=st.integers(1, 12),
    window=st.one_of(st.none(), st.integers(1, 15)),
    softcap=st.sampled_from([None, 1.5]),
    groups=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
)
def test_tree_attention_is_masked_attention(
    seed: int, count: int, size: int, window: int | None, softcap: float | None, groups: tuple[int, int]
) -> None:
    """Values and gradients, for every tree, block size, window, cap and grouping of heads."""
    segments = random_segments(np.random.default_rng(seed), count)
    heads, kv_heads = groups
    total, dim = segments[-1].end, 4
    torch.manual_seed(seed % 1000)
    q = torch.randn(1, heads, total, dim, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(1, kv_heads, total, dim, dtype=torch.float64, requires_grad=True) for _ in range(2))
    above = torch.randn(1, total, heads, dim, dtype=torch.float64)

    score = q @ k.repeat_interleave(heads // kv_heads, 1).transpose(2, 3) * 0.7
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    p = score.masked_fill(~dense_mask(segments, window), -torch.inf).softmax(-1)
    want = (p @ v.repeat_interleave(heads // kv_heads, 1)).transpose(1, 2)
    want_grads = torch.autograd.grad(want, (q, k, v), above)

    got = tree_attention(q, k, v, blocks(segments, size), 0.7, window, softcap)
    got_grads = torch.autograd.grad(got, (q, k, v), above)
    for a, b in zip((got, *got_grads), (want, *want_grads), strict=True):
        assert torch.allclose(a, b, atol=2e-5)


def test_blocks_join_adjoining_ranges() -> None:
    parent, child = Segment(0, 5, 0), Segment(5, 9, 5, ((0, 5),))
    other = Segment(9, 12, 5, ((0, 5),))
    made = blocks([parent, child, other], 4)
    assert [b.ranges for b in made] == [((0, 4),), ((0, 5),), ((0, 9),), ((0, 5), (9, 12))]
    assert [b.depth for b in made] == [0, 4, 5, 5]


@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (0.7, None), (1.3, 2.0)])
@pytest.mark.parametrize("with_entropy", [True, False])
def test_head_values_and_gradients(rows: int, temperature: float, softcap: float | None, with_entropy: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(s, generator=generator, requires_grad=True) for s in ((7, 5), (11, 5), (11,)))
    target = torch.randint(0, 11, (7,), generator=generator)
    a, b = torch.randn(7, generator=generator), torch.randn(7, generator=generator)

    z = hidden @ weight.T + bias
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    logp_all = (z / temperature).log_softmax(-1)
    logp, entropy = logp_all.gather(-1, target[:, None])[:, 0], -(logp_all.exp() * logp_all).sum(-1)
    inputs = (hidden, weight, bias)
    want = torch.autograd.grad((a * logp + b * entropy * with_entropy).sum(), inputs)

    got_logp, got_entropy = token_logprobs(
        hidden, weight, target, bias=bias, temperature=temperature, softcap=softcap, rows=rows,
        entropy_gradient=with_entropy,
    )  # fmt: skip
    assert got_entropy.requires_grad == with_entropy
    loss = (a * got_logp).sum() + ((b * got_entropy).sum() if with_entropy else 0.0)
    got = torch.autograd.grad(loss, inputs)
    assert torch.allclose(got_logp, logp, atol=1e-6)
    assert torch.allclose(got_entropy, entropy, atol=1e-6)
    for x, y in zip(got, want, strict=True):
        assert torch.allclose(x, y, atol=1e-5)


def test_head_leaves_frozen_weights_alone_and_takes_entropy_alone() -> None:
    hidden = torch.randn(4, 5, requires_grad=True)
    weight, target = torch.randn(9, 5), torch.tensor([0, 1, 2, 3])
    logp, _ = token_logprobs(hidden, weight, target)
    logp.sum().backward()
    assert weight.grad is None
    frozen = hidden.detach()
    only = torch.autograd.functional.jacobian(
        lambda h: token_logprobs(h, weight, target, entropy_gradient=True)[1].sum(), frozen
    )
    plain = torch.autograd.functional.jacobian(
        lambda h: torch.distributions.Categorical(logits=h @ weight.T).entropy().sum(), frozen
    )
    assert torch.allclose(only, plain, atol=1e-5)
