"""REINFORCE++-baseline (arXiv 2501.03262): the group mean is subtracted, then the batch is whitened.

    Â_t = whiten_batch(r_i − mean_group(r)),   KL, if any, in the loss as k2

A name of its own for :mod:`arpo_algo.algorithms.reinforce_pp` with ``baseline=True``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from arpo_algo.algorithms import register
from arpo_algo.algorithms.reinforce_pp import ReinforcePP


@register("reinforce_pp_baseline")
@dataclass(frozen=True)
class ReinforcePPBaseline(ReinforcePP):
    """Options: see :class:`~arpo_algo.algorithms.reinforce_pp.ReinforcePP`."""

    kl_in: Literal["loss", "reward"] = "loss"
    kl: Literal["k1", "k2", "k3"] = "k2"
    baseline: bool = True
