"""Dr. GRPO (Liu et al. 2025, "Understanding R1-Zero-like training", arXiv 2503.20783).

    Â_i = r_i − mean(r)                                                          no division by std
    L   = −(1/G) Σ_i (1/L_max) Σ_t min(r_it·Â_i, clip(r_it, 1±ε)·Â_i)           a constant instead of |y_i|

The two divisions of GRPO that it drops favour questions of little spread and long wrong answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from arpo_algo.advantages import group_normalised, soft
from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Clipped
from arpo_algo.errors import ConfigError
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@register("dr_grpo")
@dataclass(frozen=True)
class DrGRPO(Clipped):
    """``length``: L_max, the constant divisor; the paper takes the generation budget. It only scales the loss."""

    aggregation: Literal["token", "sequence", "fixed"] = "fixed"  # type: ignore[assignment]
    length: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise ConfigError(f"length must be >= 1 token, got {self.length}; take your rollout.max_tokens")

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return [soft(tree, group_normalised(self.scores(tree), scale=False)) for tree in trees]
