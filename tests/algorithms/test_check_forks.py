"""The checker and rules that could never fork."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from arpo_algo.algorithms.base import Clipped
from arpo_algo.branching import BalancedEntropy, BranchingRule, Entropy, Never, RandomResults
from arpo_algo.check import CheckError, check_algorithm


@dataclass(frozen=True)
class NoRoom(Clipped):
    """Wrong: without a field N, all M trajectories start at the root."""

    rule: BranchingRule = Entropy(k=20)

    @property
    def branching(self) -> BranchingRule:
        return self.rule


@pytest.mark.parametrize("rule", [Entropy(k=20), RandomResults()])
def test_a_rule_that_can_never_fork_is_found(rule: BranchingRule) -> None:
    with pytest.raises(CheckError, match=r"can never fork: all M=16 .* a field N below M \(N: int = 8\)"):
        check_algorithm(NoRoom(rule=rule))


def test_probes_that_only_log_and_a_planned_n_are_right() -> None:
    check_algorithm(NoRoom(rule=Never(probe_tokens=20)))
    check_algorithm(NoRoom(rule=BalancedEntropy()))
