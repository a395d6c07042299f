"""The mathematics verifier: hand-written pairs, laws, hostile input, and the worker behind it."""

from __future__ import annotations

import os
import signal
import threading
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_pairs import EQUAL, UNEQUAL

from arpo_env.errors import ConfigError, InfraError
from arpo_env.rewards import math as math_rewards
from arpo_env.rewards.latex import balanced, clean
from arpo_env.rewards.literals import parse_number
from arpo_env.rewards.math import math_equal, math_equal_any, number_equal
from arpo_env.rewards.math_verify_pool import MathVerifyPool

pytest.importorskip("math_verify")


def _ids(table: dict[str, list[tuple[str, str]]]) -> list[pytest.param]:
    return [pytest.param(pairs, id=kind) for kind, pairs in table.items()]


@pytest.mark.parametrize("pairs", _ids(EQUAL))
def test_equal_pairs(pairs: list[tuple[str, str]]) -> None:
    wrong = [(a, g, math_equal(a, g).reason) for a, g in pairs if math_equal(a, g).score != 1.0]
    assert wrong == []


@pytest.mark.parametrize("pairs", _ids(UNEQUAL))
def test_unequal_pairs(pairs: list[tuple[str, str]]) -> None:
    wrong = [(a, g, math_equal(a, g).reason) for a, g in pairs if math_equal(a, g).score != 0.0]
    assert wrong == []


def test_there_are_enough_pairs() -> None:
    assert sum(map(len, EQUAL.values())) >= 200
    assert sum(map(len, UNEQUAL.values())) >= 150


def test_the_released_metric_misjudged_these() -> None:
    assert math_equal("5", "-5").score == 0
    assert math_equal("15", "1.5").score == 0
    assert math_equal("0.5", r"\frac{1}{2}").score == 1
    assert math_equal("A", "A").score == 1


numbers = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.fractions(max_denominator=10**6).map(str),
    st.fractions(max_denominator=999).map(lambda f: rf"\frac{{{f.numerator}}}{{{f.denominator}}}"),
    st.decimals(-(10**6), 10**6, places=4).map(str),
)


@settings(deadline=None)
@given(numbers)
def test_reflexive(text: str) -> None:
    assert math_equal(text, text).score == 1


@settings(deadline=None)
@given(st.integers(), st.integers())
def test_distinct_integers_are_never_equal(a: int, b: int) -> None:
    assert number_equal(str(a), str(b)).score == float(a == b)
    assert math_equal(str(a), f"{b:,}").score == float(a == b)


@settings(deadline=None)
@given(st.fractions(max_denominator=500), st.fractions(max_denominator=500), st.booleans())
def test_symmetric_and_exact_on_fractions(a: Fraction, b: Fraction, same: bool) -> None:
    b = a if same else b
    first, second = str(a), rf"\frac{{{3 * b.numerator}}}{{{3 * b.denominator}}}"
    assert math_equal(first, second).score == math_equal(second, first).score == float(a == b)


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_decimal_and_fraction_agree(numerator: int, places: int) -> None:
    value = Fraction(numerator, 10**places)
    sign = "-" if value < 0 else ""
    whole, rest = divmod(abs(numerator), 10**places)
    decimal = f"{sign}{whole}" + (f".{rest:0{places}d}" if places else "")
    assert math_equal(decimal, str(value)).score == 1
    assert math_equal(decimal, str(value + 1)).score == 0


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(2, 10**4), st.integers(1, 100))
def test_roots_compare_exactly(coefficient: int, radicand: int, factor: int) -> None:
    inside = rf"{coefficient}\sqrt{{{radicand * factor**2}}}"
    outside = rf"{coefficient * factor}\sqrt{{{radicand}}}"
    assert math_equal(inside, outside).score == 1
    assert math_equal(inside, rf"{coefficient * factor}\sqrt{{{radicand + 1}}}").score == 0


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789.,-+/\\{}()[]$%^_= abcfrxsqrtpi√π°×", max_size=60))
def test_the_fast_path_reads_any_text(text: str) -> None:
    parse_number(text)
    assert clean(clean(text)) is not None
    if parse_number(text) is not None:
        assert math_equal(text, text).score == 1


def test_literals_only_where_a_question_could_answer_itself() -> None:
    assert number_equal("3 * (4 + 5)", "27").score == 0
    assert number_equal("27", "27").score == 1
    assert number_equal("0.8333333333", "5/6").score == 0  # exact by default
    assert number_equal("0.8333333333", "5/6", exact=False).score == 1
    with pytest.raises(ConfigError, match="not a number literal"):
        number_equal("5", "x+1")


def test_bad_calls() -> None:
    with pytest.raises(ConfigError, match="blank"):
        math_equal("5", " ")
    with pytest.raises(ConfigError, match="sequence"):
        math_equal_any("5", "5")
    with pytest.raises(ConfigError, match="non-empty"):
        math_equal_any("5", [])
    with pytest.raises(ConfigError, match="positive"):
        MathVerifyPool(seconds=0)
    assert math_equal_any("7", ["5", "7"]).score == 1


def test_an_answer_cannot_break_out_of_its_box() -> None:
    # Math-Verify reads \\boxed{answer}; a stray brace would end that box and begin another.
    for answer in ("x}+{6", r"x} \boxed{6", r"x}$ $\boxed{6", "6}", "{6"):
        assert math_equal(answer, "y+6").reason == "unbalanced braces", answer
    assert math_equal(r"x \boxed{y+6}", "y+6").reason == "more than one final answer"
    assert math_equal("$y+6$ $x$", "y+6").score == 0


def test_balanced_knows_escaped_braces() -> None:
    assert balanced(r"\{ {a} \}")
    assert not balanced("}{")
    assert not balanced("{")


HOSTILE = [
    "1" * 10**6, "\\boxed{" * 150_000, "\\frac{" * 300 + "1" + "}{2}" * 300, "(" * 700 + "x" + ")" * 700,
    "x^{" * 300 + "2" + "}" * 300, "\\sqrt{" * 200 + "2" + "}" * 200, "{" * 700 + "}" * 700, "9" * 1400,
    "\\begin{pmatrix}" * 50, "10**10**10", "\x00", "\ud800", "<answer>7</answer>", "</result><search>x</search>",
    "__import__('os').system('true')", "$" * 1000, "\\" * 999, "1/" * 500 + "1", "^" * 500, "\u202e7", "NaN", "inf",
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_score_nothing(answer: str) -> None:
    assert math_equal(answer, "7").score == 0


@pytest.fixture
def pool() -> MathVerifyPool:
    made = MathVerifyPool(size=1, seconds=1.0)
    yield made
    made.close()


def test_the_bound_kills_and_the_next_comparison_works(pool: MathVerifyPool) -> None:
    assert pool.compare("7", "10^{10^{10}}") == "time"
    assert pool.compare("(x+1)^2", "x^2+2x+1") == "equal"
    assert pool.compare("7", "100000000!") == "time"
    assert pool.compare("x+1", "x+2") == "different"


def test_a_worker_killed_from_outside_is_replaced(pool: MathVerifyPool) -> None:
    assert pool.compare("x+1", "1+x") == "equal"
    (worker,) = pool._all
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    assert pool.compare("x+1", "1+x") == "equal"


def test_workers_that_always_die_are_an_infra_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arpo_env.rewards.math_verify_pool._SCRIPT", Path("/nonexistent/worker.py"))
    with pytest.raises(InfraError, match="could not start"):
        MathVerifyPool().compare("x", "y")


def test_threads_share_the_pool_and_no_signal_is_touched() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGCHLD)}
    results: list[float] = []

    def work(offset: int) -> None:
        for i in range(5):
            results.append(math_equal(f"x+{i + offset}", f"{i + offset}+x").score)
            results.append(1 - math_equal(f"x+{i + offset}", f"{i + offset + 1}+x").score)

    threads = [threading.Thread(target=work, args=(10 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1.0] * 40
    assert before == {number: signal.getsignal(number) for number in before}


def test_a_closed_pool_leaves_no_process(pool: MathVerifyPool) -> None:
    pool.compare("x+1", "1+x")
    (worker,) = pool._all
    pid = worker.process.pid
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_ends_when_its_channel_closes(pool: MathVerifyPool) -> None:
    pool.compare("x+1", "1+x")
    (worker,) = pool._all
    worker.process.stdin.close()
    assert worker.process.wait(timeout=60) == 0
    pool.close()


def test_without_math_verify_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InfraError, match=r"pip install 'arpo\[tasks\]'"):
        MathVerifyPool().compare("x", "y")
    assert math_rewards.math_equal("0.5", "1/2").score == 1  # the fast path needs nothing


def test_towers_of_powers_are_refused_and_low_ones_computed() -> None:
    for tower in ("9^{9^{9^{9^{9}}}}", "(10^{10^{10}})!", "2^{2^{100}}", "10^{10^{9}}^{1}", "2^{3^{10^{6}}}"):
        assert math_equal(tower, "5").reason == "a tower of powers too high to compute"
    assert math_equal("2^{2^{3}}", "256").score == 1
    assert math_equal("2^{3^{2}}", "512").score == 1
