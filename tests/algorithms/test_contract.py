"""Every registered algorithm keeps the contract, and the checker finds those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from arpo_algo.algorithms import list_algorithms, make
from arpo_algo.algorithms.base import Base, Clipped
from arpo_algo.check import CheckError, check_algorithm
from arpo_algo.losses import LossBatch, LossOutput, clipped
from arpo_algo.packing import Credit
from arpo_algo.tree import Tree

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("arpo", {"attribution": "hard"}),
    ("arpo", {"shared_once": True, "aggregation": "sequence"}),
    ("arpo", {"rule": "bernoulli", "beta": 1.0}),
    ("grpo", {"kl_coef": 0.1, "kl": "k3"}),
    ("grpo", {"kl_coef": 0.1, "kl": "k2", "entropy_coef": 0.01}),
    ("grpo", {"kl_coef": 0.1, "kl": "k1"}),
    ("rloo", {"kl_coef": 0.1, "kl": "k1", "kl_in": "reward", "tis_cap": 2.0}),
    ("reinforce_pp", {"kl_coef": 0.1, "baseline": True}),
    ("dapo", {"max_length": 12}),
    ("gigpo", {"scale": False, "gamma": 0.9}),
    ("ppo", {"kl_coef": 0.1, "entropy_coef": 0.01}),
    ("gspo", {"entropy_coef": 0.01, "clip_low": 0.1, "clip_high": 0.1}),
]


@pytest.mark.parametrize("name", list_algorithms())
def test_every_algorithm_passes_the_checker(name: str) -> None:
    check_algorithm(make(name))


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_options_pass_the_checker(name: str, options: dict[str, Any]) -> None:
    check_algorithm(make(name, **options), seed=3)


@dataclass(frozen=True)
class PackMean(Clipped):
    """Wrong: normalises over whatever is in the pack."""

    def surrogate(self, batch: LossBatch) -> LossOutput:
        return clipped(replace(batch, advantage=batch.advantage - batch.advantage.mean() / 2), 0.2, 0.2)


@dataclass(frozen=True)
class Unguarded(Clipped):
    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        out = []
        for tree in trees:
            r = torch.tensor(self.scores(tree))
            a = (r - r.mean()) / r.std()
            out.append({(x.id, n.id): float(v) for x, v in zip(tree.leaves(), a, strict=True) for n in tree.path(x.id)})
        return out


@dataclass(frozen=True)
class IntoTools(Clipped):
    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return [{(x.id, n.id): 1.0 for x in t.leaves() for n in t.path(x.id)} for t in trees if self.scores(t)]


@dataclass(frozen=True)
class ById(Clipped):
    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        plain = super().advantages(trees)
        return [{(leaf, n): float(leaf) for leaf, n in credit} for credit in plain]


@dataclass(frozen=True)
class AcceptsNaN(Clipped):
    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        return [dict.fromkeys(c, 1.0) for c in super().advantages([])] + [
            {(x.id, n.id): 1.0 for x in t.leaves() for n in t.path(x.id) if n.kind == "action"} for t in trees
        ]


class Stateful(Base):
    count = 0

    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        type(self).count += 1
        scale = float(type(self).count)
        return [{k: float(v) * scale for k, v in c.items()} for c in super().advantages(trees)]  # type: ignore[arg-type]

    def surrogate(self, batch: LossBatch) -> LossOutput:
        return clipped(batch, 0.2, 0.2)


@dataclass(frozen=True)
class Meddler(Clipped):
    def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
        out = super().advantages(trees)
        for tree in trees:
            for leaf in tree.leaves():
                assert leaf.outcome is not None
                leaf.outcome.reward += 1.0
        return out


@dataclass(frozen=True)
class CannotBranch(Clipped):
    @property
    def N(self) -> int:
        return 4


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (PackMean(), "packed gradient differs"),
        (Unguarded(), "keys must be every"),
        (IntoTools(), "are not actions on that leaf's path"),
        (ById(), "order of its siblings"),
        (AcceptsNaN(), "NaN must raise TrainingError"),
        (Stateful(), "hidden state"),
        (Meddler(), "changed the trees"),
        (CannotBranch(), "nothing can be sampled"),
        (object(), "lacks M, N"),
    ],
)
def test_the_checker_finds_what_is_wrong(broken: Any, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        check_algorithm(broken)


def test_division_by_a_zero_spread_is_found() -> None:
    @dataclass(frozen=True)
    class Divides(Clipped):
        def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
            out: list[Credit] = []
            for tree, credit in zip(trees, super().advantages(trees), strict=True):
                r = torch.tensor(self.scores(tree))
                a = ((r - r.mean()) / r.std(correction=0)).tolist()
                by_leaf = {leaf.id: x for leaf, x in zip(tree.leaves(), a, strict=True)}
                out.append({key: by_leaf[key[0]] for key in credit})
            return out

    with pytest.raises(CheckError, match=r"equal rewards .* guard divisions"):
        check_algorithm(Divides())
