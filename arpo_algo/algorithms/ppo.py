"""PPO (Schulman et al. 2017, arXiv 1707.06347) with a value head and GAE over turns (arXiv 1506.02438, Eq. 16).

    δ_k = r_k + γ·V(s_{k+1}) − V(s_k)         s_k: what was read before turn k; r only at the end, V(end) = 0
    Â_k = Σ_j (γλ)^j δ_{k+j},  whitened over the batch;      R_k = Â_k + V(s_k), before whitening
    L   = clipped surrogate + c_v·½(V − R)²,   ε = 0.2, c_v = 0.1, γ = 1, λ = 0.95

A turn is one action of the agent (design note: the GPG theorem lets any segmentation stand for tokens), so all
tokens of a turn share Â_k, and V at each of them regresses to R_k. The value head is one linear layer on the
policy's last hidden state, zero at first. A truncated trajectory ends with V = 0, as its reward says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arpo_algo.advantages import whitened
from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Clipped
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.losses import LossBatch, LossOutput, value_loss
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree


@register("ppo")
@dataclass(frozen=True)
class PPO(Clipped):
    """``gamma``, ``lam``: of GAE, a turn; ``value_coef``: c_v; ``value_lr``: learning rate of the head alone."""

    gamma: float = 1.0
    lam: float = 0.95
    value_coef: float = 0.1
    value_lr: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ConfigError(f"need 0 < gamma <= 1 and 0 <= lam <= 1, got {self.gamma} and {self.lam}")
        if self.value_coef <= 0 or self.value_lr <= 0:
            raise ConfigError(f"value_coef and value_lr must be > 0, got {self.value_coef} and {self.value_lr}")

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"values"}

    @property
    def dense(self) -> bool:
        return True

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return whitened(trees, [self.gae(tree)[0] for tree in trees])

    def returns(self, trees: Sequence[Tree]) -> list[Credit]:
        """What the value head should predict."""
        return [self.gae(tree)[1] for tree in trees]

    def gae(self, tree: Tree) -> tuple[Credit, Credit]:
        """(Â, R) of every turn of every trajectory, before whitening."""
        advantage: dict[tuple[int, int], float] = {}
        returns: dict[tuple[int, int], float] = {}
        for leaf, reward in zip(tree.leaves(), self.scores(tree), strict=True):
            following, gae, r = 0.0, 0.0, reward
            for node in reversed([n for n in tree.path(leaf.id) if n.kind == "action"]):
                if node.value is None:
                    raise TrainingError(f"node {node.id} has no value; Learner.annotate writes it before advantages")
                gae = r + self.gamma * following - node.value + self.gamma * self.lam * gae
                advantage[leaf.id, node.id], returns[leaf.id, node.id] = gae, gae + node.value
                following, r = node.value, 0.0
        return advantage, returns

    def loss(self, batch: LossBatch) -> LossOutput:
        out, critic = super().loss(batch), value_loss(batch)
        metrics = {**out.metrics, "value_loss": float(critic.detach())}
        return LossOutput(out.loss + self.value_coef * critic, metrics)
