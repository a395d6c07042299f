"""Ray actors sample the trees that the trainer itself would; a killed one costs its unfinished trees only."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run import config, outcome, quiet, run

from arpo_algo import assembly
from arpo_algo.algorithms import make
from arpo_algo.config import RunConfig
from arpo_algo.rendering import Renderer
from arpo_algo.trainer import Trainer
from arpo_algo.tree import Tree
from arpo_algo.workers.base import Job, LocalRollouts

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'arpo[ray]')")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets and files to the end of the process
]


PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "algo")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    paths = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])
    ray.init(
        num_cpus=2, log_to_driver=False, include_dashboard=False, configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    yield
    ray.shutdown()


def tiny(folder: Path, **changes: Any) -> RunConfig:
    """The module in the id is how an actor comes to know the environment."""
    return config(folder, **{"env.id": "tiny_run:TinyRun-v0", **changes})


def said(trees: list[Tree]) -> list[Any]:
    return [[(n.parent, n.kind, n.tokens, n.fork_of, n.outcome) for n in tree.nodes] for tree in trees]


JOB = Job(tuple(f"toy/train/0/{i}" for i in range(6)), (0, 1, 5))


@pytest.fixture(scope="module")
def alone(tiny_model: Path) -> list[Tree]:
    """The same job in this process."""
    settings = tiny(tiny_model)
    model, tokenizer = assembly.load_policy(str(tiny_model), "cpu")
    algorithm = make(settings.algorithm.name, **settings.algorithm.options)
    rollouts = LocalRollouts(
        assembly.build_engine(settings, model, tokenizer, str(tiny_model)),
        Renderer(tokenizer),
        lambda: assembly.make_env(settings),
        assembly.rollout_configs(settings, algorithm),
    )
    try:
        return rollouts.sample(JOB)
    finally:
        rollouts.close()


@pytest.mark.usefixtures("cluster")
def test_same_seeds_same_trees(tiny_model: Path, alone: list[Tree]) -> None:
    from arpo_algo.workers.ray import RayRollouts

    rollouts = RayRollouts(tiny(tiny_model, **{"rollout.actors": 2}), str(tiny_model))
    try:
        leaves: list[Any] = []
        trees = rollouts.sample(JOB, lambda tree, leaf: leaves.append(leaf))
        assert said(trees) == said(alone)
        assert len(leaves) == sum(len(t.leaves()) for t in alone)
        for a, b in zip(trees, alone, strict=True):
            for x, y in zip(a.nodes, b.nodes, strict=True):
                assert x.logprobs == pytest.approx(y.logprobs, abs=1e-5)
    finally:
        rollouts.close()


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_costs_its_unfinished_trees(tiny_model: Path, alone: list[Tree]) -> None:
    from arpo_algo.workers.ray import RayRollouts

    rollouts = RayRollouts(tiny(tiny_model, **{"rollout.actors": 2}), str(tiny_model))
    try:
        victim = ray.get(rollouts.workers[0].pid.remote())
        killed = []

        def kill(tree: Tree, leaf: Any) -> None:
            if not killed:  # at the first finished tree, whoever made it, while others are under way
                killed.append(victim)
                os.kill(victim, signal.SIGKILL)

        assert said(rollouts.sample(JOB, kill)) == said(alone)
        assert killed
        assert said(rollouts.sample(JOB)) == said(alone), "its successor works"
        assert rollouts.deaths == 1
    finally:
        rollouts.close()


@pytest.mark.usefixtures("cluster")
def test_a_run_by_actors(tiny_model: Path, tmp_path: Path) -> None:
    """The whole loop: weights reach the actors, so that every step's trees are those of the run in one process."""
    run(tmp_path / "one", tiny(tiny_model))
    trainer = Trainer(tiny(tiny_model, **{"rollout.actors": 2}), tmp_path / "ray", console=quiet())
    try:
        trainer.run()
    finally:
        trainer.close()
    one, two = outcome(tmp_path / "one"), outcome(tmp_path / "ray")
    for a, b in zip(one["metrics"], two["metrics"], strict=True):
        assert a["reward"] == b["reward"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3, abs=1e-5)
        assert b["rollout_kl"] < 1e-5, "the actors have the learner's weights"
