"""Toy suites, policies and samples for the runner's tests: no sandbox, no model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toy_env import ToyFamily, toy

from arpo_algo.episodes import Player, Turn
from arpo_env.env import AgentEnv
from arpo_env.protocol import answer_turn
from benchmarks.runner import SuiteTasks
from benchmarks.store import BenchFolder, Sample


def tasks(n: int) -> list[str]:
    return [f"toy/test/0/{i}" for i in range(n)]


def toy_suite(n: int = 5, name: str = "Toy", **options: Any) -> SuiteTasks:
    return SuiteTasks(name, toy(**options)[0], tasks(n))


#: (the environment, the seed) -> the answer given at once.
Answer = Callable[[AgentEnv, Sequence[int]], str]


class Answers:
    """Answers each task at once, and remembers which, in which thread, and how many at a time."""

    def __init__(self, answer: Answer, concurrency: int = 1) -> None:
        self.answer = answer
        self.concurrency = concurrency
        self.played: list[tuple[str, int]] = []
        self.seeds: list[tuple[int, ...]] = []
        self.most = self.now = 0
        self.lock = threading.Lock()

    def check(self) -> None: ...

    def play(self, env: AgentEnv, messages: Sequence[Mapping[str, str]], seed: Sequence[int]) -> Player:
        with self.lock:
            self.played.append((env.task.id, seed[-1]))
            self.seeds.append(tuple(seed))
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            yield Turn(answer_turn("so", self.answer(env, seed)), 10, 5)
        finally:
            with self.lock:
                self.now -= 1

    def close(self) -> None: ...


def right(env: AgentEnv, seed: Sequence[int]) -> str:
    return env.task.answer


def row(task: int = 0, sample: int = 0, *, right: bool = True, suite: str = "Toy", **values: Any) -> Sample:
    """A scored sample."""
    defaults: dict[str, Any] = {
        "answer": "1", "gold": "1", "verifier": "math", "prompt_tokens": 100, "completion_tokens": 20,
        "tool_calls": 1, "format_ok": True, "stop_reason": "answered", "seconds": 0.5,
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": f"Question {task}?"},
                     {"role": "assistant", "content": "<answer>1</answer>"}],
    }  # fmt: skip
    return Sample(
        suite, f"toy/test/0/{task}", sample, "scored", success=right, score=float(right), **(defaults | values)
    )


def void(task: int = 0, sample: int = 0, suite: str = "Toy") -> Sample:
    return Sample(suite, f"toy/test/0/{task}", sample, "void", errors=["the server died"])


def make_run(
    folder: Path,
    samples: Sequence[Sample],
    *,
    name: str = "policy",
    k: int = 1,
    planned: int | None = None,
    **suite: Any,
) -> Path:
    """A run folder with these samples."""
    with BenchFolder(folder) as opened:
        suites = dict.fromkeys(s.suite for s in samples)
        opened.write_config(
            {
                "name": name,
                "policy": {"kind": name},
                "seed": 0,
                "started": "2026-01-01T00:00:00+00:00",
                "suites": {
                    one: {
                        "title": one,
                        "domain": "generated",
                        "size": None,
                        "options": {},
                        "first_task": "f",
                        "task_seed": 0,
                        "tasks": planned or len({s.task for s in samples if s.suite == one}),
                        "samples": k,
                        **suite,
                    }
                    for one in suites
                },
            }
        )
        for sample in samples:
            opened.append(sample)
    return folder


__all__ = ["Answers", "ToyFamily", "make_run", "right", "row", "tasks", "toy_suite", "void"]
