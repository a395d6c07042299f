"""The trees of each training step: sampled when the step begins, or one step ahead while the update runs."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from arpo_algo import assembly
from arpo_algo.algorithms.contract import Algorithm
from arpo_algo.config import RunConfig
from arpo_algo.distributed import World
from arpo_algo.runfolder import read_trees, write_trees
from arpo_algo.threads import DaemonPool
from arpo_algo.tracking import Live
from arpo_algo.tree import Tree
from arpo_algo.workers.base import Rollouts
from arpo_env.tasks.base import TaskFamily

#: This process's share of a step's first round, and the seconds it took.
Share = tuple[list[Tree], float]


@dataclass
class Batch:
    """A step's trees, those that the algorithm did not keep, and the tasks drawn when they were complete."""

    trees: list[Tree]
    dropped: list[Tree]
    drawn: int
    seconds: float = 0.0

    @property
    def whole(self) -> list[Tree]:
        """The trees that something can be learned from; []: infrastructure spoilt them all."""
        return [t for t in self.trees if t.leaves()]


class Batches:
    """Samples batches. :attr:`ready` is the step to come's, where it has been sampled; a checkpoint holds it."""

    def __init__(
        self, config: RunConfig, family: TaskFamily, rollouts: Rollouts, world: World, algorithm: Algorithm
    ) -> None:
        self.config = config
        self.family = family
        self.rollouts = rollouts
        self.world = world
        self.algorithm = algorithm
        self.ready: Batch | None = None
        self._thread = DaemonPool(1, "arpo-ahead")  # of daemons: an interrupted run need not wait for it

    def of(self, step: int, drawn: int, live: Live) -> Batch:
        """The batch of ``step``, before which ``drawn`` tasks were drawn. All processes must take part."""
        if self.ready is None or not self.ready.whole:  # spoilt ahead, or before a resume: the outage may be over
            self.ready = self.complete(step, drawn, self._share(step, drawn, live), live)
        return self.ready

    def ahead(self, step: int, drawn: int, live: Live) -> Future[Share]:
        """Begin with the batch of a step to come, in a thread; :meth:`complete` ends it."""
        return self._thread.submit(self._share, step, drawn, live)

    def complete(self, step: int, drawn: int, share: Share, live: Live) -> Batch:
        """Everybody's trees of the step; what the algorithm does not keep is replaced. All processes must take part.

        Also where a signal came meanwhile: the run that goes on from here must have drawn what it would have.
        """
        begin = time.perf_counter()
        mine, seconds = share

        def everybodys(trees: list[Tree]) -> list[Tree]:
            return [t for part in self.world.gather(trees) for t in part]

        def more(attempt: int, missing: int, before: int) -> list[Tree]:
            return everybodys(self._share(step, drawn + before, live, attempt, missing)[0])

        trees, dropped, took = assembly.fill_up(everybodys(mine), self.config.rollout.prompts, self.algorithm, more)
        return Batch(trees, dropped, drawn + took, seconds + time.perf_counter() - begin)

    def write(self, checkpoint: Path) -> None:
        """What is ready, into a checkpoint's folder."""
        if self.ready is not None:
            write_trees(checkpoint / "trees.jsonl.gz", self.ready.trees)
            write_trees(checkpoint / "dropped.jsonl.gz", self.ready.dropped)
            (checkpoint / "batch.json").write_text(json.dumps({"drawn": self.ready.drawn}), encoding="utf-8")

    def read(self, checkpoint: Path) -> None:
        """What :meth:`write` wrote, if anything."""
        if (checkpoint / "batch.json").exists():
            drawn = json.loads((checkpoint / "batch.json").read_text(encoding="utf-8"))["drawn"]
            trees = [read_trees(checkpoint / f"{name}.jsonl.gz") for name in ("trees", "dropped")]
            self.ready = Batch(trees[0], trees[1], drawn)

    def close(self) -> None:
        """End the thread once its call returns. Idempotent."""
        self._thread.shutdown(wait=False)

    def _share(self, step: int, drawn: int, live: Live, attempt: int = 0, missing: int | None = None) -> Share:
        """This process's share of a round. Talks to no other process of the run, so it may go on in a thread."""
        begin = time.perf_counter()
        job = assembly.training_job(self.config, self.family, step, drawn, attempt, missing)
        part = self.world.part(len(job.tasks))
        bar = live.bar("  rollouts", len(part) * self.algorithm.M)
        trees = self.rollouts.sample(job.part(part), lambda *_: bar.advance())
        bar.remove()
        return trees, time.perf_counter() - begin
