"""A toy family and toy tools that need no sandbox, and the ids of the suite as test cases.

``NotebookTool`` keeps variables, a file and a random stream in plain Python, so that the laws of
:class:`~arpo_env.env.AgentEnv` are tested on machines without isolation too, and so that a test can look inside.
"""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any, Self

import gymnasium
import pytest

import arpo_env
from arpo_env.env import AgentEnv
from arpo_env.errors import InfraError, ToolUnavailable
from arpo_env.protocol import answer_turn, result_body, tool_turn
from arpo_env.rewards.base import Verdict
from arpo_env.tasks.base import Expert, Task, TaskFamily, task_rng
from arpo_env.tools.base import Tool, ToolResult, ToolSession


class ToyFamily(TaskFamily):
    """``a + b``; the answer ``unjudgeable`` breaks the verifier's machinery."""

    name = "toy"
    tools = ("python", "search")

    def task(self, seed: int, split: str, index: int) -> Task:
        a, b = (int(n) for n in task_rng(self.name, seed, split, index).integers(10**6, size=2))
        return Task(f"{self.name}/{split}/{seed}/{index}", f"{a} + {b}?", str(a + b), {"terms": [a, b]})

    def verify(self, task: Task, answer: str) -> Verdict:
        if answer == "unjudgeable":
            raise InfraError("the judge is down")
        return Verdict(float(answer.strip() == task.answer))

    def expert(self, task: Task) -> Expert:
        a, b = task.meta["terms"]
        yield tool_turn("Look first.", "search", str(a))
        seen = yield tool_turn("Then add.", "python", f"add {a} {b}")
        yield answer_turn("That is it.", result_body(seen))


class NotebookSession(ToolSession):
    def __init__(self, tool: NotebookTool, seed: int) -> None:
        self.tool = tool
        self.seed = seed
        self.cells: list[str] = []
        self.values: dict[str, str] = {}
        self.random = random.Random(seed)
        self.closed = False
        tool.live.append(self)

    def call(self, argument: str) -> ToolResult:
        assert not self.closed, "a closed session was called"
        self.tool.calls.append(argument)
        self.cells.append(argument)
        match argument.split():
            case ["set", key, value]:
                self.values[key] = value
                return ToolResult(f"{key} is {value}")
            case ["get", key]:
                return ToolResult(self.values.get(key, "unset"), ok=key in self.values)
            case ["draw"]:
                return ToolResult(str(self.random.random()))
            case ["add", a, b]:
                return ToolResult(str(int(a) + int(b)))
            case ["hush"]:
                return ToolResult("", useful=False)
            case ["die"]:
                raise InfraError("the notebook server died")
            case ["bug"]:
                raise KeyError("a mistake in the tool itself")
            case _:
                return ToolResult(f"Error: cannot read {argument!r}", ok=False)

    def fork(self) -> Self:
        if self.tool.fork_fails:
            raise InfraError("no more processes")
        twin = type(self)(self.tool, self.seed)
        twin.cells, twin.values = list(self.cells), dict(self.values)
        twin.random.setstate(self.random.getstate())
        return twin

    def get_state(self) -> Any:
        return list(self.cells)

    def close(self) -> None:
        self.closed = True


class NotebookTool(Tool):
    description = "set KEY VALUE, get KEY, draw, add A B"

    def __init__(self, name: str = "python", broken: str = "") -> None:
        self.name = name
        self.broken = broken
        self.open_fails = self.fork_fails = False
        self.checks = 0
        self.calls: list[str] = []
        self.live: list[NotebookSession] = []

    def check(self) -> None:
        self.checks += 1
        if self.broken:
            raise ToolUnavailable(self.broken)

    def open(self, seed: int, state: Any = None) -> NotebookSession:
        if self.open_fails:
            raise InfraError(f"{self.name} cannot open")
        session = NotebookSession(self, seed)
        for cell in state or ():
            session.call(cell)
        return session

    def still_open(self) -> int:
        return sum(not session.closed for session in self.live)


def toy(**options: Any) -> tuple[AgentEnv, NotebookTool, NotebookTool]:
    """An environment over the toy family, its ``python`` and its ``search``."""
    python, search = NotebookTool("python"), NotebookTool("search")
    return AgentEnv(ToyFamily(), lambda split: [search, python], **options), python, search


# ------------------------------------------------------------------------------------------ the ids of the suite


@functools.cache
def no_python() -> str:
    """Empty when the Python tool works on this machine, else why not."""
    from arpo_env.tools.python import PythonTool

    try:
        PythonTool("auto").check()
    except ToolUnavailable as error:
        return str(error)
    return ""


def needs_python() -> None:
    if no_python():
        pytest.skip(f"no isolation on this machine: {no_python()}")


#: Every id, and deep search without Python, which runs everywhere.
CASES = (*arpo_env.IDS, "ARPO-DeepSearch-v0 (search only)", "ARPO-DeepSearch-v0 (browse, only reading)")


def options_of(case: str, folder: Path) -> dict[str, Any]:
    """Small options for a case; skips it, by name, when this machine lacks what it needs."""
    if "only" not in case:
        needs_python()
    if case.startswith("ARPO-DeepSearch"):
        tools = ("search", "browse") if "browse" in case else ("search",)
        return {"pages": 120, "tools": tools, "arithmetic": 0.0} if "only" in case else {"pages": 120}
    if case == "ARPO-ReasoningGym-v0":
        pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: pip install 'arpo[tasks]'")
    if case == "ARPO-Dataset-v0":
        file = folder / "questions.jsonl"
        rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(3, 40)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"path": str(file), "name": "sums", "verifier": "math"}
    return {}


def make(case: str, folder: Path, **options: Any) -> gymnasium.Env[str, str]:
    """The case's environment inside Gymnasium's own wrappers."""
    return gymnasium.make(case.split()[0], **{"max_episode_steps": 100, **options_of(case, folder), **options})


def agent(env: gymnasium.Env[str, str]) -> AgentEnv:
    inner = env.unwrapped
    assert isinstance(inner, AgentEnv)
    return inner


def play(env: gymnasium.Env[str, str], actions: list[str]) -> list[Any]:
    """What each action gave; after the end, that there is no going on."""
    seen: list[Any] = []
    for action in actions:
        try:
            seen.append(env.step(action))
        except gymnasium.error.ResetNeeded:
            seen.append("ResetNeeded")
    return seen
