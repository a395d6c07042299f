"""Prove a suite: every gold scores 1, and nothing else that is tried does, each within a time bound.

Tried a task: every accepted answer (through the verifier, and one through a whole episode, so that it survives the tag
protocol), nothing, the question itself, the answers of other tasks. Tried a suite, on its first task: the hostile
answers of ``hostile.py``. Two tasks may have the same answer, so another task's gold may score when the other verifier
accepts this task's gold in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from arpo_env.env import AgentEnv
from arpo_env.errors import ConfigError, InfraError
from arpo_env.protocol import answer_turn
from arpo_env.suites.hostile import ANSWERS, PROGRAMS
from arpo_env.tasks.base import Task, TaskFamily


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be."""

    task_id: str
    tried: str
    said: str

    def __str__(self) -> str:
        return f"{self.task_id}: {self.tried}: {self.said}"


@dataclass(slots=True)
class Validation:
    """What was tried and what was found. ``slowest``: seconds of the longest verdict, and what it was about."""

    name: str
    tasks: int = 0
    verdicts: int = 0
    slowest: tuple[float, str] = (0.0, "")
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings


def validate(
    family: TaskFamily,
    *,
    tasks: int | None = 50,
    others: int = 3,
    hostile: bool = True,
    seconds: float = 60.0,
    seed: int = 0,
    name: str | None = None,
    on_task: Callable[[int, int], None] = lambda done, total: None,
) -> Validation:
    """Validate the first ``tasks`` tasks of stream ``seed`` of a family's test split.

    Args:
        tasks: None takes all of a finite family.
        others: how many other tasks' golds are tried on each.
        hostile: try the hostile answers (some cost a verifier its CPU-time bound).
        seconds: wall time a verdict may take. The verifiers bound themselves by CPU time, so give a busy machine more.
        on_task: called with (done, total) after each task.

    Raises:
        ConfigError: fewer than one task, or ``tasks=None`` for an endless family.
        ToolUnavailable, InfraError: a verifier cannot run.
    """
    size = family.size("test")
    count = size if tasks is None else min(tasks, size) if size is not None else tasks
    if count is None or count < 1:
        raise ConfigError(f"tasks must be >= 1 (None: all, of a finite family), got {tasks!r} for {family.name!r}")
    found = Validation(name or family.name)
    drawn = [family.task(seed, "test", index) for index in range(count)]
    env = AgentEnv(family, lambda split: (), split="test")

    def score(task: Task, answer: str, tried: str) -> float:
        start = time.perf_counter()
        try:
            value = family.verify(task, answer).score
        except InfraError:
            raise  # the machinery's fault
        except Exception as error:
            found.findings.append(Finding(task.id, tried, f"the verifier raised {type(error).__name__}: {error}"))
            value = 0.0
        took = time.perf_counter() - start
        found.verdicts += 1
        found.slowest = max(found.slowest, (took, f"{task.id}: {tried}"))
        if took > seconds:
            found.findings.append(Finding(task.id, tried, f"the verdict took {took:.1f} s, more than {seconds:g} s"))
        return value

    for index, task in enumerate(drawn):
        for gold in golds(task):
            if score(task, gold, "gold") != 1.0:
                found.findings.append(Finding(task.id, f"gold {gold[:80]!r}", "does not score 1"))
        if not _survives(env, task, family.answer_format == "raw"):
            found.findings.append(Finding(task.id, "the gold in an episode", "is not a success in good format"))
        for tried, answer in _wrong(task, hostile and index == 0):
            if score(task, answer, tried) > 0.0:
                found.findings.append(Finding(task.id, tried, "scores"))
        for other in islice(_others(drawn, index), others):
            if score(task, other.answer, "another gold") == 1.0 and not _mutual(family, task, other):
                said = f"{other.answer[:80]!r} scores for {task.answer[:80]!r}"
                found.findings.append(Finding(task.id, f"the gold of {other.id}", said))
        found.tasks += 1
        on_task(found.tasks, count)
    env.close()
    return found


def golds(task: Task) -> Sequence[str]:
    """All accepted answers of a task."""
    accepted: Sequence[str] = task.meta.get("golds", (task.answer,))
    return accepted


def _wrong(task: Task, hostile: bool) -> Iterator[tuple[str, str]]:
    yield "nothing", ""
    yield "blanks", " \n\t "
    yield "the question", task.question
    if hostile:
        yield from ANSWERS.items()
        if "function" in task.meta:
            yield from ((what, code.replace("FUNCTION", task.meta["function"])) for what, code in PROGRAMS.items())


def _others(drawn: Sequence[Task], index: int) -> Iterator[Task]:
    """The tasks after this one, in a circle, whose answer is written otherwise."""
    for step in range(1, len(drawn)):
        other = drawn[(index + step) % len(drawn)]
        if other.answer not in golds(drawn[index]):
            yield other


def _mutual(family: TaskFamily, task: Task, other: Task) -> bool:
    return any(family.verify(other, gold).score == 1.0 for gold in golds(task))


def _survives(env: AgentEnv, task: Task, raw: bool) -> bool:
    env.reset(options={"task_id": task.id})
    *_, info = env.step(answer_turn("The answer is known.", task.answer, raw=raw))
    return bool(info["is_success"] and info["format_ok"])
