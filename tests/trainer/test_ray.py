"""Ray actors sample the trees that the trainer itself would; a killed one costs its unfinished trees only."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import config, count_calls, differences, forkserver, outcome, quiet, run

from arpo_algo import assembly
from arpo_algo.algorithms import make
from arpo_algo.config import RunConfig
from arpo_algo.errors import ConfigError
from arpo_algo.rendering import Renderer
from arpo_algo.trainer import Trainer
from arpo_algo.tree import Tree
from arpo_algo.workers.base import Job, LocalRollouts

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'arpo[ray]')")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # a cluster takes minutes to start where others have the cores
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets and files to the end of the process
]


#: Else Ray kills workers of this test when other programs fill the machine's memory.
#: Nor tokens: Ray settles its mode when it is imported, and drivers come from a fork server older than the cluster.
NO_MONITOR = {"RAY_memory_monitor_refresh_ms": "0", "RAY_AUTH_MODE": "disabled"}
PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "algo")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Its address."""
    paths = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in NO_MONITOR.items():
            patch.setenv(name, value)
        ray.init(
            num_cpus=2, log_to_driver=False, include_dashboard=False, configure_logging=False,
            runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
        )  # fmt: skip
    yield ray.get_runtime_context().gcs_address
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
        assembly.rollout_configs(settings, algorithm, deterministic=True),
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
def test_more_workers_than_ray_can_place_are_refused(tiny_model: Path) -> None:
    """Three on two CPUs: the third would be waited for in silence, for ever."""
    from arpo_algo.workers.ray import RayRollouts

    with pytest.raises(ConfigError, match=r"rollout\.actors=3.*'num_cpus': 1.*'CPU': 2\.0"):
        RayRollouts(tiny(tiny_model, **{"rollout.actors": 3}), str(tiny_model), patience=5.0)
    rollouts = RayRollouts(tiny(tiny_model, **{"rollout.actors": 2}), str(tiny_model))
    rollouts.close()  # those that were refused hold nothing


class Starved:
    """Ray, on a machine whose memory is full when the first result is asked for."""

    def __init__(self) -> None:
        self._full = True

    def __getattr__(self, name: str) -> Any:
        return getattr(ray, name)

    def get(self, reference: Any, timeout: float | None = None) -> Any:
        if self._full:
            self._full = False
            raise ray.exceptions.OutOfMemoryError("the node is running low on memory")
        return ray.get(reference, timeout=timeout)


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
        deaths = rollouts.deaths
        assert deaths >= 1
        rollouts._ray = Starved()
        assert said(rollouts.sample(JOB)) == said(alone), "Ray itself killed one, for memory"
        assert rollouts.deaths > deaths
    finally:
        rollouts.close()


# ------------------------------------------------------------------ whole runs, by a process of their own


def _drive(out: str, model: str, actors: int, kill_at: int | None, report: str, environ: dict[str, str]) -> None:
    """A run with actors in a child process; calls are counted from the moment on that the actors are asked for."""
    os.environ.update(environ)
    torch.set_num_threads(1)
    of_actors = {f"rollout.actor_options.runtime_env.env_vars.{k}": v for k, v in environ.items() if k != "RAY_ADDRESS"}
    settings = tiny(Path(model), **{"rollout.actors": actors, **of_actors})
    trainer = Trainer(settings, Path(out), resume=True, console=quiet())
    calls = count_calls(kill_at)
    try:
        trainer.run()
    finally:
        sys.setprofile(None)
        trainer.close()
    Path(report).write_text(str(calls[0]))


def drive(out: Path, model: Path, actors: int, kill_at: int | None = None, address: str = "") -> int | None:
    """The calls of a run, None when it was killed. ``address``: of the cluster to use; else it makes its own."""
    environ = {
        "PYTHONPATH": os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1",
        MARK: out.name, "RAY_ADDRESS": address, **NO_MONITOR,
    }  # fmt: skip
    report = out.with_name(f"{out.name}.calls")
    child = forkserver().Process(target=_drive, args=(str(out), str(model), actors, kill_at, str(report), environ))
    child.start()
    child.join()
    if child.exitcode == 0:
        return int(report.read_text())
    assert child.exitcode == -signal.SIGKILL, f"the run died by itself: exit code {child.exitcode}"
    return None


MARK = "ARPO_TEST_RUN"


def processes_of(name: str) -> list[int]:
    """Processes that ``drive(…/name)`` and whatever it started have left: their environment says so."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environ = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it has just ended
            if f"{MARK}={name}".encode() in environ:
                found.append(int(folder.name))
    return found


def wait_until_gone(name: str) -> None:
    deadline = time.monotonic() + 100
    while left := processes_of(name):
        commands = [Path(f"/proc/{pid}/cmdline") for pid in left]
        assert time.monotonic() < deadline, [c.read_bytes() for c in commands if c.exists()]
        time.sleep(0.1)


@pytest.fixture(scope="module")
def by_actors(cluster: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    """Of an undisturbed run by two actors: the calls of its driver, and what it came to."""
    out = tmp_path_factory.mktemp("actors") / "undisturbed"
    calls = drive(out, tiny_model, 2, address=cluster)
    assert calls is not None
    return calls, outcome(out)


def test_a_run_by_actors(by_actors: tuple[int, dict[str, Any]], tiny_model: Path, tmp_path: Path) -> None:
    """The whole loop: weights reach the actors, so that every step's trees are those of the run in one process."""
    run(tmp_path / "one", tiny(tiny_model))
    for a, b in zip(outcome(tmp_path / "one")["metrics"], by_actors[1]["metrics"], strict=True):
        assert a["reward"] == b["reward"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3, abs=1e-5)
        assert b["rollout_kl"] < 1e-5, "the actors have the learner's weights"


def test_a_killed_trainer_leaves_nothing_and_resumes(
    by_actors: tuple[int, dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    """The driver of its own cluster is killed: no Ray process stays. Resumed with fewer actors: the same to the bit."""
    calls, expected = by_actors
    out = tmp_path / "killed"
    assert drive(out, tiny_model, 1, kill_at=calls // 2) is None
    wait_until_gone(out.name)
    assert drive(out, tiny_model, 1) is not None
    wait_until_gone(out.name)
    assert not differences(outcome(out), expected)


def test_a_killed_trainer_leaves_no_actor_in_a_cluster_that_stays(
    by_actors: tuple[int, dict[str, Any]], cluster: str, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed-among-others"
    assert drive(out, tiny_model, 1, kill_at=int(0.9 * by_actors[0]), address=cluster) is None
    wait_until_gone(out.name)
    assert {actor["State"] for actor in ray._private.state.actors().values()} <= {"DEAD"}
