"""The code family: every template solvable, every flaw caught, hidden tests hidden."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from expert_driver import play, python_or_skip

from arpo_env.errors import ConfigError
from arpo_env.tasks.base import Task
from arpo_env.tasks.code import CodeFamily
from arpo_env.tasks.code.problem import Draw, ordinal, wrong
from arpo_env.tasks.code.templates import TEMPLATES
from arpo_env.tools.base import Tool

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def family() -> CodeFamily:
    return CodeFamily()


@pytest.fixture(scope="module")
def python() -> Tool:
    return python_or_skip()


@pytest.fixture(scope="module")
def tasks(family: CodeFamily) -> list[Task]:
    return [family.task(seed, split, index) for seed in range(2) for split in SPLITS for index in range(34)]


def test_the_expert_solves_every_task(family: CodeFamily, tasks: list[Task], python: Tool) -> None:
    assert len(tasks) >= 200
    assert {task.meta["function"] for task in tasks} == set(TEMPLATES)
    assert len(TEMPLATES) >= 12
    for task in tasks:
        answer, calls, worked = play(family.expert(task), python, raw=True)
        assert (calls, worked) == (1, 1)
        verdict = family.verify(task, answer)
        assert verdict.score == 1, (task, verdict)


def test_the_expert_checks_the_example(family: CodeFamily, tasks: list[Task]) -> None:
    for said, seen in (("right", None), ("differs", "nonsense")):
        task = tasks[0]
        expert = family.expert(task)
        next(expert)
        shown = str(task.meta["example"][1]) if seen is None else seen
        assert said in expert.send(f"<result>\n{shown}\n</result>")


def test_flawed_experts_are_well_formed_and_wrong(family: CodeFamily, tasks: list[Task], python: Tool) -> None:
    rng = np.random.default_rng(0)
    for task in tasks[:60]:
        assert task.meta["flaws"]
        answer, calls, _ = play(family.flawed_expert(task, rng), python, raw=True)
        assert calls <= 1
        assert family.verify(task, answer).score == 0, (task, answer)


def test_cheap_answers_score_nothing(family: CodeFamily, tasks: list[Task], python: Tool) -> None:
    for task in tasks[::10]:
        name = task.meta["function"]
        args, value = task.meta["example"]
        memorised = f"def {name}(*args):\n    return {value!r} if list(args) == {args!r} else None"
        for answer in ("", task.question, f"def {name}(x):\n    return x", memorised, "\\boxed{5}"):
            assert family.verify(task, answer).score == 0, (task, answer)


def test_a_fence_is_accepted(family: CodeFamily, tasks: list[Task], python: Tool) -> None:
    assert family.verify(tasks[0], f"```python\n{tasks[0].answer}\n```").score == 1


def test_hidden_tests_are_hidden(tasks: list[Task]) -> None:
    for task in tasks:
        assert len(task.meta["tests"]) >= 7
        assert json.loads(json.dumps(task.meta)) == task.meta
        shown = task.meta["example"]
        hidden = [test for test in task.meta["tests"] if test[0] != shown[0]]
        assert len(hidden) >= 5
        assert len({json.dumps(value) for _, value in task.meta["tests"]}) >= 2, "a constant function would pass"
        long = [repr(arg) for args, _ in hidden for arg in args if len(repr(arg)) > 12]
        assert not any(arg in task.question for arg in long)


def test_seeds_and_splits_share_no_question(family: CodeFamily) -> None:
    questions = [family.task(s, split, i).question for s in (41, 42, 43) for split in SPLITS for i in range(40)]
    assert len(set(questions)) == len(questions)
    assert family.task(3, "train", 5) == CodeFamily().task(3, "train", 5)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_no_function_is_in_two_splits_and_every_split_has_some(name: str) -> None:
    family = CodeFamily(templates=[name])
    solutions = {split: {family.task(0, split, i).answer for i in range(60)} for split in SPLITS}
    assert all(solutions.values())
    for one, other in itertools.combinations(SPLITS, 2):
        assert not solutions[one] & solutions[other]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_template_over_many_draws(name: str) -> None:
    family = CodeFamily(templates=[name])
    for index in range(30):
        task = family.task(0, "train", index)
        assert task.meta["function"] == name
        assert f"{name}(" in task.question
        assert task.meta["flaws"], "every flaw agrees with the solution on all tests"


def test_options() -> None:
    assert CodeFamily(templates=["rotate", "clamp"]).name == "code-clamp+rotate"
    assert CodeFamily.answer_format == "raw"
    with pytest.raises(ConfigError, match="did you mean 'rotate'"):
        CodeFamily(templates=["rotat"])
    with pytest.raises(ConfigError, match="empty"):
        CodeFamily(templates=[])
    with pytest.raises(ConfigError, match="seconds"):
        CodeFamily(seconds=0)
    task = CodeFamily().task(0, "train", 0)
    with pytest.raises(ConfigError, match="sandbox"):
        CodeFamily(sandbox="no such tier").verify(task, task.answer)


def test_helpers() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="changes nothing"):
        wrong("abc", ("x", "y"))
    assert len(set(Draw(np.random.default_rng(0)).letters(5))) == 5
