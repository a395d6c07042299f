"""GRPO (Shao et al. 2024, arXiv 2402.03300), with the settings the ARPO paper compares against.

    Â_i = (r_i − mean(r)) / std(r)                                               Eq. 3 and section 4.1.2
    L   = −(1/Σ|y_i|) Σ_i Σ_t min(r_it·Â_i, clip(r_it, 1±ε)·Â_i)                dual clip 3, token mean, no KL

GRPO is ARPO without branching: all M trajectories start at the root. ``aggregation="sequence"`` is the
DeepSeekMath paper's 1/|y_i| form, ``kl_coef=0.04`` its penalty.
"""

from __future__ import annotations

from dataclasses import dataclass

from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Clipped


@register("grpo")
@dataclass(frozen=True)
class GRPO(Clipped):
    """All of it is shared: see :class:`~arpo_algo.algorithms.base.Clipped`."""

    dual_clip: float | None = 3.0
