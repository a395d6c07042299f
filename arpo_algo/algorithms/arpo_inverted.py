"""The control of ARPO with the entropy sign turned: it forks where the model has become *more* certain.

    P_t = α − |β|·ΔH_t > τ,   all else as in :mod:`arpo_algo.algorithms.arpo`

If entropy tells where forking pays, this must do worse than ``arpo`` and than ``arpo_random``.
"""

from __future__ import annotations

from dataclasses import dataclass

from arpo_algo.algorithms import register
from arpo_algo.algorithms.arpo import ARPO
from arpo_algo.errors import ConfigError


@register("arpo_inverted")
@dataclass(frozen=True)
class ARPOInverted(ARPO):
    """ARPO with a negative ``beta``."""

    beta: float = -0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta >= 0:
            raise ConfigError(f"arpo_inverted needs beta < 0, got {self.beta}; the positive sign is algorithm 'arpo'")
