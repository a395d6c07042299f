"""What a task is and where tasks come from.

A :class:`TaskFamily` is a pure function ``(seed, split, index) -> Task`` plus a verifier and an expert.
Endless generated families and finite files have the same face, so environments, trainers and the
benchmark runner never ask which they hold.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from arpo_env.errors import ConfigError, unknown
from arpo_env.rewards.base import Verdict

#: Each split draws from its own stream. The numbers are part of a task's identity: never renumber.
SPLITS: Mapping[str, int] = {"train": 0, "validation": 1, "test": 2}

#: An expert is a generator: it yields assistant turns and is sent the observation each one caused.
Expert = Generator[str, str, None]


@dataclass(frozen=True, slots=True)
class Task:
    """One question with a checkable answer. Everything in it is JSON-able.

    ``id`` names it for good: ``family/split/seed/index``. ``meta`` holds what the verifier, the expert
    or a report needs (hops, tests, tolerance …) and is never shown to the policy.
    """

    id: str
    question: str
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict)


def task_rng(family: str, seed: int, split: str, index: int) -> np.random.Generator:
    """The random stream of one task; streams of different (family, seed, split, index) never overlap.

    ``SeedSequence`` with a spawn key, because neighbouring integer seeds (``Random(seed + index)``)
    share all but one of their items.

    Raises:
        ConfigError: an unknown split, or a negative seed or index.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if seed < 0 or index < 0:
        raise ConfigError(f"seed and index must be >= 0, got seed={seed}, index={index}")
    key = (zlib.crc32(family.encode()), SPLITS[split], index)
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=key))


class TaskFamily(ABC):
    """Where tasks of one kind come from. Adding a family is adding one file with a subclass, and registering an id."""

    #: Short name, the first part of every task id.
    name: str
    #: Tags of the tools its environments offer.
    tools: tuple[str, ...]
    #: What ``verify`` is given: the text in ``\\boxed{…}``, or (``raw``, for code) all of ``<answer>``.
    answer_format: Literal["boxed", "raw"] = "boxed"

    @abstractmethod
    def task(self, seed: int, split: str, index: int) -> Task:
        """The task at (seed, split, index): a pure function, cheap, no global state.

        Raises:
            ConfigError: unknown split, negative numbers, or an index past the end of a finite set.
        """

    def size(self, split: str) -> int | None:
        """How many tasks a split has; None when it is endless."""
        return None

    def task_ids(self, split: str, seed: int, begin: int, end: int) -> list[str]:
        """Ids of the tasks ``begin`` … ``end`` − 1 of the stream ``seed``.

        A finite split is gone through again and again, each time in another order: pass n is the stream ``seed`` + n.
        """
        size = self.size(split)
        places = ((seed, i) if size is None else (seed + i // size, i % size) for i in range(begin, end))
        return [f"{self.name}/{split}/{stream}/{i}" for stream, i in places]

    @abstractmethod
    def verify(self, task: Task, answer: str) -> Verdict:
        """Judge the text inside ``\\boxed{…}`` of the final answer. Pure: no clock, no global state."""

    @abstractmethod
    def expert(self, task: Task) -> Expert:
        """Solve the task through the tools, ending in an answer turn (which scores 1).

        The last turn is an answer; turns use the tag protocol (see ``arpo_env.protocol``) with a short
        ``<think>`` each, and must read what they use from the observations sent back, never from
        ``task.answer``: an expert that peeks teaches a model to hallucinate.
        """

    def flawed_expert(self, task: Task, rng: np.random.Generator) -> Expert:
        """A demonstrator that makes one plausible mistake (format stays right, the answer is usually wrong).

        Mixed into the cold start by a stated share so that reinforcement learning has something left to do.
        """
        return self.expert(task)


def parse_task_id(task_id: str) -> tuple[str, str, int, int]:
    """``"family/split/seed/index"`` -> its parts.

    Raises:
        ConfigError: it does not have that form.
    """
    parts = task_id.rsplit("/", 3)
    if len(parts) != 4 or not (parts[2].isdecimal() and parts[3].isdecimal()):
        raise ConfigError(f"task_id {task_id!r} must look like 'family/split/seed/index', e.g. 'math/train/0/17'")
    return parts[0], parts[1], int(parts[2]), int(parts[3])
