"""The contract of an algorithm: what trainer and learner know of it, and how its optional parts are read.

Nothing here needs torch. :mod:`arpo_algo.algorithms.base` keeps the contract for those that derive from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from arpo_algo.errors import ConfigError

if TYPE_CHECKING:
    from arpo_algo.branching import BranchingRule
    from arpo_algo.losses import LossBatch, LossOutput
    from arpo_algo.packing import Credit
    from arpo_algo.tree import Tree


class Algorithm(Protocol):
    """Data and two pure functions; no model, no IO.

    Optional attributes and methods, each read by a function of this module, which says what holds without it:

    * ``needs``: a set of what the learner must provide: ``"reference"`` (``Node.ref_logprobs``,
      ``LossBatch.ref_logp``), ``"values"`` (a value head; ``Node.value``, ``LossBatch.value``), ``"entropy"`` (a
      gradient through ``LossBatch.entropy``).
    * ``dense``: the loss has a gradient also where every advantage is zero, so no tree may be skipped.
    * ``returns(trees)``: what the value head should predict, shaped like credits. ``value_lr``: its learning rate.
    * ``length``: the constant of ``aggregation="fixed"``, tokens.
    * ``keep(tree)`` and ``rounds``: the trainer replaces groups that are not kept, ``rounds`` times at most; with 0
      all are kept.
    * ``tis_cap``: a field of the dataclass, the cap of a truncated importance correction that ``loss`` applies, or
      None. ``rollout.correction=tis`` sets it for trees of an older policy.
    """

    @property
    def M(self) -> int: ...
    @property
    def N(self) -> int: ...
    @property
    def branching(self) -> BranchingRule: ...
    @property
    def aggregation(self) -> Literal["token", "sequence", "fixed"]: ...
    @property
    def shared_once(self) -> bool: ...

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        """Rewards -> the advantage of each action node in each trajectory, one credit a tree."""
        ...

    def loss(self, batch: LossBatch) -> LossOutput:
        """A weighted sum over the terms of a pack; sums over packs add up to the mini-batch's loss."""
        ...


def needs(algorithm: Algorithm) -> frozenset[str]:
    """What the learner must provide: of ``reference``, ``values``, ``entropy``; else nothing."""
    return frozenset(getattr(algorithm, "needs", ()))


def is_dense(algorithm: Algorithm) -> bool:
    """Whether trees without any advantage are computed too; else they are skipped."""
    return bool(getattr(algorithm, "dense", False))


def length_of(algorithm: Algorithm) -> int | None:
    """The constant that ``aggregation="fixed"`` divides by, tokens; else None."""
    length: int | None = getattr(algorithm, "length", None)
    return length


def returns_of(algorithm: Algorithm, trees: Sequence[Tree]) -> Sequence[Credit | None]:
    """What the value head should predict, one a tree; else None for each."""
    returns: Sequence[Credit | None] = (
        algorithm.returns(trees) if hasattr(algorithm, "returns") else [None] * len(trees)
    )
    return returns


def value_lr_of(algorithm: Algorithm, default: float) -> float:
    """The value head's learning rate; else ``default``, the policy's."""
    rate: float = getattr(algorithm, "value_lr", default)
    return rate


def keeps(algorithm: Algorithm, tree: Tree) -> bool:
    """Whether the group is kept rather than replaced; where nothing ever is (:func:`rounds_of` 0), every one is."""
    return not rounds_of(algorithm) or bool(algorithm.keep(tree))  # type: ignore[attr-defined]


def rounds_of(algorithm: Algorithm) -> int:
    """How often a step may replace groups that are not kept; without ``keep`` never.

    Raises:
        ConfigError: it has ``keep`` and not ``rounds``.
    """
    own: Any = algorithm
    if not hasattr(own, "keep"):
        return 0
    if not hasattr(own, "rounds"):
        raise ConfigError(
            f"algorithm {type(own).__name__} has keep(tree), so it needs rounds too: how often to replace"
        )
    return int(own.rounds)


def with_correction(algorithm: Algorithm, cap: float) -> Algorithm:
    """The algorithm with its importance correction on, capped at ``cap``; a cap of its own stays.

    Raises:
        ConfigError: it has no ``tis_cap`` to set.
    """
    own: Any = algorithm
    if not hasattr(own, "tis_cap"):
        raise ConfigError(
            f"algorithm {type(own).__name__} has no tis_cap; with rollout.overlap use rollout.correction=ratio"
        )
    if own.tis_cap is not None:
        return algorithm
    made: Algorithm = dataclasses.replace(own, tis_cap=cap)
    return made
