"""Attention by plan, registered with transformers so that stock models work on trees and on a ragged KV cache.

One registered implementation, ``"arpo"``, takes a *plan* as a forward keyword and lets it attend:

* :class:`TreePlan` (training): the tokens of packed trees lie in one row; each segment attends to its own
  ancestors and, causally, to itself. No T×T mask is ever made, and a shared prefix is computed once.
* :class:`~arpo_algo.cacheattention.CachePlan` (sampling): new tokens of many sequences lie in one row, without
  padding; each attends to its own slot of a preallocated cache.

Every other way that we know of to hand a stock model a tree is silently wrong in some configuration (eager
with a boolean mask; position resets read as packed documents; checkpointing with a cache). Here a forward
without a plan raises.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from arpo_algo.errors import ConfigError
from arpo_algo.flexattention import FlexTree, Shape, flaw, flex_tree_attention
from arpo_algo.treeattention import Segment, blocks, tree_attention

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
        kind = q.device.type
        if torch.is_autocast_enabled(kind):
            q, k, v = (x.to(torch.get_autocast_dtype(kind)) for x in (q, k, v))
            with torch.autocast(kind, enabled=False):  # under it a compiled kernel would be another one
                return self.attend(layer, q, k, v, scale, window, softcap)
        if self.blocks:
            return tree_attention(q, k, v, self.blocks, scale, window, softcap)
        if self._flex is None:
            self._flex = FlexTree(self.segments, q.device)
        return flex_tree_attention(q, k, v, self._flex, scale, window, softcap)


def key_value_shape(config: Any) -> tuple[int, int]:
    """What a token's keys (and values) are in a layer: (heads, numbers a head). ``config``: of the text model."""
    heads: int = config.num_attention_heads
    kv_heads: int = getattr(config, "num_key_value_heads", None) or heads
    head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // heads
    return kv_heads, head_dim


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
    kv_heads, head_dim = key_value_shape(config)
    why = flaw(
        Shape(
            config.num_attention_heads,
            kv_heads,
            head_dim,
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
