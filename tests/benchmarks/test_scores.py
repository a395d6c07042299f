"""Samples -> scores: counting, majority votes, cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_toys import row, void

from arpo_algo.errors import ConfigError
from arpo_algo.stats import wilson
from benchmarks.prices import read_price
from benchmarks.scores import Estimate, Price, average, score, sizes, vote


def test_counts() -> None:
    """Task 0 solved once of two, task 1 twice, task 2 half void, task 3 wholly void, task 4 not run."""
    samples = [
        row(0, 0), row(0, 1, right=False), row(1, 0), row(1, 1, errors=["a retry"]), row(2, 0, right=False), void(2, 1),
        void(3, 0), void(3, 1),
    ]  # fmt: skip
    got = score("Toy", samples, planned=5, k=2)
    assert (got.scored, got.void, got.retried) == (5, 3, 1)
    assert got.task_means == {"toy/test/0/0": 0.5, "toy/test/0/1": 1.0, "toy/test/0/2": 0.0}
    assert got.pass_1 is not None
    assert (got.pass_1.value, got.pass_1.n) == (0.5, 3)
    # Two samples are needed for pass@2: task 2 has one.
    assert (got.pass_at[2].value, got.pass_hat[2].value, got.pass_at[2].n) == (1.0, 0.5, 2)
    assert got.stop_reasons == {"answered": 5}


def test_single_samples_have_wilsons_interval() -> None:
    got = score("Toy", [row(i, right=i < 3) for i in range(10)], planned=10, k=1)
    assert got.pass_1 is not None
    assert (got.pass_1.low, got.pass_1.high) == pytest.approx(wilson(3, 10))
    assert got.majority is None


def test_nothing_scored() -> None:
    got = score("Toy", [void(0)], planned=1, k=1)
    assert (got.pass_1, got.means, got.cost) == (None, {}, None)


def test_sizes() -> None:
    assert [sizes(k) for k in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]


class TestVote:
    def test_the_verifier_says_what_is_one_answer(self) -> None:
        """1/2 and 0.5 are one answer, and outvote 3 twice written alike."""
        answers = [("0.5", True), ("3", False), (r"\frac{1}{2}", True), ("3", False), ("50\\%", True)]
        samples = [row(0, i, answer=a, right=r) for i, (a, r) in enumerate(answers)]
        assert vote(samples) == 1.0
        assert vote([row(0, i, answer=a, right=r, verifier="qa") for i, (a, r) in enumerate(answers)]) == 0.0, "as text"

    def test_ties_are_shared_and_silence_is_no_vote(self) -> None:
        assert vote([row(0, 0, answer="1"), row(0, 1, answer="2", right=False)]) == 0.5
        assert vote([row(0, 0, answer=None, right=False)] * 3 + [row(0, 3, answer="1")]) == 1.0
        assert vote([row(0, 0, answer=None, right=False)]) == 0.0

    def test_programs_have_none(self) -> None:
        assert score("Code", [row(0, i, verifier="") for i in range(2)], planned=1, k=2).majority is None

    def test_over_tasks(self) -> None:
        samples = [row(t, i, answer=str(i % 2 if t else 0), right=not t) for t in range(2) for i in range(3)]
        got = score("Toy", samples, planned=2, k=3).majority
        assert got is not None
        assert (got.value, got.n) == (0.5, 2)


class TestCost:
    def test_of_tokens(self) -> None:
        got = score("Toy", [row(0), row(1)], planned=2, k=1, price=Price(2.0, 10.0))
        each = (2.0 * 100 + 10.0 * 20) / 1e6
        assert got.cost == pytest.approx(2 * each)
        assert got.means["cost"].value == pytest.approx(each)

    def test_unknown_tokens_have_no_cost(self) -> None:
        got = score("Toy", [row(0), row(1, prompt_tokens=None)], planned=2, k=1, price=Price(2.0, 10.0))
        assert got.cost is None
        assert "cost" not in got.means
        assert "prompt_tokens" not in got.means, "a mean over some samples only would mislead"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("[qwen3]\ninput = 1\noutput = 2", "did you mean 'qwen3'"),
            ("[qwen]\ninput = 1", "must hold input and output"),
            ("[qwen]\ninput = -1\noutput = 2", "must hold input and output"),
            ("[qwen]\ninput = true\noutput = 2", "must hold input and output"),
            ("[qwen", "is not TOML"),
        ],
    )
    def test_tables_that_do_not_do(self, tmp_path: Path, text: str, says: str) -> None:
        (tmp_path / "prices.toml").write_text(text)
        with pytest.raises(ConfigError, match=says):
            read_price(tmp_path / "prices.toml", "qwen")

    def test_a_table(self, tmp_path: Path) -> None:
        (tmp_path / "prices.toml").write_text("[qwen]\ninput = 0.05\noutput = 1\n")
        assert read_price(tmp_path / "prices.toml", "qwen") == Price(0.05, 1.0)
        with pytest.raises(ConfigError, match="cannot be read"):
            read_price(tmp_path / "none.toml", "qwen")


def test_average_needs_every_suite() -> None:
    e = Estimate(0.5, 0.4, 0.6, 10)
    got = average([e, e])
    assert got is not None
    assert (got.value, got.n) == (0.5, 20)
    assert got.high - got.low < e.high - e.low
    assert average([e, None]) is None
    assert average([]) is None
