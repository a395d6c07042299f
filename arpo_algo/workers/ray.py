"""Rollout workers as Ray actors: each holds an engine and its environments, on this machine or another.

The trainer deals prompts out one by one, to whoever is free, so that long trees hold nobody up. A prompt is named by
its task, its index in the batch and the batch's seed, so an actor that dies costs its unfinished trees only: they are
sampled again, by others, with the same random streams. Weights travel once a step through Ray's object store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from arpo_algo import assembly
from arpo_algo.algorithms import make
from arpo_algo.config import RunConfig
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.lora import without_adapters
from arpo_algo.rendering import Renderer
from arpo_algo.tree import Tree
from arpo_algo.workers.base import Job, LocalRollouts, OnLeaf

#: Seconds that workers have to be placed and to load their model.
PATIENCE = 600.0
_DEATHS = 3  # of one prompt's workers in a row, after which the prompt is to blame


class Worker:
    """What an actor runs: the trainer's own rollouts, without its learner."""

    def __init__(self, config: RunConfig, source: str) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        algorithm = make(config.algorithm.name, **config.algorithm.options)
        model, tokenizer = assembly.load_policy(source, device)
        model = without_adapters(model)  # whoever trains sends merged weights
        self._local = LocalRollouts(
            assembly.build_engine(config, model, tokenizer, source),
            Renderer(tokenizer),
            lambda: assembly.make_env(config),
            assembly.rollout_configs(config, algorithm, deterministic=assembly.look_at_env(config).deterministic),
            workers=config.rollout.workers,
            retries=config.guards.retries,
        )

    def pid(self) -> int:
        return os.getpid()

    def sample(self, job: Job) -> list[dict[str, Any]]:
        # Whoever does a part, and whatever it did before, must come to the same bits: a resumed run has other workers.
        forget = getattr(self._local.engine, "forget", None)
        if forget is not None:  # only the torch engine keeps such a promise
            forget()
        return [tree.to_json() for tree in self._local.sample(job)]

    def sync(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._local.sync(weights)


class RayRollouts:
    """``config.rollout.actors`` workers on the Ray cluster of ``RAY_ADDRESS`` (or a new one on this machine).

    An environment of your own must be known in the actors: write ``env.id=package.module:Name-v0``.

    Args:
        batch: prompts a task; 1 deals most evenly, more makes larger batches for the engine. Trees differ between
            values by the rounding of matrix products only.
        patience: seconds that workers have to come up, now or in the place of one that died.

    Raises:
        ConfigError: Ray is not installed, or cannot place so many workers.
    """

    def __init__(self, config: RunConfig, source: str, *, batch: int | None = None, patience: float = PATIENCE) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError("rollout.actors needs Ray: pip install 'arpo[ray]'") from None
        self._ray: Any = ray
        self._started = not ray.is_initialized()
        if self._started:
            ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
        options = {"num_cpus": 1, **config.rollout.actor_options}
        self._make: Callable[[], Any] = lambda: ray.remote(Worker).options(**options).remote(config, source)
        self._batch = batch or max(1, -(-config.rollout.prompts // (2 * config.rollout.actors)))
        self._weights: Any = None  # reference to the newest in the object store; None: those of ``source``
        self.workers: list[Any] = [self._make() for _ in range(config.rollout.actors)]
        #: Workers that died and were replaced.
        self.deaths = 0
        self._patience = patience
        # Ray lets a worker that fits nowhere wait for ever, and whoever asks it for something too.
        _, late = ray.wait([w.pid.remote() for w in self.workers], num_returns=len(self.workers), timeout=patience)
        if late:
            has = {k: v for k, v in self._ray.cluster_resources().items() if not k.startswith("node:")}
            self.close()
            raise ConfigError(
                f"rollout.actors={config.rollout.actors}: {len(late)} were not up after {patience:g} s. Each asks for "
                f"{options}, and the cluster has {has}; lower rollout.actors, or what each asks for "
                "(rollout.actor_options)"
            )

    def sync(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put the weights into the object store once; every worker takes them from there."""
        self._weights = self._ray.put({k: v.detach().cpu() for k, v in weights.items()})
        waiting = {worker.sync.remote(self._weights): i for i, worker in enumerate(self.workers)}
        for reference, i in waiting.items():
            try:
                self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                self._replace(i, error)

    def sample(self, job: Job, on_leaf: OnLeaf | None = None) -> list[Tree]:
        """One tree a task, in order.

        Raises:
            TrainingError: a prompt that killed one worker after another.
        """
        n = len(job.tasks)
        size = self._batch if job.kind == "train" else max(self._batch, -(-n // (4 * len(self.workers))))
        todo = [list(range(i, min(i + size, n))) for i in range(0, n, size)][::-1]
        deaths = dict.fromkeys(range(n), 0)
        trees: list[Tree | None] = [None] * n
        running: dict[Any, tuple[int, list[int]]] = {}
        free = list(range(len(self.workers)))[::-1]
        while todo or running:
            while todo and free:
                worker, part = free.pop(), todo.pop()
                running[self.workers[worker].sample.remote(job.part(part))] = (worker, part)
            done, _ = self._ray.wait(list(running), num_returns=1)
            worker, part = running.pop(done[0])
            try:
                for i, data in zip(part, self._ray.get(done[0]), strict=True):
                    tree = trees[i] = Tree.from_json(data)
                    if on_leaf is not None:
                        for leaf in [*tree.leaves(), *tree.void_leaves()]:
                            on_leaf(tree, leaf)
            except self._ray.exceptions.RayError as error:
                self._replace(worker, error)
                for i in part:
                    deaths[i] += 1
                if max(deaths[i] for i in part) >= _DEATHS:
                    raise TrainingError(
                        f"{_DEATHS} rollout workers in a row died over task {job.tasks[part[0]]}: {error}"
                    ) from error
                todo.append(part)
            free.append(worker)
        return [tree for tree in trees if tree is not None]

    def close(self) -> None:
        for worker in self.workers:
            self._ray.kill(worker)
        self.workers = []
        if self._started:
            self._started = False
            self._ray.shutdown()

    def _replace(self, i: int, error: Exception) -> None:
        """A new worker, with the newest weights, in the place of one that Ray lost to ``error``.

        Raises:
            TrainingError: worker after worker dies.
            Exception: the worker's own code raised ``error``, and would again.
        """
        for _ in range(_DEATHS):
            if isinstance(error, self._ray.exceptions.RayTaskError):
                raise error
            self.deaths += 1
            self._ray.kill(self.workers[i])  # it may live on, cut off from here
            self.workers[i] = self._make()
            if self._weights is None:
                return
            try:
                self._ray.get(self.workers[i].sync.remote(self._weights), timeout=self._patience)
                return
            except self._ray.exceptions.RayError as another:
                error = another
        raise TrainingError(f"{_DEATHS} rollout workers in a row died before they had their weights: {error}")
