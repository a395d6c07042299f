"""The calculator family: exact, endless, split for certain, solvable by its expert and by nothing cheaper."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
from expert_driver import play, python_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.errors import ConfigError
from arpo_env.tasks.base import Task
from arpo_env.tasks.math import MathFamily
from arpo_env.tasks.math import expression as ex
from arpo_env.tasks.math.partition import draw_in_split, split_of
from arpo_env.tasks.math.words import TEMPLATES
from arpo_env.tools.base import Tool

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def family() -> MathFamily:
    return MathFamily()


@pytest.fixture(scope="module")
def python() -> Tool:
    return python_or_skip()


@pytest.fixture(scope="module")
def tasks(family: MathFamily) -> list[Task]:
    return [family.task(seed, split, index) for seed in range(3) for split in SPLITS for index in range(25)]


def test_the_expert_solves_every_task(family: MathFamily, tasks: list[Task], python: Tool) -> None:
    assert len(tasks) >= 200
    for task in tasks:
        answer, calls, worked = play(family.expert(task), python)
        assert (calls, worked) == (1, 1)
        assert family.verify(task, answer).score == 1, (task, answer)


def test_the_expert_reads_the_observation(family: MathFamily, tasks: list[Task]) -> None:
    expert = family.expert(tasks[0])
    next(expert)
    assert r"\boxed{12345}" in expert.send("<result>\n12345\n</result>")


def test_a_flawed_expert_is_well_formed_and_mostly_wrong(family: MathFamily, tasks: list[Task], python: Tool) -> None:
    rng = np.random.default_rng(0)
    scores = [family.verify(task, play(family.flawed_expert(task, rng), python)[0]).score for task in tasks[:100]]
    assert sum(scores) <= 5


def test_cheap_answers_score_nothing(family: MathFamily, tasks: list[Task]) -> None:
    for task, other in itertools.pairwise(tasks):
        expression = ex.write(ex_of(task))
        wrong = str(Fraction(task.answer) + 1)
        for answer in ("", " ", task.question, expression, f"{expression} + 0", wrong, "x", "1" * 10**6, "\\boxed{"):
            assert family.verify(task, answer).score == 0, (task, answer)
        if other.answer != task.answer:
            assert family.verify(task, other.answer).score == 0
        assert family.verify(task, task.answer).score == 1


def ex_of(task: Task) -> ex.Expression:
    def unpack(packed: object) -> ex.Expression:
        return ex.Op(packed[0], unpack(packed[1]), unpack(packed[2])) if isinstance(packed, list) else packed

    return unpack(task.meta["expression"])


def test_the_same_place_gives_the_same_task(family: MathFamily) -> None:
    for index in (0, 1, 10**9):
        assert family.task(5, "train", index) == MathFamily().task(5, "train", index)
    task = family.task(7, "test", 3)
    assert task.id == "math/test/7/3"
    assert json.loads(json.dumps(task.meta)) == task.meta


def test_neighbouring_seeds_and_splits_share_no_question(family: MathFamily) -> None:
    seen: dict[str, tuple[int, str, int]] = {}
    for seed in (41, 42, 43):
        for split in SPLITS:
            for index in range(60):
                question = family.task(seed, split, index).question
                assert question not in seen, (seen.get(question), seed, split, index)
                seen[question] = (seed, split, index)


def test_no_expression_is_in_two_splits_whatever_the_wording(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(rng: np.random.Generator, level: int) -> ex.Expression:
        return ex.Op("+", int(rng.integers(2, 12)), ex.Op("*", int(rng.integers(2, 12)), 7))

    monkeypatch.setattr(ex, "random_expression", few)  # 100 of them, so that streams meet
    family = MathFamily(level=1, words=0.0)
    seen = {split: {ex.write(ex_of(family.task(0, split, n))) for n in range(300)} for split in SPLITS}
    assert len(seen["train"]) > 80
    for one, other in itertools.combinations(SPLITS, 2):
        assert not seen[one] & seen[other]


@given(st.integers(0, 2**40), st.sampled_from(SPLITS), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_every_task_is_in_the_split_its_expression_belongs_to(seed: int, split: str, index: int) -> None:
    task = MathFamily().task(seed, split, index)
    assert split_of(ex.write(ex_of(task))) == split
    value = Fraction(task.answer)
    assert ex.evaluate(ex_of(task)) == value
    assert abs(value) <= 10**7


def test_levels_are_what_they_say() -> None:
    for level in (1, 2, 3, 4, 5):
        family = MathFamily(level=level, words=0.0)
        for index in range(30):
            task = family.task(0, "train", index)
            assert task.meta["level"] == level
            text = ex.write(ex_of(task))
            assert text in task.question
            assert ("(" in text) >= (level in (2, 3))
            assert ("/" in task.answer) == (level >= 4)
            if level == 1:
                assert "(" not in text
            if level == 5:
                assert "^" in text


def test_word_problems() -> None:
    for level, templates in TEMPLATES.items():
        family = MathFamily(level=level, words=1.0)
        texts = [family.task(1, "train", index) for index in range(20 * len(templates))]
        assert all(task.meta["words"] for task in texts)
        assert len({task.question for task in texts}) == len(texts)
    assert not MathFamily(level=5, words=1.0).task(0, "train", 0).meta["words"]


def test_options_are_part_of_the_name() -> None:
    assert MathFamily().name == "math"
    assert MathFamily(level=(2, 1)).name == MathFamily(level=[1, 2, 2]).name == "math-L12-w0.25"
    assert MathFamily(words=0.5).name != "math"
    for bad in (0, 6, (), (1, 9)):
        with pytest.raises(ConfigError, match="level"):
            MathFamily(level=bad)
    with pytest.raises(ConfigError, match="words"):
        MathFamily(words=1.5)
    with pytest.raises(ConfigError, match="split"):
        MathFamily().task(0, "tran", 0)
    with pytest.raises(ConfigError, match="seed"):
        MathFamily().task(-1, "train", 0)


def test_a_family_with_too_few_questions_says_so() -> None:
    with pytest.raises(ConfigError, match="too few questions"):
        draw_in_split(np.random.default_rng(0), "test", lambda rng: "always the same one", str)


trees = st.recursive(
    st.integers(1, 99),
    lambda inner: st.builds(ex.Op, st.sampled_from("+-*/"), inner, inner),
    max_leaves=7,
)


@settings(deadline=None)
@given(trees)
def test_what_is_written_is_what_is_meant(expression: ex.Expression) -> None:
    namespace = {"F": Fraction}
    try:
        value = ex.evaluate(expression)
    except ZeroDivisionError:
        return
    assert eval(ex.write(expression, python=True), namespace) == value
    if isinstance(expression, ex.Op):
        flat = ex.write(expression, python=True, parentheses=False)
        try:
            assert eval(flat, namespace) == ex.without_parentheses(expression)
        except ZeroDivisionError:
            assert ex.without_parentheses(expression) is None


@settings(deadline=None)
@given(trees.filter(lambda tree: isinstance(tree, ex.Op)), st.integers(0, 2**32))
def test_a_changed_operator_is_one_change(expression: ex.Op, seed: int) -> None:
    changed = ex.change_operator(expression, np.random.default_rng(seed))
    before, after = ex.write(expression, parentheses=False).split(), ex.write(changed, parentheses=False).split()
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
