"""The optimiser's settings, the optimiser that they make, and how a step's trees are cut into mini-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from arpo_algo import sharding
from arpo_algo.attention import TREE_ATTENTIONS, TreeAttention
from arpo_algo.distributed import even_parts
from arpo_algo.errors import ConfigError, unknown
from arpo_algo.lora import LoraConfig
from arpo_algo.options import opt, section
from arpo_algo.precision import PRECISIONS, Precision


@dataclass(frozen=True)
class LearnerConfig:
    """Optimiser and batching; optimiser defaults are the paper's (all its settings: ``configs/paper.toml``).

    Raises:
        ConfigError: a value out of range.
    """

    lr: float = opt(1e-6, "AdamW's learning rate, constant after the warm-up")
    weight_decay: float = opt(0.01, "AdamW's weight decay")
    betas: tuple[float, float] = opt((0.9, 0.999), "AdamW's betas")
    max_grad_norm: float = opt(1.0, "clip the gradient to this norm")
    warmup_steps: int = opt(0, "optimiser steps of linear warm-up")
    mini_batch: int | None = opt(None, "prompts an optimiser step; none: all of a step's prompts (strictly on-policy)")
    epochs: int = opt(1, "passes over a step's trees")
    pack_tokens: int = opt(4096, "unique tokens a forward at most (bounds memory)")
    precision: Precision = opt("auto", "auto: bfloat16 autocast on GPUs and CPUs with AMX or AVX512_BF16, else float32")
    attention: TreeAttention = opt(
        "auto", "of packed trees: flex (attention by a fused kernel, GPUs), blocks; auto: flex where it works"
    )
    gradient_checkpointing: bool = opt(False, "recompute layers in the backward pass: less memory, more time")
    optimizer: Literal["adamw", "adamw8bit"] = opt("adamw", "adamw8bit keeps its moments in 8 bits (bitsandbytes, GPU)")
    keep_memory: bool = opt(True, "CPUs: keep freed memory for the next tensors instead of returning it (glibc)")
    lora: LoraConfig = section(LoraConfig, "low-rank adapters instead of all weights")
    shard: bool = opt(False, "FSDP2: each process holds a part of every layer (with several processes)")

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigError(f"lr must be > 0, got {self.lr}")
        if self.epochs < 1 or self.pack_tokens < 1 or (self.mini_batch is not None and self.mini_batch < 1):
            raise ConfigError("epochs, pack_tokens and mini_batch must be >= 1")
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.attention not in TREE_ATTENTIONS:
            raise unknown("attention", self.attention, TREE_ATTENTIONS)
        if self.optimizer not in ("adamw", "adamw8bit"):
            raise unknown("optimizer", self.optimizer, ("adamw", "adamw8bit"))


def make_optimizer(
    config: LearnerConfig, parameters: list[torch.nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """AdamW over ``parameters``.

    Raises:
        ConfigError: 8-bit moments without bitsandbytes or without a GPU.
    """
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            [{"params": part} for part in sharding.apart(parameters)],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
    if device.type != "cuda":
        raise ConfigError(f"learner.optimizer=adamw8bit needs a CUDA GPU, the model is on {device}; use adamw")
    try:
        import bitsandbytes
    except ImportError:
        raise ConfigError(
            "learner.optimizer=adamw8bit needs the package bitsandbytes: pip install 'arpo[bitsandbytes]'"
        ) from None
    made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
        parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )
    return made


def even_cuts(total: int, size: int) -> list[tuple[int, int]]:
    """``total`` things in as few runs of at most ``size`` as need be, none much smaller: each is one optimiser step."""
    return [(part.start, part.stop) for part in even_parts(total, -(-total // size))]
