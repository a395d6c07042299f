"""What the algorithms of this folder share: sampling without forks, and the options of the shared pieces.

An algorithm need not derive from these classes (:class:`arpo_algo.algorithms.contract.Algorithm` is the contract);
those here do, so that a KL penalty, an entropy bonus, an importance correction and length normalisation are written
once. A file of this folder then holds one formula: how rewards become advantages, or what the surrogate is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from arpo_algo.advantages import group_normalised, kl_of, rewards, soft
from arpo_algo.algorithms.contract import length_of
from arpo_algo.branching import BranchingRule, Never
from arpo_algo.errors import ConfigError, unknown
from arpo_algo.losses import LossBatch, LossOutput, check_clip, clipped, kl_penalty, truncated_importance
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@dataclass(frozen=True)
class Base:
    """Group sampling from the root with GRPO's advantage; derived classes say what differs.

    Args:
        M: trajectories a prompt.
        aggregation: ``token`` (mean over the mini-batch's tokens), ``sequence`` (mean over trajectories of 1/|y_i|
            means) or, where the algorithm has a ``length``, ``fixed`` (1/length instead of 1/|y_i|).
        shared_once: weigh a prefix shared by d trajectories 1/d, so that it counts once.
        kl_coef: β of a penalty on KL(π ‖ reference), the reference being the policy that training started from.
        kl_in: ``loss`` adds β·k to each term; ``reward`` takes β·Σ k (of the sampling policy) off the reward.
        kl: estimator of the KL from the sampled token: ``k1``, ``k2``, ``k3``.
        entropy_coef: coefficient of an entropy bonus.
        tis_cap: truncate the importance correction π_old/π_rollout at this value; None: no correction.

    Raises:
        ConfigError: a value out of range, or a contradiction.
    """

    M: int = 16
    aggregation: Literal["token", "sequence"] = "token"
    shared_once: bool = False
    kl_coef: float = 0.0
    kl_in: Literal["loss", "reward"] = "loss"
    kl: Literal["k1", "k2", "k3"] = "k3"
    entropy_coef: float = 0.0
    tis_cap: float | None = None

    def __post_init__(self) -> None:
        if self.M < 2:
            raise ConfigError(f"a group of M={self.M} has nothing to compare; need M >= 2")
        if not 1 <= self.N <= self.M:
            raise ConfigError(f"need 1 <= N <= M, got N={self.N}, M={self.M}")
        for option, known in (
            ("aggregation", ("token", "sequence", *(("fixed",) if length_of(self) is not None else ()))),
            ("kl_in", ("loss", "reward")),
            ("kl", ("k1", "k2", "k3")),
        ):
            if getattr(self, option) not in known:
                raise unknown(option, str(getattr(self, option)), known)
        for option in ("kl_coef", "entropy_coef"):
            if not 0 <= getattr(self, option) < math.inf:
                raise ConfigError(f"{option} must be >= 0 and finite, got {getattr(self, option)}")
        if self.tis_cap is not None and self.tis_cap <= 0:
            raise ConfigError(f"tis_cap must be > 0 (or None), got {self.tis_cap}")
        self.branching  # noqa: B018 (checks its values now, not at the first fork)

    @property
    def branching(self) -> BranchingRule:
        return Never()

    @property
    def N(self) -> int:
        return self.M

    @property
    def needs(self) -> frozenset[str]:
        """What the learner must provide, see :class:`arpo_algo.algorithms.contract.Algorithm`."""
        wanted = {"reference": self.kl_coef, "entropy": self.entropy_coef}
        return frozenset(name for name, coefficient in wanted.items() if coefficient)

    @property
    def dense(self) -> bool:
        """Whether terms without advantage have a gradient all the same."""
        return bool(self.entropy_coef or (self.kl_coef and self.kl_in == "loss"))

    def scores(self, tree: Tree) -> list[float]:
        """The leaves' rewards, less β·Σ_t k_t where the penalty is in the reward."""
        values = rewards(tree)
        if self.kl_coef and self.kl_in == "reward":
            for i, leaf in enumerate(tree.leaves()):
                path = [n for n in tree.path(leaf.id) if n.kind == "action"]
                values[i] -= self.kl_coef * sum(sum(kl_of(n, self.kl)) for n in path)
        return values

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return [soft(tree, group_normalised(self.scores(tree))) for tree in trees]

    def surrogate(self, batch: LossBatch) -> LossOutput:
        """The policy term; a derived class must give it."""
        raise NotImplementedError(f"{type(self).__name__} must define surrogate(batch) or loss(batch)")

    def loss(self, batch: LossBatch) -> LossOutput:
        """The surrogate with importance correction, plus KL penalty, less entropy bonus."""
        out = self.surrogate(truncated_importance(batch, self.tis_cap) if self.tis_cap is not None else batch)
        if self.kl_coef and self.kl_in == "loss":
            penalty = kl_penalty(batch, self.kl)
            out = LossOutput(out.loss + self.kl_coef * penalty, {**out.metrics, "kl": float(penalty.detach())})
        if self.entropy_coef:
            out = LossOutput(out.loss - self.entropy_coef * (batch.weight * batch.entropy).sum(), out.metrics)
        return out


@dataclass(frozen=True)
class Clipped(Base):
    """:class:`Base` with PPO's clipped surrogate: ``clip_low``, ``clip_high``, and ``dual_clip`` (None: off)."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high, self.dual_clip)
        super().__post_init__()

    def surrogate(self, batch: LossBatch) -> LossOutput:
        return clipped(batch, self.clip_low, self.clip_high, self.dual_clip)
