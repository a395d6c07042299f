"""The loop: every (suite, task, sample) once, several at a time, each finished one saved before the next is begun.

Three kinds of failure, three reactions. An answer that is wrong is a result. An :class:`InfraError` (tool server
down, endpoint overloaded) makes a sample void: it is tried again with pauses, counted, and never scored; when nothing
but voids come, the run stops. Anything else (wrong key, a script's bug, a full disk) stops the run at once. Whatever
stops it, what was finished is in the log, and the same command goes on from there.
"""

from __future__ import annotations

import copy
import itertools
import queue
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from arpo_algo.envs import TextEnv
from arpo_algo.episodes import Episode, Policy, run_episode
from arpo_env.errors import InfraError
from benchmarks.store import BenchFolder, Sample, StorageError


@dataclass(frozen=True, slots=True)
class SuiteTasks:
    """What is run of one suite. ``env`` is never stepped itself: episodes clone it. ``tasks`` are task ids."""

    name: str
    env: TextEnv
    tasks: Sequence[str]


class RunStopped(RuntimeError):
    """The run ended early because infrastructure failed again and again; the message says what it said."""


class _Pool:
    """Environments of one suite: a prototype, and the clones that are free."""

    def __init__(self, prototype: TextEnv) -> None:
        self.prototype = prototype
        self._free: list[TextEnv] = []

    def take(self) -> TextEnv:
        try:
            return self._free.pop()
        except IndexError:
            return copy.deepcopy(self.prototype)

    def give(self, env: TextEnv) -> None:
        self._free.append(env)

    def close(self) -> None:
        for env in [self.prototype, *self._free]:
            env.close()


@dataclass(frozen=True, slots=True)
class _Job:
    pool: _Pool
    suite: str
    task: str
    sample: int


class _Workers:
    """Threads that play. Daemons: a run that is stopped waits for no slow request."""

    def __init__(self, count: int, play: Callable[[_Job], Sample]) -> None:
        self._play = play
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Sample | BaseException] = queue.SimpleQueue()
        self._count = count
        for i in range(count):
            threading.Thread(target=self._work, name=f"bench-{i}", daemon=True).start()

    def submit(self, job: _Job) -> None:
        self._jobs.put(job)

    def next(self) -> Sample:
        """The next finished sample; raises what playing it raised."""
        done = self._done.get()
        if isinstance(done, BaseException):
            raise done
        return done

    def end(self) -> Iterator[Sample]:
        """Take no more jobs; gives what is finished and was not fetched."""
        for _ in range(self._count):
            self._jobs.put(None)
        while not self._done.empty():
            done = self._done.get()
            if isinstance(done, Sample):
                yield done

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._done.put(self._play(job))
            except BaseException as error:
                self._done.put(error)


class Runner:
    """Runs what is missing in a folder.

    Args:
        folder: where samples are saved; what it holds is not run again (void samples are).
        policy: who plays; its ``concurrency`` bounds episodes at once.
        seed: of every sample's own random stream (with suite, task and sample number: never of the order of things).
        retries: further attempts of a sample that infrastructure spoilt. pause: seconds before the first of them,
            doubled each time, with jitter.
        on_sample: told of every sample as it is saved, in the calling thread.
    """

    def __init__(
        self,
        folder: BenchFolder,
        policy: Policy,
        *,
        seed: int = 0,
        retries: int = 2,
        pause: float = 1.0,
        on_sample: Callable[[Sample], None] = lambda sample: None,
    ) -> None:
        self.folder = folder
        self.policy = policy
        self.seed = seed
        self.retries = retries
        self.pause = pause
        self.on_sample = on_sample
        self._stop = threading.Event()

    def run(self, suites: Sequence[SuiteTasks], samples: int) -> None:
        """Run every missing sample, suite by suite.

        Raises:
            RunStopped: nothing but infrastructure failures came.
            StorageError: a sample could not be saved.
            KeyboardInterrupt: episodes under way are dropped.
        """
        pools = {suite.name: _Pool(suite.env) for suite in suites}
        missing = self._missing(suites, pools, samples)
        workers = _Workers(self.policy.concurrency, self._play)
        voids = under_way = 0
        try:
            while True:
                # No more in hand than can run: suites are finished one by one, and a stop drops little.
                for job in itertools.islice(missing, self.policy.concurrency - under_way):
                    workers.submit(job)
                    under_way += 1
                if not under_way:
                    return
                sample = workers.next()
                under_way -= 1
                self._save(sample)
                voids = voids + 1 if sample.status == "void" else 0
                if voids >= max(3, self.policy.concurrency):
                    raise RunStopped(f"the last {voids} samples all failed, the last one with: {sample.errors[-1]}")
        finally:
            self._stop.set()
            with suppress(StorageError):
                for sample in workers.end():
                    if sample.status == "scored":
                        self._save(sample)
            for pool in pools.values():
                pool.close()

    def _save(self, sample: Sample) -> None:
        self.folder.append(sample)
        self.on_sample(sample)

    def _missing(self, suites: Sequence[SuiteTasks], pools: dict[str, _Pool], samples: int) -> Iterator[_Job]:
        have = self.folder.samples
        for suite in suites:
            for task, number in itertools.product(suite.tasks, range(samples)):
                found = have.get((suite.name, task, number))
                if found is None or found.status == "void":
                    yield _Job(pools[suite.name], suite.name, task, number)

    def _play(self, job: _Job) -> Sample:
        errors: list[str] = []
        seed = (self.seed, zlib.crc32(job.suite.encode()), zlib.crc32(job.task.encode()), job.sample)
        jitter = np.random.default_rng(seed)
        while True:
            env = job.pool.take()
            try:
                episode = run_episode(env, self.policy, {"task_id": job.task}, seed)
            except InfraError as error:
                errors.append(str(error))
            else:
                job.pool.give(env)
                return _sample(job, episode, errors)
            pause = self.pause * 2 ** (len(errors) - 1) * jitter.uniform(0.5, 1.5)
            if len(errors) > self.retries or self._stop.wait(pause):
                return Sample(job.suite, job.task, job.sample, "void", errors=errors)


def _sample(job: _Job, episode: Episode, errors: list[str]) -> Sample:
    outcome = episode.outcome
    return Sample(
        job.suite,
        job.task,
        job.sample,
        "scored",
        success=outcome.is_success,
        score=outcome.info["score"],
        reward=outcome.reward,
        answer=outcome.answer,
        gold=episode.gold,
        verifier=episode.verifier,
        verdict=outcome.info["verdict"],
        stop_reason=outcome.stop_reason,
        truncated=outcome.truncated,
        format_ok=outcome.info["format_ok"],
        tool_calls=outcome.tool_calls,
        tool_errors=episode.tool_errors,
        turns=outcome.turns,
        prompt_tokens=episode.prompt_tokens,
        completion_tokens=episode.completion_tokens,
        seconds=round(episode.seconds, 3),
        tool_seconds=round(episode.tool_seconds, 3),
        errors=errors,
        messages=episode.messages,
    )
