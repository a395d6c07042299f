"""Attention for trees and for a ragged KV cache, registered with transformers so that stock models work.

One registered implementation, ``"arpo"``, takes a *plan* as a forward keyword and lets it attend:

* :class:`TreePlan` (training): the tokens of packed trees lie in one row; each segment attends to its own
  ancestors and, causally, to itself. No T×T mask is ever made, and a shared prefix is computed once.
* :class:`CachePlan` (sampling): new tokens of many sequences lie in one row, without padding; each attends to
  its own slot of a preallocated cache.

Every other way that we know of to hand a stock model a tree is silently wrong in some configuration (eager
with a boolean mask; position resets read as packed documents; checkpointing with a cache). Here a forward
without a plan raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from arpo_algo.errors import ConfigError

NAME = "arpo"
#: Architectures whose packed gradient is tested against separate sequences. Others are refused by name.
SUPPORTED = ("llama", "qwen2", "qwen3", "phi3", "mistral", "smollm3")


class Plan(Protocol):
    """Who attends to whom. q: [1, H, T, D]; k, v: [1, H_kv, T, D]; returns [1, T, H, D]."""

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens ``[begin, end)`` of the row, a run without forks, at depth ``start``; ``above``: its ancestors' ranges."""

    begin: int
    end: int
    start: int
    above: tuple[tuple[int, int], ...] = ()


class TreePlan:
    """Attention over ancestors only.

    Args:
        segments: in row order, covering the row; ancestors come before descendants.
        positions: [T] depth of each token (its position in its trajectory).
    """

    def __init__(self, segments: list[Segment], positions: torch.Tensor) -> None:
        self.segments = segments
        self.positions = positions
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}
        self._sizes = [s.end - s.begin for s in segments]
        number = {s.begin: i for i, s in enumerate(segments)}
        #: Of each segment: the segments it attends to, ancestors first, itself last.
        self._chains = [[*(number[begin] for begin, _ in s.above), i] for i, s in enumerate(segments)]

    def _mask(self, i: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """[n, p + n] bool (True: attend) of segment ``i``; None where plain causal attention says the same."""
        key = (i, window)
        if key not in self._masks:
            seg = self.segments[i]
            if not seg.above and (window is None or seg.end - seg.begin <= window):
                self._masks[key] = None
            else:
                own = torch.arange(seg.start, seg.start + seg.end - seg.begin, device=device)
                keys = torch.cat([*(self.positions[a:b].to(device) for a, b in seg.above), own])
                mask = keys[None, :] <= own[:, None]
                if window is not None:  # the window is counted along the trajectory, not along the row
                    mask &= keys[None, :] > own[:, None] - window
                self._masks[key] = mask
        return self._masks[key]

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        if torch.is_autocast_enabled(q.device.type):  # once here, not once for each segment that is attended to
            q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
        # Split once: its backward is one concatenation, where slices would each fill a row-sized gradient.
        queries, keys, values = (torch.split(x, self._sizes, 2) for x in (q, k, v))
        gqa = k.shape[1] != q.shape[1]
        out = []
        for i, chain in enumerate(self._chains):
            mask = self._mask(i, window, q.device)
            key = torch.cat([keys[j] for j in chain], 2) if len(chain) > 1 else keys[i]
            value = torch.cat([values[j] for j in chain], 2) if len(chain) > 1 else values[i]
            out.append(
                sdpa(queries[i], key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=gqa)
            )
        return torch.cat(out, 2).transpose(1, 2)


class KVCache:
    """Preallocated keys and values: per layer [slots, H_kv, capacity, D]. A fork copies one slot's prefix."""

    def __init__(
        self, layers: int, slots: int, kv_heads: int, capacity: int, head_dim: int, dtype: torch.dtype, device: str
    ) -> None:
        shape = (layers, slots, kv_heads, capacity, head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Make the first ``length`` positions of slot ``target`` those of ``source``."""
        self.k[:, target, :, :length] = self.k[:, source, :, :length]
        self.v[:, target, :, :length] = self.v[:, source, :, :length]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Row tokens ``[begin, end)`` belong to ``slot`` and start at position ``start`` of its sequence."""

    begin: int
    end: int
    slot: int
    start: int


class CachePlan:
    """Attention of new tokens over their slots: single-token rows at once, longer chunks one by one.

    Args:
        cache: where keys and values are written and read.
        decode: chunks of one token each, in row order from 0, slots strictly increasing.
        prefill: the chunks after them.
    """

    def __init__(self, cache: KVCache, decode: list[Chunk], prefill: list[Chunk]) -> None:
        self.cache = cache
        self.prefill = prefill
        self.n_decode = len(decode)
        if decode:
            device = cache.k.device
            self.slots = torch.tensor([c.slot for c in decode], device=device)
            self.at = torch.tensor([c.start for c in decode], device=device)
            self.low, self.high = decode[0].slot, decode[-1].slot + 1
            self.length = int(self.at.max()) + 1
            span = self.high - self.low
            #: Where slots are nearly all in use, read the cache in place and let idle slots ride along (they
            #: attend to key 0 and are dropped): cheaper than gathering every key and value.
            self.in_place = 2 * self.n_decode >= span
            self.rows = self.slots - self.low if self.in_place else torch.arange(self.n_decode, device=device)
            self.n_rows = span if self.in_place else self.n_decode
            self.row_at = torch.zeros(self.n_rows, dtype=torch.long, device=device)
            self.row_at[self.rows] = self.at
            keys = torch.arange(self.length, device=device)
            self.mask = (keys[None, :] <= self.row_at[:, None])[:, None, None, :]  # [rows, 1, 1, L]

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        cache_k, cache_v = self.cache.k[layer], self.cache.v[layer]
        q, k, v = (x.to(cache_k.dtype) for x in (q, k, v))
        heads, dim, kv_heads = q.shape[1], q.shape[3], k.shape[1]
        out = torch.empty(1, q.shape[2], heads, dim, dtype=q.dtype, device=q.device)
        n = self.n_decode
        if n:
            cache_k[self.slots, :, self.at] = k[0, :, :n].transpose(0, 1)
            cache_v[self.slots, :, self.at] = v[0, :, :n].transpose(0, 1)
            if self.in_place:
                keys = cache_k[self.low : self.high, :, : self.length]
                values = cache_v[self.low : self.high, :, : self.length]
            else:
                keys, values = cache_k[self.slots, :, : self.length], cache_v[self.slots, :, : self.length]
            mask = self.mask
            if window is not None:
                at = torch.arange(self.length, device=q.device)
                mask = mask & (at[None, :] > self.row_at[:, None] - window)[:, None, None, :]
            # Grouped-query heads become query rows of their key head: nothing is repeated.
            queries = q.new_zeros(self.n_rows, kv_heads, heads // kv_heads, dim)
            queries[self.rows] = q[0, :, :n].transpose(0, 1).reshape(n, kv_heads, heads // kv_heads, dim)
            got = sdpa(queries, keys, values, attn_mask=mask, scale=scale)
            out[0, :n] = got[self.rows].reshape(n, heads, dim)
        for c in self.prefill:
            stop = c.start + c.end - c.begin
            cache_k[c.slot, :, c.start : stop] = k[0, :, c.begin : c.end]
            cache_v[c.slot, :, c.start : stop] = v[0, :, c.begin : c.end]
            own = torch.arange(c.start, stop, device=q.device)
            at = torch.arange(stop, device=q.device)
            mask = at[None, :] <= own[:, None]
            if window is not None:
                mask &= at[None, :] > own[:, None] - window
            chunk = sdpa(
                q[:, :, c.begin : c.end],
                cache_k[None, c.slot, :, :stop],
                cache_v[None, c.slot, :, :stop],
                attn_mask=mask,
                scale=scale,
                enable_gqa=kv_heads != heads,
            )
            out[:, c.begin : c.end] = chunk.transpose(1, 2)
        return out


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    plan: Plan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if plan is None:
        raise RuntimeError("attention 'arpo' needs plan=TreePlan(…) or CachePlan(…) in the forward call")
    if dropout:
        raise RuntimeError(f"attention 'arpo' needs dropout 0, got {dropout}: a shared prefix is computed once")
    layer: int = module.layer_idx  # type: ignore[assignment]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return plan.attend(layer, query, key, value, scale, sliding_window), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The plan knows who attends to whom; transformers need not build a mask."""


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _no_mask)


def use_arpo_attention(model: PreTrainedModel) -> None:
    """Switch ``model`` to plans.

    Raises:
        ConfigError: an architecture whose packed gradient is not tested, or attention dropout.
    """
    kind = model.config.model_type
    if kind not in SUPPORTED:
        raise ConfigError(
            f"model type {kind!r} is not supported by tree attention; supported: {', '.join(SUPPORTED)}. "
            "Use one of these, or add the type to attention.SUPPORTED together with its gradient test."
        )
    if getattr(model.config, "attention_dropout", 0.0):
        raise ConfigError("attention_dropout must be 0: a prefix shared by branches is computed only once")
    model.set_attn_implementation(NAME)
