"""The paper's reward, row by row, and the box its answer stands in."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.errors import ConfigError
from arpo_env.rewards.arpo import ArpoReward
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.boxed import extract_boxed

BOTH = {"search": 1, "python": 2}


@pytest.mark.parametrize(
    ("accuracy", "format_ok", "tools_ok", "total"),
    [
        (1.0, False, BOTH, -1.0),  # a bad format is -1 whatever the answer
        (0.0, False, {}, -1.0),
        (0.0, True, BOTH, 0.0),  # wrong: no bonus for tools
        (1.0, True, BOTH, 1.1),
        (1.0, True, {"search": 3}, 1.0),
        (1.0, True, {"python": 3}, 1.0),
        (1.0, True, {"search": 1, "python": 0}, 1.0),  # python was called and failed
        (1.0, True, {}, 1.0),
        (0.6, True, BOTH, 0.6),  # partial: paid as it is, no bonus
        (0.01, True, BOTH, 0.01),  # the released code paid 0.11 here
    ],
)
def test_table(accuracy: float, format_ok: bool, tools_ok: dict[str, int], total: float) -> None:
    terms = ArpoReward()(accuracy, format_ok, tools_ok)
    assert set(terms) == {"format", "accuracy", "tool_bonus"}
    assert sum(terms.values()) == pytest.approx(total)


@settings(deadline=None)
@given(
    st.floats(0, 1), st.booleans(), st.dictionaries(st.sampled_from(["search", "python", "browse"]), st.integers(0, 9))
)
def test_bounds(accuracy: float, format_ok: bool, tools_ok: dict[str, int]) -> None:
    terms = ArpoReward()(accuracy, format_ok, tools_ok)
    assert -1.0 <= sum(terms.values()) <= 1.1
    assert (terms["tool_bonus"] > 0) == (format_ok and accuracy == 1.0 and all(tools_ok.get(t, 0) for t in BOTH))


def test_options() -> None:
    assert sum(ArpoReward(bonus_tools=())(1.0, True, BOTH).values()) == 1.0
    assert sum(ArpoReward(both_tools_bonus=0.5, bonus_tools=("python",))(1.0, True, {"python": 1}).values()) == 1.5
    assert sum(ArpoReward(bad_format=-2.0)(1.0, False, {}).values()) == -2.0
    with pytest.raises(ConfigError, match="finite"):
        ArpoReward(bad_format=math.nan)
    with pytest.raises(ConfigError, match="tuple"):
        ArpoReward(bonus_tools="search")
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="accuracy"):
            ArpoReward()(wrong, True, {})


def test_a_verdict_is_a_score_in_the_unit_interval() -> None:
    with pytest.raises(ValueError, match="score"):
        Verdict(1.5)


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        (r"\boxed{5}", "5"),
        (r"a \boxed{1} b \boxed{2} c", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{1}", r"\{1"),
        (r"\boxed{a\\{b}}", r"a\\{b}"),
        (r"\boxed {7}", "7"),
        (r"\boxed{ 7 }", "7"),
        (r"\boxed{}", ""),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{", None),
        (r"\boxed{1} \boxed{2", None),
        (r"\boxed{{1}", None),
        ("5", None),
        ("", None),
        (r"\boxed5", None),
        (r"so $x = \boxed 3$.", "3"),
        (r"\boxed 12, done", "12"),
        (r"\boxed  -1.5.", "-1.5"),
        (r"\boxed \pi$", r"\pi"),
        (r"\boxed{1}, or rather $\boxed A$", "A"),
        (r"\boxed{2}, as asked: in a \boxed environment", "2"),
        (r"\boxed 3,000", None),
        (r"\boxed 3/4", None),
        (r"\boxed \frac{1}{2}", None),
        (r"\boxed x+1", None),
        ("boxed{5}", None),
    ],
)
def test_extract_boxed(text: str, inner: str | None) -> None:
    assert extract_boxed(text) == inner


@settings(deadline=None)
@given(st.recursive(st.text("ab1 +"), lambda inner: st.tuples(inner, inner).map(lambda p: f"{p[0]}{{{p[1]}}}")))
def test_any_balanced_text_comes_back(inner: str) -> None:
    assert extract_boxed(rf"so \boxed{{0}} then \boxed{{{inner}}} done }} {{") == inner.strip()


@pytest.mark.parametrize("text", ["\\boxed{" * 200_000, "{" * 10**6, "\\boxed{" + "}" * 10**6, "\\" * 10**6])
def test_long_texts(text: str) -> None:
    assert extract_boxed(text) in (None, "")
