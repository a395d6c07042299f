"""The contract of an algorithm: it is known without torch, and what an algorithm leaves out is read as documented."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from trees import random_tree

from arpo_algo.algorithms import contract, make
from arpo_algo.algorithms.grpo import GRPO
from arpo_algo.assembly import fill_up
from arpo_algo.check import CheckError, check_algorithm
from arpo_algo.errors import ConfigError
from arpo_algo.tree import Tree


class Plain:
    """What is required and nothing more; the readers look at none of it."""


def test_the_contract_needs_no_torch() -> None:
    heavy = "sorted({'torch', 'transformers'} & {*sys.modules})"
    code = f"import sys, arpo_algo.algorithms.contract; sys.exit({heavy} or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_an_algorithm_leaves_out() -> None:
    plain, trees = Plain(), [random_tree(np.random.default_rng(seed)) for seed in range(2)]
    assert contract.needs(plain) == frozenset()
    assert contract.is_dense(plain) is False
    assert contract.length_of(plain) is None
    assert contract.returns_of(plain, trees) == [None, None]
    assert contract.value_lr_of(plain, 0.5) == 0.5
    assert contract.keeps(plain, trees[0])
    assert contract.rounds_of(plain) == 0
    with pytest.raises(ConfigError, match=r"Plain has no tis_cap.*rollout\.correction=ratio"):
        contract.with_correction(plain, 2.0)


def test_keep_without_rounds_is_refused() -> None:
    class Half(GRPO):
        def keep(self, tree: Tree) -> bool:
            return True

    with pytest.raises(ConfigError, match=r"Half has keep\(tree\), so it needs rounds too"):
        contract.rounds_of(Half())
    with pytest.raises(CheckError, match="needs rounds too"):
        check_algorithm(Half())


def test_what_an_algorithm_has() -> None:
    ppo, dapo = make("ppo", kl_coef=0.1, value_lr=0.25), make("dapo", rounds=5)
    assert contract.needs(ppo) == {"values", "reference"}
    assert contract.is_dense(ppo)
    assert contract.value_lr_of(ppo, 0.5) == 0.25
    assert contract.length_of(make("dr_grpo", length=7)) == 7
    assert contract.rounds_of(dapo) == 5
    assert contract.with_correction(dapo, 2.0) == make("dapo", rounds=5, tis_cap=2.0)
    tree = random_tree(np.random.default_rng(0))
    for leaf in tree.leaves():
        assert leaf.outcome is not None
        leaf.outcome.reward = 1.0
    assert not contract.keeps(dapo, tree), "dynamic sampling replaces a group of equal rewards"
    own = make("grpo", tis_cap=1.5)
    assert contract.with_correction(own, 2.0) is own, "a cap of its own stays"


def test_without_rounds_no_group_is_dropped() -> None:
    """``rounds=0`` promises that: what is not replaced would only be missing."""
    first = [random_tree(np.random.default_rng(seed)) for seed in range(3)]
    for tree in first[1:]:
        for leaf in tree.leaves():
            assert leaf.outcome is not None
            leaf.outcome.reward = 1.0

    def more(attempt: int, missing: int, drawn: int) -> list[Tree]:
        asked.append((attempt, missing, drawn))
        return []

    asked: list[tuple[int, int, int]] = []
    assert fill_up(first, 3, make("dapo", rounds=0), more) == (first, [], 3)
    assert asked == []
    assert fill_up(first, 3, make("dapo", rounds=2), more) == (first[:1], first[1:], 7)
    assert asked == [(1, 2, 3), (2, 2, 5)]
