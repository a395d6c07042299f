"""Sentences: why a node forked, and what the run achieved."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from report_runs import make_run

from arpo_algo.branching import Entropy, Probe
from arpo_algo.report import words
from arpo_algo.report.data import EvalRow, RunData, read_run
from arpo_algo.tree import ForkDecision, Tree

LN_V = math.log(49152)


def probed(start: float, now: float, *, siblings: int = 0) -> Tree:
    tree = Tree("t", [1])
    first = tree.add(0, "action", [1, 2])
    first.entropies = [start, start]
    result = tree.add(first.id, "result", [3])
    probe = tree.add(result.id, "action", [1, 2])
    probe.entropies = [now, now]
    for _ in range(siblings):
        tree.add(result.id, "action", [4]).fork_of = probe.id
    return tree


def decision(start: float, now: float, reason: str, wanted: int, granted: int) -> ForkDecision:
    return ForkDecision(3, now / LN_V, start / LN_V, 0.5, wanted, granted, reason)


@pytest.mark.parametrize(
    ("start", "now", "reason", "wanted", "granted", "expected"),
    [
        (0.012, 0.075, "ΔH=+0.0058, P=0.5012 > τ=0.5", 1, 1,
         "Entropy rose from 0.012 to 0.075 nats a token (ΔH = +0.00583 normalised) → P=0.5012 > τ=0.5 → "
         "forked 1 sibling (node 4)."),
        (0.075, 0.012, "ΔH=-0.0058, P=0.4988 <= τ=0.5", 0, 0,
         "Entropy fell from 0.075 to 0.012 nats a token (ΔH = -0.00583 normalised) → P=0.4988 <= τ=0.5 → not forked."),
        (0.012, 0.075, "ΔH=+0.0058, P=0.5012 > τ=0.5; budget left 0", 1, 0,
         "Entropy rose from 0.012 to 0.075 nats a token (ΔH = +0.00583 normalised) → P=0.5012 > τ=0.5 → "
         "1 sibling wanted, but no fork budget was left here → not forked."),
        (0.012, 0.075, "ΔH=+0.0058, u=0.100 < P=0.501; budget left 2", 3, 2,
         "Entropy rose from 0.012 to 0.075 nats a token (ΔH = +0.00583 normalised) → u=0.100 < P=0.501 → "
         "forked 2 siblings (nodes 4, 5), not the 3 wanted: the budget had no more."),
    ],
)  # fmt: skip
def test_fork_words(start: float, now: float, reason: str, wanted: int, granted: int, expected: str) -> None:
    tree = probed(start, now, siblings=granted)
    assert words.fork_words(tree, decision(start, now, reason, wanted, granted), 2) == expected


def test_fork_words_without_k_are_normalised_only() -> None:
    said = words.fork_words(probed(0.1, 0.2), decision(0.1, 0.2, "u=0.9, p=0.5", 0, 0), None)
    assert said == "Entropy rose from 0.00926 to 0.0185 normalised (ΔH = +0.00926) → u=0.9, p=0.5 → not forked."


def test_small_entropies_and_close_decisions_are_not_rounded_away() -> None:
    """A trained model's: a rise of 0.02 thousandths of a nat, which decided."""
    probe = Probe(42e-5 / LN_V, 40e-5 / LN_V, 0, 0, np.random.default_rng(0))
    for rule, compared in ((Entropy(k=2), "P=0.5000004 > τ=0.5"), (Entropy(k=2, rule="bernoulli"), " P=0.5000004 →")):
        said = words.fork_words(probed(40e-5, 42e-5), decision(40e-5, 42e-5, rule.wish(probe).reason, 1, 1), 2)
        assert "rose from 0.0004 to 0.00042 nats a token (ΔH = +1.9e-06 normalised)" in said
        assert compared in said


def row(name: str, wins: int, n: int, low: float, high: float) -> EvalRow:
    return EvalRow(name, 0, n, wins / n, low, high)


def run_of(tmp_path: Path, *rows: EvalRow) -> RunData:
    return RunData(tmp_path, None, (), rows, ())


def test_newcombe_by_hand(tmp_path: Path) -> None:
    """Newcombe 1998, table II, case (a): 56/70 − 48/80 = 0.2, method 10 gives 0.0524 to 0.3339."""
    b, a = row("x", 48, 80, 0.4904, 0.7003), row("y", 56, 70, 0.6921, 0.8770)  # their Wilson intervals
    c = words.change(run_of(tmp_path, b, a), b, a)
    assert (c.difference, c.low, c.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-4)
    assert "independent" in c.method


@pytest.mark.parametrize(
    ("b", "a", "expected"),
    [
        (("cold start", 20, 100, 0.13, 0.29), ("ARPO", 60, 100, 0.50, 0.69),
         r"Held-out success rose by 40\.0 points \(95 % CI \+2\d\.\d to \+\d\d\.\d\), from 20\.0 % \(cold start\)"),
        (("cold start", 60, 100, 0.50, 0.69), ("ARPO", 20, 100, 0.13, 0.29), r"Held-out success fell by 40\.0 points"),
        (("cold start", 50, 100, 0.40, 0.60), ("ARPO", 55, 100, 0.45, 0.64),
         r"No change in held-out success is shown: it went from 50\.0 % .* \+5\.0 points, and .* holds zero"),
        (("cold start", 50, 100, 0.40, 0.60), ("ARPO", 50, 100, 0.40, 0.60), r"it did not change, and the interval"),
    ],
)  # fmt: skip
def test_the_verdict_says_only_what_the_interval_allows(
    tmp_path: Path, b: tuple[str, int, int, float, float], a: tuple[str, int, int, float, float], expected: str
) -> None:
    before, after = row(*b), row(*a)
    (c,) = words.headline_changes(run_of(tmp_path, before, after))
    assert re.search(expected, words.change_sentence(c))


def test_the_headline_compares_cold_start_and_then_the_untrained_model_with_the_last(tmp_path: Path) -> None:
    rows = [row("before", 1, 10, 0, 0.4), row("cold start", 3, 10, 0.1, 0.6), row("ARPO", 5, 10, 0.2, 0.8)]
    rows += [row("ARPO", 7, 10, 0.4, 0.9)]  # evaluated again: the last one counts
    changes = words.headline_changes(run_of(tmp_path, *rows))
    assert [(c.before.name, c.after.success) for c in changes] == [("cold start", 0.7), ("before", 0.7)]
    assert words.headline_changes(run_of(tmp_path, rows[0])) == []


def test_the_change_is_paired_when_all_trees_are_there_and_not_when_one_is_missing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=1, trees=1, tasks=30)
    run = read_run(folder)
    (c, _) = words.headline_changes(run)
    assert "paired over the same 30" in c.method
    assert c.difference == pytest.approx(run.evals[2].success - run.evals[1].success)
    assert c.low < c.difference < c.high
    (folder / "trees" / "eval-after-sft.jsonl.gz").unlink()
    assert "independent" in words.headline_changes(read_run(folder))[0].method


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a <search>no</search></think>\n<search> Brimco </search>", ("search", "Brimco")),
        ("<python>print(1 < 2)</python>", ("python", "print(1 < 2)")),
        ("<answer>\\boxed{3}</answer>", None),
        ("<search>open", None),
        ("", None),
    ],
)
def test_tool_call(text: str, expected: tuple[str, str] | None) -> None:
    assert words.tool_call(text) == expected


def test_result_body() -> None:
    assert words.result_body("<result>\na\nb\n</result>") == "a\nb"
    assert words.result_body("no frame") == "no frame"
