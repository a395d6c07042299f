"""Packed trees through the model, and an algorithm's loss on what comes out. Knows no optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from arpo_algo.algorithms.contract import Algorithm
from arpo_algo.errors import ConfigError
from arpo_algo.head import ROWS, token_logprobs
from arpo_algo.losses import LossBatch, LossOutput
from arpo_algo.packing import Pack


@dataclass
class TokenOutput:
    """Log-prob (with gradient), entropy and value of each loss token, all [U] float32."""

    logp: torch.Tensor
    entropy: torch.Tensor
    value: torch.Tensor | None = None


def score(
    model: PreTrainedModel,
    packed: Pack,
    *,
    temperature: float = 1.0,
    attention: Literal["blocks", "flex"] = "blocks",
    head_rows: int = ROWS,
    value_head: torch.nn.Module | None = None,
    entropy_gradient: bool = False,
) -> TokenOutput:
    """Log-probs of a pack's loss tokens under softmax(z / temperature).

    Entropies carry a gradient only where asked for.

    Raises:
        ConfigError: a trajectory longer than the model's context.
    """
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", packed.length)
    if packed.length > context:
        raise ConfigError(
            f"a trajectory of {packed.length} tokens exceeds the model's context of {context}; lower rollout.max_tokens"
        )
    hidden = model.base_model(
        input_ids=packed.tokens[None],
        position_ids=packed.positions[None],
        use_cache=False,
        plan=packed.plan(attention),
    ).last_hidden_state[0]
    head: torch.nn.Linear = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    logp, entropy = token_logprobs(
        hidden[packed.source],
        head.weight,
        packed.target,
        bias=head.bias,
        temperature=temperature,
        softcap=getattr(config, "final_logit_softcapping", None),
        rows=head_rows,
        entropy_gradient=entropy_gradient,
    )
    value = None
    if value_head is not None:
        with torch.autocast(hidden.device.type, enabled=False):  # a critic in half precision rounds what it learns from
            value = value_head(hidden[packed.source].float())[:, 0]
    return TokenOutput(logp, entropy, value)


def loss_of(packed: Pack, out: TokenOutput, algorithm: Algorithm, old: torch.Tensor | None = None) -> LossOutput:
    """Expand loss tokens to loss terms and apply the algorithm. ``old`` [U]: None means the current policy."""
    logp = out.logp[packed.term]
    old_logp = logp.detach() if old is None else old[packed.term]
    return algorithm.loss(
        LossBatch(
            logp,
            old_logp,
            packed.rollout_logp[packed.term],
            packed.advantage,
            out.entropy[packed.term],
            packed.leaf,
            packed.node,
            packed.weight,
            None if packed.ref_logp is None else packed.ref_logp[packed.term],
            None if out.value is None else out.value[packed.term],
            packed.returns,
        )
    )
