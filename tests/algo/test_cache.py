"""Attention over the cache against plain masked attention, and which sequences read a prefix together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import PROMPT, byte_model, drain, engine, request

from arpo_algo.cacheattention import CachePlan, Chunk, KVCache, Shared
from arpo_algo.engines import torch as torch_engine
from arpo_algo.engines.base import Finished
from arpo_algo.engines.sharing import common_prefix, shared_prefixes


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None, softcap: float | None) -> torch.Tensor:
    """One sequence. q: [H, n, D], the last n positions; k, v: [H, L, D] -> [n, H, D]."""
    n, length = q.shape[1], k.shape[1]
    score = q @ k.transpose(1, 2) * 0.3
    if softcap is not None:
        score = softcap * (score / softcap).tanh()
    own = torch.arange(length - n, length)[:, None]
    key = torch.arange(length)[None]
    seen = key <= own if window is None else (key <= own) & (key > own - window)
    return (score.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(0, 1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=3),
    prefilled=st.integers(0, 2),
    slots=st.integers(14, 30),
    window=st.one_of(st.none(), st.integers(1, 8)),
    softcap=st.sampled_from([None, 1.5]),
)
def test_a_plan_is_masked_attention(
    seed: int, groups: list[tuple[int, int]], prefilled: int, slots: int, window: int | None, softcap: float | None
) -> None:
    """For any slots in use, prefixes read together, windows and caps; other slots hold rubbish."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 1000)
    heads, kv_heads, dim, capacity = 4, 2, 4, 24
    cache = KVCache(1, slots, kv_heads, capacity, dim, torch.float32, "cpu")
    cache.k.normal_()
    cache.v.normal_()
    used = rng.permutation(slots)
    members = [(number, length) for number, (size, length) in enumerate(groups) for _ in range(size)]
    order = sorted(range(len(members)), key=lambda i: used[i])
    decode: list[Chunk] = []
    rows: dict[int, list[int]] = {}
    for i in order:
        number, length = members[i]
        if number in rows:
            cache.copy_prefix(decode[rows[number][0]].slot, int(used[i]), length)
        rows.setdefault(number, []).append(len(decode))
        decode.append(Chunk(len(decode), len(decode) + 1, int(used[i]), length + int(rng.integers(0, 6))))
    prefill: list[Chunk] = []
    total = len(decode)
    for i in range(prefilled):
        size = int(rng.integers(2, 8))
        prefill.append(Chunk(total, total + size, int(used[len(members) + i]), int(rng.integers(0, 9))))
        total += size
    shared = [Shared(tuple(r), groups[number][1]) for number, r in rows.items() if len(r) > 1]
    q = torch.randn(1, heads, total, dim)
    k, v = (torch.randn(1, kv_heads, total, dim) for _ in range(2))
    before = cache.k.clone(), cache.v.clone()
    got = CachePlan(cache, decode, prefill, shared).attend(0, q, k, v, 0.3, window, softcap)[0]
    for c in (*decode, *prefill):
        keys = torch.cat([before[0][0, c.slot, :, :, : c.start].transpose(1, 2), k[0, :, c.begin : c.end]], 1)
        values = torch.cat([before[1][0, c.slot, :, : c.start], v[0, :, c.begin : c.end]], 1)
        want = plain(
            q[0, :, c.begin : c.end],
            keys.repeat_interleave(heads // kv_heads, 0),
            values.repeat_interleave(heads // kv_heads, 0),
            window,
            softcap,
        )
        assert torch.allclose(got[c.begin : c.end], want, atol=1e-5)


SEQUENCES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=6)


def best(ordered: list[list[int]], overhead: int) -> int:
    """The most that any way to cut ``ordered`` into groups saves, by trying all of them."""
    if not ordered:
        return 0
    most = best(ordered[1:], overhead)
    for size in range(2, len(ordered) + 1):
        group = ordered[:size]
        common = min(min(len(s) - 1 for s in group), min(common_prefix(group[0], s) for s in group))
        if common:
            most = max(most, (size - 1) * common - overhead + best(ordered[size:], overhead))
    return most


@settings(max_examples=150, deadline=None)
@given(sequences=SEQUENCES, overhead=st.integers(0, 4))
def test_no_other_cuts_save_more(sequences: list[list[int]], overhead: int) -> None:
    groups = shared_prefixes(sequences, overhead)
    rows = [row for group in groups for row in group.rows]
    assert len(rows) == len(set(rows))
    for group in groups:
        assert list(group.rows) == sorted(group.rows)
        assert len({tuple(sequences[row][: group.length]) for row in group.rows}) == 1
        assert all(group.length < len(sequences[row]) for row in group.rows)
    assert sum((len(g.rows) - 1) * g.length - overhead for g in groups) == best(sorted(sequences), overhead)


@given(a=st.lists(st.integers(0, 1), max_size=40), n=st.integers(0, 40), b=st.lists(st.integers(0, 1), max_size=5))
def test_common_prefix(a: list[int], n: int, b: list[int]) -> None:
    other = a[:n] + b
    want = next((i for i, (x, y) in enumerate(zip(a, other, strict=False)) if x != y), min(len(a), len(other)))
    assert common_prefix(a, other) == want


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_reading_a_prefix_together_changes_no_result(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts with branches, some ending early; run again with the same request numbers and other tokens."""

    def run(share: bool) -> list[Finished]:
        seen: list[int] = []

        def counted(sequences: list[list[int]]) -> list[Shared]:
            groups = shared_prefixes(sequences, overhead=0)
            seen.append(len(groups))
            return groups

        monkeypatch.setattr(torch_engine, "shared_prefixes", counted)
        made = engine(byte_model(kind=kind), share_reads=share)
        out = []
        for repeat in range(2):
            for i in range(8):
                made.submit(request(i, PROMPT if i % 2 else PROMPT[repeat + 3 :], n=4 + 2 * i))
            done = drain(made)
            for i in range(8):
                made.release(i)
            out += [done[i] for i in range(8)]
        assert max(seen, default=0) == 2 * share
        return out

    for together, apart in zip(run(True), run(False), strict=True):
        assert together.tokens == apart.tokens
        assert together.logprobs == pytest.approx(apart.logprobs, abs=1e-5)
        assert together.entropies == pytest.approx(apart.entropies, abs=1e-5)


def test_groups_of_earlier_requests_with_the_same_numbers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """All cached, so that the first step decodes what the last one did: by number, but not by tokens."""
    monkeypatch.setattr(torch_engine, "shared_prefixes", lambda sequences: shared_prefixes(sequences, overhead=0))
    other = PROMPT[::-1]
    made = engine()
    made.submit(request(2, other, n=1))
    drain(made)
    made.release(2)
    for i in range(2):
        made.submit(request(i, n=4 - i))  # the second waits a step for the prompt; both end together
    drain(made)
    made.release(0)
    made.release(1)
    made.submit(request(0, other))
    made.submit(request(1))
    done = drain(made)
    assert made.prefilled == len(other) + len(PROMPT), "nothing was prefilled again"
    alone = engine()
    alone.submit(request(1))
    assert done[1].logprobs == pytest.approx(drain(alone)[1].logprobs, abs=1e-5)
