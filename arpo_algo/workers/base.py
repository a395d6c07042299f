"""The contract of rollout workers, and the plain one: a sampler in this process.

A :class:`Job` says everything that the trees depend on besides the weights. Whoever does a part of it, with the
indices that part has in the whole, draws the same random numbers: so work can be dealt out, lost and done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from arpo_algo.engines.base import Engine
from arpo_algo.envs import TextEnv
from arpo_algo.rendering import Renderer
from arpo_algo.rolloutconfig import RolloutConfig
from arpo_algo.sampler import TreeSampler
from arpo_algo.tree import Node, Tree

Kind = Literal["train", "eval"]
OnLeaf = Callable[[Tree, Node], None]


@dataclass(frozen=True)
class Job:
    """Prompts to sample: task ids, the index that each has in its batch, the seed, and how (by name)."""

    tasks: tuple[str, ...]
    seed: tuple[int, ...]
    kind: Kind = "train"
    indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.indices:
            object.__setattr__(self, "indices", tuple(range(len(self.tasks))))

    def part(self, which: range | list[int]) -> Job:
        """The sub-batch at these places; it draws as it would in the whole."""
        return replace(self, tasks=tuple(self.tasks[i] for i in which), indices=tuple(self.indices[i] for i in which))


class Rollouts(Protocol):
    """Samples jobs; one finished tree a task, in order."""

    def sample(self, job: Job, on_leaf: OnLeaf | None = None) -> list[Tree]: ...

    def sync(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Sample with these weights from now on, from a clean slate (no cached key of an earlier call)."""
        ...

    def close(self) -> None:
        """Close environments, threads and processes. Idempotent."""
        ...


class LocalRollouts:
    """One engine and its environments in this process.

    Args:
        configs: how to sample, by kind of job.
        retries: how often trees that infrastructure spoilt are sampled again from their seeds, waiting 1, 2, 4 …
            seconds: a tool server that was restarted costs nothing then.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        make_env: Callable[[], TextEnv],
        configs: Mapping[Kind, RolloutConfig],
        *,
        workers: int = 8,
        retries: int = 0,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.engine = engine
        self._samplers = {
            kind: TreeSampler(engine, renderer, make_env, config, workers=workers) for kind, config in configs.items()
        }
        self._retries = retries
        self._wait = wait

    def sample(self, job: Job, on_leaf: OnLeaf | None = None) -> list[Tree]:
        if not job.tasks:
            return []
        sampler = self._samplers[job.kind]

        def take(part: Job) -> list[Tree]:
            return sampler.sample(
                [{"task_id": t} for t in part.tasks], seed=part.seed, indices=part.indices, on_leaf=on_leaf
            )

        trees = take(job)
        for attempt in range(self._retries):
            spoilt = [i for i, tree in enumerate(trees) if is_spoilt(tree)]
            if not spoilt:
                break
            self._wait(2.0**attempt)
            for i, tree in zip(spoilt, take(job.part(spoilt)), strict=True):
                tree.meta["retries"] = attempt + 1
                trees[i] = tree
        return trees

    def sync(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.engine.load_weights(weights)

    def close(self) -> None:
        for sampler in self._samplers.values():
            sampler.close()
        self.engine.close()


def is_spoilt(tree: Tree) -> bool:
    """Whether infrastructure (not a task's own code, which would fail again) ended one of its trajectories."""
    return any(
        leaf.outcome is not None and leaf.outcome.stop_reason.startswith("infra:") for leaf in tree.void_leaves()
    )
