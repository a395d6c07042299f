"""Two processes learn what one does: the same trees, the same gradient to 1e-5 (gloo, on CPU)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny_run import config, forkserver, outcome, run
from transformers import AutoModelForCausalLM

from arpo_algo.algorithms import make
from arpo_algo.checkpoint import CheckpointStore
from arpo_algo.distributed import World, shares
from arpo_algo.learner import Learner
from arpo_algo.optimizer import LearnerConfig
from arpo_algo.runfolder import read_rows, read_trees
from arpo_algo.sharding import whole

ALGORITHMS: dict[str, dict[str, Any]] = {
    "arpo": {"M": 4, "N": 2, "k": 4, "kl_coef": 0.1},
    "ppo": {"M": 4},
    "reinforce_pp": {"M": 4},  # whitens over the whole batch
}


def test_shares_are_even_and_repeatable() -> None:
    sizes = [5, 90, 10, 40, 41, 9]
    parts = shares(sizes, 2)
    assert sorted(i for part in parts for i in part) == list(range(6))
    assert abs(sum(sizes[i] for i in parts[0]) - sum(sizes[i] for i in parts[1])) <= 10
    assert shares(sizes, 2) == parts
    assert shares([3], 4) == [[0], [], [], []], "more processes than trees"


def test_parts_cover_everything() -> None:
    for size in (1, 2, 3, 5):
        parts = [World(rank, size).part(7) for rank in range(size)]
        assert [i for part in parts for i in part] == list(range(7))


def gradient(
    model: Path, file: Path, name: str, world: World, mini_batch: int | None, shard: bool = False
) -> dict[str, Any]:
    """Gradients of an update (of its last optimiser step), and its metrics."""
    torch.set_num_threads(1)
    algorithm = make(name, **ALGORITHMS[name])
    policy = AutoModelForCausalLM.from_pretrained(model)
    learner = Learner(
        policy,
        LearnerConfig(
            lr=1e-3, precision="float32", mini_batch=mini_batch, max_grad_norm=0.1, pack_tokens=2000, shard=shard
        ),
        algorithm=algorithm,
        world=world,
    )
    learner.set_reference(AutoModelForCausalLM.from_pretrained(model))
    grads: list[torch.Tensor] = []
    step = learner.optimizer.step

    def capture(*args: Any, **options: Any) -> Any:
        grads[:] = [torch.zeros(1) if p.grad is None else whole(p.grad).clone() for p in learner.parameters]
        return step(*args, **options)

    learner.optimizer.step = capture  # type: ignore[method-assign]
    metrics = learner.update(read_trees(file), algorithm)
    return {"grads": grads, "metrics": metrics, "weights": [whole(p.detach()).clone() for p in learner.parameters]}


def _learn(rank: int, size: int, meet: str, out: str, *args: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=size)
    torch.save(gradient(*args[:3], World(rank, size), *args[3:]), f"{out}.{rank}")
    dist.destroy_process_group()


def _train(rank: int, size: int, meet: str, out: str, model: Path, changes: dict[str, Any]) -> None:
    import os

    os.environ["WORLD_SIZE"] = str(size)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=size)
    run(Path(out), config(model, **changes))
    dist.destroy_process_group()


def together(target: Any, size: int, meet: Path, out: Path, *args: Any) -> None:
    context = forkserver()
    children = [context.Process(target=target, args=(r, size, str(meet), str(out), *args)) for r in range(size)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [c.exitcode for c in children] == [0] * size


@pytest.fixture(scope="module")
def trees(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trees") / "run"
    run(out, config(tiny_model, **{"log.replay": True, "steps": 1, "rollout.prompts": 6}))
    return out / "replay" / "train-000000.jsonl.gz"


@pytest.mark.parametrize("shard", [False, True], ids=["data-parallel", "fsdp2"])
@pytest.mark.parametrize(
    ("name", "mini_batch"),
    [
        ("arpo", None),
        pytest.param("arpo", 3, marks=pytest.mark.slow),
        pytest.param("ppo", None, marks=pytest.mark.slow),
        pytest.param("reinforce_pp", None, marks=pytest.mark.slow),
    ],
)
def test_the_gradient_is_that_of_one_process(
    tiny_model: Path, trees: Path, tmp_path: Path, name: str, mini_batch: int | None, shard: bool
) -> None:
    alone = gradient(tiny_model, trees, name, World(), mini_batch)
    together(_learn, 2, tmp_path / "meet", tmp_path / "out", tiny_model, trees, name, mini_batch, shard)
    for rank in range(2):
        both = torch.load(tmp_path / f"out.{rank}", weights_only=True)
        scale = max(float(g.abs().max()) for g in alone["grads"])
        assert scale > 1e-5  # clipped to a norm of 0.1
        for a, b in zip(alone["grads"], both["grads"], strict=True):
            assert float((a - b).abs().max()) <= 1e-5 * scale
        assert both["metrics"] == pytest.approx(alone["metrics"], rel=1e-4, abs=1e-6)
    ranks = [torch.load(tmp_path / f"out.{rank}", weights_only=True)["weights"] for rank in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*ranks, strict=True)), "the processes' weights stay the same"


@pytest.mark.parametrize(
    "shard", [pytest.param(False, id="data-parallel"), pytest.param(True, id="fsdp2", marks=pytest.mark.slow)]
)
def test_a_run_of_two_processes(tiny_model: Path, tmp_path: Path, shard: bool) -> None:
    """Same trees as one process samples; one folder, one log; stopped and resumed on the way."""
    changes = {"sft.steps": 1, "eval.before": True, "algorithm.options.kl_coef": 0.05, "learner.shard": shard}
    run(tmp_path / "one", config(tiny_model, **changes))
    together(_train, 2, tmp_path / "meet", tmp_path / "two", tiny_model, {**changes, "steps": 2})
    together(_train, 2, tmp_path / "meet2", tmp_path / "two", tiny_model, changes)
    one, two = outcome(tmp_path / "one"), outcome(tmp_path / "two")
    assert [r["step"] for r in two["metrics"]] == [0, 0, 1, 2]
    for a, b in zip(one["metrics"], two["metrics"], strict=True):
        assert a.pop("phase") == b.pop("phase")
        assert b == pytest.approx(a, rel=1e-3, abs=1e-5)
    assert [e["success"] for e in one["eval"]] == [e["success"] for e in two["eval"] if e["step"] != 2]
    weights = [
        AutoModelForCausalLM.from_pretrained(CheckpointStore(tmp_path / x / "checkpoints").paths()[-1] / "model")
        for x in ("one", "two")
    ]
    for a, b in zip(*(w.parameters() for w in weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # Adam magnifies rounding where gradients vanish


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_by_the_launchers_users_have(tiny_model: Path, tmp_path: Path, launcher: str) -> None:
    """``accelerate launch`` and ``torchrun`` start the command line as they are."""
    start = {
        # --multi_gpu names accelerate's launcher of several processes; which device they use is the run's own choice.
        "accelerate": [
            *("accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        ],
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    }[launcher]  # fmt: skip
    values = {
        "model": str(tiny_model), "device": "cpu", "steps": 1, "env.id": "ARPO-Math-v0", "rollout.prompts": 2,
        "rollout.max_tokens": 1000, "rollout.max_turn_tokens": 8, "rollout.slots": 4, "eval.tasks": 2,
        "eval.before": False, "algorithm.options.M": 2, "algorithm.options.N": 1, "guards.no_tools": "off",
        "learner.precision": "float32",
    }  # fmt: skip
    command = [sys.executable, "-m", *start, "-m", "arpo_algo.cli", "train", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, *(f"{k}={json.dumps(v)}" for k, v in values.items())],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["machine"]["processes"] == 2
