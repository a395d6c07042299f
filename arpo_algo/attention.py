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

import warnings
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from arpo_algo.errors import ConfigError
from arpo_algo.flexattention import FlexTree, Shape, flaw, flex_tree_attention
from arpo_algo.treeattention import BLOCK, Segment, blocks, tree_attention

NAME = "arpo"
#: How a packed tree is computed: ``blocks`` of matrix products anywhere, ``flex`` attention on GPUs; both exactly.
TreeAttention = Literal["auto", "blocks", "flex"]
TREE_ATTENTIONS = ("auto", "blocks", "flex")
#: Architectures whose packed gradient is tested against separate sequences. Others are refused by name.
SUPPORTED = ("llama", "qwen2", "qwen3", "phi3", "mistral", "smollm3", "gemma2", "gemma3_text")


class Plan(Protocol):
    """Who attends to whom. q: [1, H, T, D]; k, v: [1, H_kv, T, D]; returns [1, T, H, D]."""

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale: float,
        window: int | None,
        softcap: float | None = None,
    ) -> torch.Tensor: ...


class TreePlan:
    """Attention over ancestors only.

    Args:
        segments: in row order, covering the row, depth first.
        how: what :func:`resolve_tree_attention` found for the model.
    """

    def __init__(self, segments: list[Segment], how: Literal["blocks", "flex"] = "blocks") -> None:
        self.segments = segments
        self.blocks = blocks(segments) if how == "blocks" else []
        self._flex: FlexTree | None = None

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
        if torch.is_autocast_enabled(q.device.type):
            q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
        if self.blocks:
            return tree_attention(q, k, v, self.blocks, scale, window, softcap)
        if self._flex is None:
            self._flex = FlexTree(self.segments, q.device)
        return flex_tree_attention(q, k, v, self._flex, scale, window, softcap)


def resolve_tree_attention(
    wanted: TreeAttention, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype
) -> Literal["blocks", "flex"]:
    """How packed trees of a model with ``config`` are computed, attention running in ``dtype``.

    ``auto``: flex attention on CUDA GPUs where it gives the same results as blocks (it is tried), else blocks.

    Raises:
        ConfigError: flex attention is wanted and cannot be used.
    """
    if wanted == "blocks" or (wanted == "auto" and device.type != "cuda"):
        return "blocks"
    config = config.get_text_config()
    heads: int = config.num_attention_heads
    why = flaw(
        Shape(
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype,
            device,
            getattr(config, "sliding_window", None) is not None,
            getattr(config, "attn_logit_softcapping", None),
        )
    )
    if why is None:
        return "flex"
    if wanted == "flex":
        raise ConfigError(f"learner.attention=flex: {why}; take auto or blocks")
    warnings.warn(f"trees are computed in blocks, which is slower than flex attention: {why}", stacklevel=2)
    return "blocks"


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
        self._causal: dict[tuple[int, int, int | None], torch.Tensor] = {}
        if decode:
            device = cache.k.device
            self.slots = torch.tensor([c.slot for c in decode], device=device)
            self.at = torch.tensor([c.start for c in decode], device=device)
            self.low, self.high = decode[0].slot, decode[-1].slot + 1
            self.length = max(c.start for c in decode) + 1
            span = self.high - self.low
            #: Where slots are nearly all in use, read the cache in place and let idle slots ride along (they
            #: attend to key 0 and are dropped): cheaper than gathering every key and value.
            self.in_place = 2 * self.n_decode >= span
            self.rows = self.slots - self.low if self.in_place else torch.arange(self.n_decode, device=device)
            self.n_rows = span if self.in_place else self.n_decode
            self.row_at = torch.zeros(self.n_rows, dtype=torch.long, device=device)
            self.row_at[self.rows] = self.at
            self._masks: dict[int | None, torch.Tensor] = {}

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
            if self.in_place:
                keys = cache_k[self.low : self.high, ..., : self.length]
                values = cache_v[self.low : self.high, :, : self.length]
            else:
                keys, values = cache_k[self.slots][..., : self.length], cache_v[self.slots][:, :, : self.length]
            queries = grouped[:n]
            if self.n_rows != n:
                queries = q.new_zeros(self.n_rows, *queries.shape[1:])
                queries[self.rows] = grouped[:n]
            got = attention(queries, keys, values, self._decode_mask(window), scale, softcap)
            out[:n] = got[self.rows].view(n, heads, dim)
        for c in self.prefill:
            stop = c.start + c.end - c.begin
            cache_k[c.slot, :, :, c.start : stop] = k[c.begin : c.end].permute(1, 2, 0)
            cache_v[c.slot, :, c.start : stop] = v[c.begin : c.end].transpose(0, 1)
            for begin in range(c.begin, c.end, BLOCK):
                end = min(begin + BLOCK, c.end)
                first, last = c.start + begin - c.begin, c.start + end - c.begin
                queries = grouped[begin:end].permute(1, 2, 0, 3)  # [H_kv, g, n, D]
                got = attention(
                    queries.reshape(kv_heads, -1, dim),
                    cache_k[c.slot, ..., :last],
                    cache_v[c.slot, :, :last],
                    self._prefill_mask(first, last, window).repeat(queries.shape[1], 1),
                    scale,
                    softcap,
                )
                out[begin:end] = got.view(heads, end - begin, dim).transpose(0, 1)
        return out[None]

    def _prefill_mask(self, first: int, last: int, window: int | None) -> torch.Tensor:
        key = (first, last, window)
        if key not in self._causal:
            self._causal[key] = causal_mask(first, last, window, self.cache.k.device)
        return self._causal[key]

    def _decode_mask(self, window: int | None) -> torch.Tensor:
        """[rows, 1, 1, L], 0 or −inf; the same for all layers with one window."""
        if window not in self._masks:
            at = torch.arange(self.length, device=self.row_at.device)
            hidden = at[None] > self.row_at[:, None]
            if window is not None:
                hidden |= at[None] <= self.row_at[:, None] - window
            self._masks[window] = torch.zeros(hidden.shape, device=at.device).masked_fill_(hidden, -torch.inf)
        return self._masks[window][:, None, None]


def causal_mask(first: int, last: int, window: int | None, device: torch.device) -> torch.Tensor:
    """[last − first, last], 0 or −inf: positions ``first … last−1`` over ``0 … last−1``."""
    own = torch.arange(first, last, device=device)[:, None]
    at = torch.arange(last, device=device)[None]
    hidden = at > own
    if window is not None:
        hidden |= at <= own - window
    return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float | None
) -> torch.Tensor:
    """softmax(cap(scale·q·k) + mask)·v with float32 scores. q: [..., n, D]; k: [..., D, L]; v: [..., L, D]."""
    score = torch.matmul(q, k).float().mul_(scale)
    if softcap is not None:
        score = score.div_(softcap).tanh_().mul_(softcap)
    return torch.matmul(score.add_(mask).softmax(-1).to(v.dtype), v)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    plan: Plan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if attention_mask is not None:
        raise RuntimeError("attention 'arpo' takes no mask: the plan says who attends to whom")
    if plan is None:
        raise RuntimeError("attention 'arpo' needs plan=TreePlan(…) or CachePlan(…) in the forward call")
    if key.shape[2] != query.shape[2]:
        raise RuntimeError("attention 'arpo' takes no cache of transformers (use_cache): a CachePlan brings its own")
    if dropout:
        raise RuntimeError(f"attention 'arpo' needs dropout 0, got {dropout}: a shared prefix is computed once")
    layer: int = module.layer_idx  # type: ignore[assignment]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return plan.attend(layer, query, key, value, scale, sliding_window, softcap), None


def _no_mask(*args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> None:
    """The plan knows who attends to whom; transformers need not build a mask.

    Raises:
        RuntimeError: a padding mask was given; it would be ignored.
    """
    if attention_mask is not None:
        raise RuntimeError("attention 'arpo' takes no mask: the plan says who attends to whom")


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _no_mask)


def use_arpo_attention(model: PreTrainedModel) -> None:
    """Switch ``model`` to plans.

    Raises:
        ConfigError: an architecture whose packed gradient is not tested, or a model that drops units at random or
            attends to what comes later.
    """
    config = model.config
    kind = config.model_type
    if kind not in SUPPORTED:
        raise ConfigError(
            f"model type {kind!r} is not supported by tree attention; supported: {', '.join(SUPPORTED)}. "
            "Use one of these, or add the type to attention.SUPPORTED together with its gradient test."
        )
    for name in ("attention_dropout", "resid_pdrop", "embd_pdrop", "hidden_dropout"):
        if getattr(config, name, 0.0):
            raise ConfigError(
                f"{name}={getattr(config, name)} must be 0: a prefix shared by branches is computed only once, and "
                "the engine samples without dropout; set it to 0 in the model's config"
            )
    if getattr(config, "use_bidirectional_attention", False):
        raise ConfigError("use_bidirectional_attention: the model is no causal language model")
    model.set_attn_implementation(NAME)
