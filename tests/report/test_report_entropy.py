"""The entropy profile against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import Maker

from arpo_algo.report.entropy import entropy_profile, turn_windows
from arpo_algo.report.page_entropy import rise_sentence
from arpo_algo.tree import Outcome, Tree


def chain(*turns: list[float], task: str = "t") -> Tree:
    """A root rollout whose turns have these entropies, a tool result between each two."""
    tree = Tree(task, [1, 2])
    at = 0
    for i, entropies in enumerate(turns):
        if i:
            at = tree.add(at, "result", [7, 8]).id
        node = tree.add(at, "action", list(range(len(entropies))))
        node.entropies = entropies
        at = node.id
    tree.nodes[at].outcome = Outcome(0.0)
    return tree


def test_by_hand() -> None:
    a = chain([0.0, 0.2, 0.4], [1.0, 3.0], [2.0])
    b = chain([0.4], [2.0, 5.0, 9.0])
    p = entropy_profile([a, b], k=2)
    assert [e.mean for e in p.start] == pytest.approx([0.2, 0.2, 0.4])
    assert [e.n for e in p.start] == [2, 1, 1]
    assert [e.mean for e in p.after] == pytest.approx([5 / 3, 4.0, 9.0])
    assert [e.n for e in p.after] == [3, 2, 1]
    assert p.rise is not None
    # a: start (0 + 0.2)/2 = 0.1; after: mean of (1 + 3)/2 and 2 = 2.   b: 0.4; (2 + 5)/2 = 3.5.
    assert p.rise.start.mean == pytest.approx(0.25)
    assert p.rise.after.mean == pytest.approx(2.75)
    assert p.rise.difference.mean == pytest.approx((1.9 + 3.1) / 2)
    assert (p.rise.trees, p.rise.trajectories, p.rise.segments) == (2, 2, 3)
    assert p.rise.share_rising == 1.0
    # Differences 1.9 and 3.1: their standard error is 0.6; Student's 97.5 % point with one degree of freedom: 12.7062.
    assert p.rise.difference.low == pytest.approx(2.5 - 12.7062 * 0.6)
    assert p.rise.difference.high == pytest.approx(2.5 + 12.7062 * 0.6)
    assert p.rise.after.low == 0, "no entropy is negative"


def test_trees_with_more_trajectories_weigh_more() -> None:
    one, three = chain([0.0], [2.0]), chain([0.0], [0.0])
    for _ in range(2):
        three.add(three.add(three.add(0, "action", [0]).id, "result", [7]).id, "action", [0])
    for node in three.nodes:
        node.entropies = [0.0] * (node.kind == "action")
    rise = entropy_profile([one, three], k=1).rise
    assert rise is not None
    d = rise.difference
    # Without the first tree the mean is 0, without the second 2: √(½·((0 − ½)² + (2 − ½)²)) = √1.25.
    assert (d.mean, d.n) == (0.5, 4)
    assert (d.low, d.high) == pytest.approx((0.5 - 12.7062 * 1.25**0.5, 0.5 + 12.7062 * 1.25**0.5))


def test_of_four_trees_that_differ_by_chance_few_are_said_to_rise() -> None:
    """Entropy goes up in some trees, down in others. One verdict in twenty may be wrong; a bootstrap's: one in four."""
    rng = np.random.default_rng(0)
    said = []
    for _ in range(300):
        trees = [chain([1.0] * 3, *[[1.0 + rise] * 3] * 2) for rise in rng.normal(0, 0.1, 4)]
        rise = entropy_profile(trees, k=3, positions=1, resamples=200).rise
        assert rise is not None
        said.append(rise_sentence("training", rise))
    wrong = sum("so no rise is shown" not in s for s in said)
    assert wrong <= 30, wrong  # 15 expected, with a standard deviation of 4


def test_a_rise_in_every_tree_is_said_to_be_one() -> None:
    rise = entropy_profile([chain([0.1], [0.5 + 0.1 * i]) for i in range(4)], k=1).rise
    assert rise is not None
    assert "so it rose after tool results" in rise_sentence("training", rise)


def test_forked_siblings_and_what_follows_them_are_left_out() -> None:
    tree = chain([0.1], [0.2])
    plain = entropy_profile([tree, tree], k=1)
    twin = tree.add(2, "action", [5])
    twin.entropies, twin.fork_of = [9.0], 3
    after = tree.add(tree.add(twin.id, "result", [5]).id, "action", [5])
    after.entropies, after.outcome = [9.0], Outcome(1.0)
    assert entropy_profile([tree, tree], k=1) == plain


def test_a_turn_that_was_forked_in_its_middle_is_one_turn() -> None:
    """TreeRL: an action below an action. What goes on is no turn after a result, and no turn of its own."""
    whole = chain([0.1, 0.2, 0.3], [0.4, 0.5, 0.6, 0.7])
    split = Tree("t", [1, 2])
    at = 0
    for kind, entropies in (("action", [0.1]), ("action", [0.2, 0.3]), ("result", []),
                            ("action", [0.4, 0.5]), ("action", [0.6]), ("action", [0.7])):  # fmt: skip
        node = split.add(at, "result", [7, 8]) if kind == "result" else split.add(at, "action", [0] * len(entropies))
        node.entropies = list(entropies)
        if node.id in (2, 5):
            twin = split.add(at, "action", [5])
            twin.entropies, twin.fork_of, twin.outcome = [9.0], node.id, Outcome(1.0)
        at = node.id
    split.nodes[at].outcome = Outcome(0.0)
    for k in (1, 2, 3):
        assert entropy_profile([split], k=k) == entropy_profile([whole], k=k)
        assert turn_windows(split, k) == turn_windows(whole, k)
    rise = entropy_profile([split], k=2).rise
    assert rise is not None
    assert (rise.segments, rise.difference.mean) == (1, pytest.approx(0.45 - 0.15))
    split.nodes[5].entropies = []  # a part that was not saved: the turn is not known
    assert entropy_profile([split], k=1).rise is None


def test_one_tree_makes_no_interval_and_no_tool_call_makes_no_rise() -> None:
    p = entropy_profile([chain([0.5, 0.5])])
    assert p.rise is None
    assert (p.start[0].low, p.start[0].high) == (None, None)
    assert p.after == ()
    assert entropy_profile([]).start == ()


def test_positions_are_capped_and_empty_turns_passed_over() -> None:
    p = entropy_profile([chain([0.1] * 9, [], [0.3])], positions=4)
    assert len(p.start) == 4
    assert [e.n for e in p.after] == [1]
    assert entropy_profile([chain([0.1, float("nan")], [0.3])]).start == ()


@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=2, max_size=8),
    st.integers(0, 5),
)
def test_intervals_hold_the_mean_and_a_constant_has_none_to_speak_of(
    levels: list[tuple[float, float]], seed: int
) -> None:
    trees = [chain([a] * 3, [b] * 3) for a, b in levels]
    p = entropy_profile(trees, k=3, resamples=200, seed=seed)
    assert p.rise is not None
    d = p.rise.difference
    differences = [b - a for a, b in levels]
    assert d.mean == pytest.approx(sum(differences) / len(differences), abs=1e-9)
    assert d.low is not None
    assert d.high is not None
    assert d.low - 1e-9 <= d.mean <= d.high + 1e-9
    if len(set(levels)) == 1:
        assert d.high - d.low == pytest.approx(0, abs=1e-9)


def test_the_same_seed_gives_the_same_numbers() -> None:
    trees = [Maker(i).tree(f"t{i}") for i in range(4)]
    assert entropy_profile(trees, seed=2) == entropy_profile(trees, seed=2)
    assert entropy_profile(trees, seed=2) != entropy_profile(trees, seed=3)


@pytest.mark.parametrize("bad", [{"k": 0}, {"positions": 0}, {"resamples": 0}])
def test_bad_arguments_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        entropy_profile([], **bad)
