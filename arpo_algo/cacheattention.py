"""Attention of new tokens over a ragged cache of keys and values: the plan that sampling hands to the model.

New tokens of many sequences lie in one row, without padding; each attends to its own slot of a preallocated cache.
Rows whose sequences begin alike may read that beginning from one slot together (:class:`Shared`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from arpo_algo.treeattention import BLOCK


class KVCache:
    """Preallocated keys and values of every layer and slot. A fork copies one slot's prefix.

    ``k`` [layers, slots, H_kv, D, capacity], ``v`` [layers, slots, H_kv, capacity, D]: keys lie as the product with a
    query reads them, which halves the time of a decoding step's attention in bfloat16 on CPUs.
    """

    def __init__(
        self, layers: int, slots: int, kv_heads: int, capacity: int, head_dim: int, dtype: torch.dtype, device: str
    ) -> None:
        self.k = torch.zeros(layers, slots, kv_heads, head_dim, capacity, dtype=dtype, device=device)
        self.v = torch.zeros(layers, slots, kv_heads, capacity, head_dim, dtype=dtype, device=device)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Make the first ``length`` positions of slot ``target`` those of ``source``."""
        self.k[:, target, ..., :length] = self.k[:, source, ..., :length]
        self.v[:, target, :, :length] = self.v[:, source, :, :length]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Row tokens ``[begin, end)`` belong to ``slot`` and start at position ``start`` of its sequence."""

    begin: int
    end: int
    slot: int
    start: int


@dataclass(frozen=True, slots=True)
class Shared:
    """Decoding rows (their numbers, increasing) whose sequences have the first ``length`` positions in common."""

    rows: tuple[int, ...]
    length: int


class CachePlan:
    """Attention of new tokens over their slots: single-token rows at once, longer chunks one by one.

    Args:
        cache: where keys and values are written and read.
        decode: chunks of one token each, in row order from 0, slots strictly increasing.
        prefill: the chunks after them.
        shared: what decoding rows read together; no row is in two of them.
    """

    def __init__(
        self, cache: KVCache, decode: list[Chunk], prefill: list[Chunk], shared: Sequence[Shared] = ()
    ) -> None:
        self.cache = cache
        self.prefill = prefill
        self.n_decode = len(decode)
        self._causal: dict[tuple[int, int, int | None], torch.Tensor] = {}
        if decode:
            device = cache.k.device
            self.slots = torch.tensor([c.slot for c in decode], device=device)
            self.at = torch.tensor([c.start for c in decode], device=device)
            grouped = {row for group in shared for row in group.rows}
            rest = [row for row in range(len(decode)) if row not in grouped]
            self.reads = [_Read(decode, group.rows, group.length, device) for group in shared]
            if rest:
                self.reads.append(_Read(decode, rest, 0, device))

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale: float,
        window: int | None,
        softcap: float | None = None,
    ) -> torch.Tensor:
        cache_k, cache_v = self.cache.k[layer], self.cache.v[layer]
        q, k, v = (x[0].transpose(0, 1).to(cache_k.dtype) for x in (q, k, v))  # [T, heads, D]
        length, heads, dim = q.shape
        kv_heads = k.shape[1]
        # Grouped-query heads become query rows of their key head: nothing is repeated.
        grouped = q.reshape(length, kv_heads, -1, dim)
        out = torch.empty_like(q)
        n = self.n_decode
        if n:
            cache_k[self.slots, :, :, self.at] = k[:n]
            cache_v[self.slots, :, self.at] = v[:n]
            for read in self.reads:
                got = read.attend(grouped[read.rows], cache_k, cache_v, scale, window, softcap)
                out[read.rows] = got.reshape(-1, heads, dim)
        for c in self.prefill:
            stop = c.start + c.end - c.begin
            cache_k[c.slot, :, :, c.start : stop] = k[c.begin : c.end].permute(1, 2, 0)
            cache_v[c.slot, :, c.start : stop] = v[c.begin : c.end].transpose(0, 1)
            for begin in range(c.begin, c.end, BLOCK):
                end = min(begin + BLOCK, c.end)
                first, last = c.start + begin - c.begin, c.start + end - c.begin
                queries = grouped[begin:end].permute(1, 2, 0, 3)  # [H_kv, g, n, D]
                score = torch.matmul(queries.reshape(kv_heads, -1, dim), cache_k[c.slot, ..., :last])
                mask = self._prefill_mask(first, last, window).repeat(queries.shape[1], 1)
                got = torch.matmul(_weights(score, mask, scale, softcap), cache_v[c.slot, :, :last])
                out[begin:end] = got.view(heads, end - begin, dim).transpose(0, 1)
        return out[None]

    def _prefill_mask(self, first: int, last: int, window: int | None) -> torch.Tensor:
        """[last − first, last], 0 or −inf: positions ``first … last−1`` over ``0 … last−1``."""
        key = (first, last, window)
        if key not in self._causal:
            own = torch.arange(first, last, device=self.cache.k.device)
            self._causal[key] = _mask(own, last, window)
        return self._causal[key]


class _Read:
    """Decoding rows that attend at once: to ``first`` positions of the first one's slot together, then each to its own.

    Args:
        decode: all decoding chunks. rows: the numbers of those meant, increasing.
        first: positions that they have in common, 0 for none; less than any row's position.
    """

    def __init__(self, decode: list[Chunk], rows: Sequence[int], first: int, device: torch.device) -> None:
        chunks = [decode[row] for row in rows]
        self.rows = torch.tensor(rows, device=device)
        self.first = first
        self.low, self.high = chunks[0].slot, chunks[-1].slot + 1
        self.length = max(c.start for c in chunks) + 1
        #: Where the slots between are nearly all meant, read the cache in place and let the others ride along (they
        #: attend to key 0 and are dropped): cheaper than gathering every key and value.
        self.in_place = 2 * len(chunks) >= self.high - self.low
        self.slots = torch.tensor([c.slot for c in chunks], device=device)
        self.n = self.high - self.low if self.in_place else len(chunks)
        self.places = self.slots - self.low if self.in_place else torch.arange(self.n, device=device)
        self.at = torch.zeros(self.n, dtype=torch.long, device=device)
        self.at[self.places] = torch.tensor([c.start for c in chunks], device=device)
        self._masks: dict[int | None, torch.Tensor] = {}

    def attend(
        self,
        q: torch.Tensor,
        cache_k: torch.Tensor,
        cache_v: torch.Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """q: [rows, H_kv, g, D] -> the same; ``cache_k``, ``cache_v``: one layer's."""
        rows, kv_heads, group, dim = q.shape
        k, v = cache_k[..., self.first : self.length], cache_v[:, :, self.first : self.length]
        if self.in_place:
            k, v = k[self.low : self.high], v[self.low : self.high]
        else:
            k, v = k.index_select(0, self.slots), v.index_select(0, self.slots)
        if self.n != rows:
            rows_only, q = q, q.new_zeros(self.n, kv_heads, group, dim)
            q[self.places] = rows_only
        if window not in self._masks:  # the same for all layers with one window
            self._masks[window] = _mask(self.at, self.length, window)[:, None, None]
        mask = self._masks[window]
        score = torch.matmul(q, k)
        if self.first == 0:
            return torch.matmul(_weights(score, mask, scale, softcap), v)[self.places]
        # Queries of all rows against the one prefix, as rows of one matrix a head.
        k, head = cache_k[self.low, ..., : self.first], cache_v[self.low, :, : self.first]
        common = torch.matmul(q.transpose(0, 1).reshape(kv_heads, -1, dim), k)
        common = common.view(kv_heads, self.n, group, self.first).transpose(0, 1)
        p = _weights(torch.cat([common, score], -1), mask, scale, softcap)
        got = torch.matmul(p[..., : self.first].transpose(0, 1).reshape(kv_heads, -1, self.first), head)
        got = got.view(kv_heads, self.n, group, dim).transpose(0, 1)
        return (got + torch.matmul(p[..., self.first :], v))[self.places]


def _mask(at: torch.Tensor, length: int, window: int | None) -> torch.Tensor:
    """[len(at), length], 0 or −inf: who at positions ``at`` sees what of positions ``0 … length−1``."""
    key = torch.arange(length, device=at.device)
    hidden = key[None] > at[:, None]
    if window is not None:
        hidden |= key[None] <= at[:, None] - window
    return torch.zeros(hidden.shape, device=at.device).masked_fill_(hidden, -torch.inf)


def _weights(score: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
    """softmax(cap(scale·score) + mask), computed in float32."""
    dtype = score.dtype
    score = score.float().mul_(scale)  # a product's result: nobody else's
    if softcap is not None:
        score = score.div_(softcap).tanh_().mul_(softcap)
    return score.add_(mask).softmax(-1).to(dtype)
