"""Each guard fires when it should, once, and not before."""

from __future__ import annotations

from typing import Any

import pytest

from arpo_algo.errors import ConfigError
from arpo_algo.guards import RULES, Guards, GuardsSection

QUIET: dict[str, float] = {
    "reward": 0.5, "tool_calls_made": 3.0, "entropy": 1.0, "kl": 0.0, "policy_kl": 0.0, "rollout_kl": 0.0,
    "truncated": 0.0, "tokens_sampled": 50.0, "format_errors": 0.0, "tool_errors": 0.0, "void_share": 0.0,
    "fork_rate": 0.3,
}  # fmt: skip
BAD: dict[str, float] = {
    "kl_max": 9.0, "rollout_kl_max": 9.0, "entropy_min": 0.0, "entropy_max": 99.0, "truncated_max": 1.0,
    "tokens_min": 1.0, "format_errors_max": 1.0, "tool_errors_max": 1.0, "void_max": 1.0, "fork_rate_min": 0.0,
    "fork_rate_max": 2.0,
}  # fmt: skip


def guards(**values: Any) -> Guards:
    return Guards(GuardsSection(**{"fork_rate_min": 0.01, "fork_rate_max": 1.0, **values}))


def test_a_quiet_run_raises_nothing() -> None:
    watch = guards()
    assert not any(watch.check(step, QUIET) for step in range(30))


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.name}-{r.metric}")
def test_a_threshold_crossed_three_steps_in_a_row(rule: Any) -> None:
    watch = guards()
    bad = {**QUIET, rule.metric: BAD[rule.name]}
    alarms = [[a.name for a in watch.check(step, m)] for step, m in enumerate([bad, bad, QUIET, bad, bad, bad, bad])]
    assert alarms == [[], [], [], [], [], [rule.name], []], "only when it lasts, and only once"
    for step in range(3):
        watch.check(step, QUIET)
    again = [watch.check(step, bad) for step in range(3)]
    assert [len(a) for a in again] == [0, 0, 1], "again after a recovery"
    assert rule.metric in again[2][0].message
    assert f"guards.{rule.name}=" in again[2][0].message


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.name}-{r.metric}")
def test_none_turns_a_rule_off(rule: Any) -> None:
    watch = guards(**{rule.name: None})
    assert not any(watch.check(s, {**QUIET, rule.metric: BAD[rule.name]}) for s in range(9))


def test_algorithms_that_never_fork_may_fork_never() -> None:
    watch = guards()
    watch.forks = False
    assert not any(watch.check(s, {**QUIET, "fork_rate": 0.0}) for s in range(9))


def test_tools_never_called_is_said_at_once() -> None:
    silent = {**QUIET, "tool_calls_made": 0.0}
    first = guards().check(0, silent)
    assert [a.name for a in first] == ["no_tools"]
    assert not first[0].stop
    assert guards(no_tools="stop").check(0, silent)[0].stop
    assert not guards(no_tools="off").check(0, silent)
    without = guards()
    without.has_tools = False
    assert not without.check(0, silent)


def test_the_reward_falls_after_it_rose() -> None:
    watch = guards()
    rise = [watch.check(s, {**QUIET, "reward": min(1.0, s / 20)}) for s in range(40)]
    assert not any(rise)
    fall = [a.name for s in range(40, 60) for a in watch.check(s, {**QUIET, "reward": 0.0})]
    assert fall == ["reward_drop"]


def test_a_noisy_start_is_no_drop() -> None:
    watch = guards()
    assert not any(watch.check(s, {**QUIET, "reward": r}) for s, r in enumerate([1.0, 0.0, 0.0, 0.2, 0.1, 0.0, 0.1]))


def test_stop_is_an_action() -> None:
    watch = guards(action="stop", patience=1)
    assert watch.check(0, {**QUIET, "entropy": 0.0})[0].stop


def test_nonfinite_steps_in_a_row() -> None:
    watch = guards(nonfinite=3)
    assert watch.nonfinite_step("nan") is None
    assert watch.nonfinite_step("nan") is None
    watch.finite_step()
    assert watch.nonfinite_step("nan") is None
    assert watch.nonfinite_step("nan") is None
    assert "3 optimiser steps in a row" in (watch.nonfinite_step("the loss is nan") or "")


def test_state_survives() -> None:
    bad = {**QUIET, "entropy": 0.0}
    one = guards()
    for step in range(2):
        one.check(step, bad)
    two = guards()
    two.restore(one.state())
    assert [a.name for a in two.check(2, bad)] == ["entropy_min"]


@pytest.mark.parametrize(
    "values",
    [
        {"patience": 0},
        {"nonfinite": 0},
        {"retries": -1},
        {"action": "shout"},
        {"no_tools": "maybe"},
        {"entropy_min": 7.0},
    ],
)
def test_bad_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="guards"):
        GuardsSection(**values)
