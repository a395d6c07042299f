"""The loop on a tiny byte-level model: one seed one run, exact resume, the folder tells all, bad input refused."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from tiny_run import ByLength, save_model
from toy import toy_env
from transformers import AutoModelForCausalLM

from arpo_algo import options
from arpo_algo.algorithms import make
from arpo_algo.config import RunConfig
from arpo_algo.distributed import World
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.learner import Learner
from arpo_algo.optimizer import LearnerConfig
from arpo_algo.runfolder import RunFolder, read_rows, read_trees, write_atomic
from arpo_algo.trainer import Trainer
from arpo_algo.tree import Tree

if "ToyBytes-v0" not in gymnasium.registry:
    gymnasium.register("ToyBytes-v0", entry_point=lambda **kwargs: ByLength(toy_env(**kwargs)))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def config(model: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": str(model),
        "device": "cpu",
        "steps": 3,
        "env": {"id": "ToyBytes-v0"},
        "algorithm": {"name": "arpo", "options": {"M": 4, "N": 2, "k": 4}},
        "rollout": {"prompts": 2, "max_turn_tokens": 12, "max_tokens": 700, "slots": 8},
        "learner": {"lr": 1e-2, "precision": "float32"},
        "eval": {"tasks": 4, "before": False},
    }
    return options.load(RunConfig, options.override(values, [f"{k}={json.dumps(v)}" for k, v in changes.items()]))


def run(folder: Path, settings: RunConfig, *, resume: bool = False) -> dict[str, torch.Tensor]:
    trainer = Trainer(settings, folder, resume=resume)
    try:
        trainer.run()
        return {k: v.clone() for k, v in trainer.model.state_dict().items()}
    finally:
        trainer.close()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_one_seed_is_one_run(model_folder: Path, tmp_path: Path) -> None:
    one = run(tmp_path / "a", config(model_folder))
    two = run(tmp_path / "b", config(model_folder))
    other = run(tmp_path / "c", config(model_folder, seed=1))
    assert same(one, two)
    assert not same(one, other)
    for step in range(3):
        trees = [[t.to_json() for t in read_trees(tmp_path / x / f"trees/train-{step:06d}.jsonl.gz")] for x in "abc"]
        assert trees[0] == trees[1]
        assert trees[0] != trees[2]


def test_weights_move_and_the_folder_tells_all(model_folder: Path, tmp_path: Path) -> None:
    start = AutoModelForCausalLM.from_pretrained(model_folder).state_dict()
    end = run(tmp_path / "run", config(model_folder))
    assert not same(start, end)
    folder = tmp_path / "run"
    record = json.loads((folder / "config.json").read_text())
    assert record["seed"] == 0
    assert record["versions"]["torch"].startswith("2.")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 1, 2]
    assert rows[0]["rollout_kl"] < 1e-6, "engine and learner agree on the log-probs"
    assert rows[0]["tokens_unique"] < rows[0]["tokens_flat"]
    assert (folder / "eval.jsonl").exists()
    assert list((folder / "tensorboard").iterdir())
    # The checkpoint is a plain transformers folder.
    loaded = AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / "step-000003" / "model")
    assert same(loaded.state_dict(), end)


def test_resume_equals_never_stopped(model_folder: Path, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", config(model_folder, save_every=1))
    run(tmp_path / "parts", config(model_folder, steps=2, save_every=1))
    resumed = run(tmp_path / "parts", config(model_folder, save_every=1), resume=True)
    assert same(whole, resumed)
    rows = [[r["step"] for r in read_rows(tmp_path / x / "metrics.jsonl")] for x in ("whole", "parts")]
    assert rows[0] == rows[1] == [0, 1, 2]


def test_a_step_after_the_last_checkpoint_is_done_again_once(model_folder: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", config(model_folder, steps=2, save_every=1))
    folder = RunFolder(tmp_path / "run")
    folder.append("metrics.jsonl", {"phase": "train", "step": 2, "reward": 9.0})  # as if killed in step 2
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as log:
        log.write(b'{"phase": "train", "st')  # … while writing
    folder.close()
    run(tmp_path / "run", config(model_folder, save_every=1), resume=True)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in rows] == [0, 1, 2]
    assert rows[2]["reward"] != 9.0


def test_folders_are_protected(model_folder: Path, tmp_path: Path) -> None:
    first = Trainer(config(model_folder), tmp_path / "run")
    with pytest.raises(ConfigError, match="in use by another process"):
        Trainer(config(model_folder), tmp_path / "run")
    first.close()
    run(tmp_path / "done", config(model_folder, steps=1))
    with pytest.raises(ConfigError, match="add --resume"):
        Trainer(config(model_folder), tmp_path / "done")
    with pytest.raises(ConfigError, match=r"differs from the run's in learner\.lr: 0\.01 in the folder, 0\.001 now"):
        Trainer(config(model_folder, **{"learner.lr": 1e-3}), tmp_path / "done", resume=True)


def test_interrupt_finishes_the_step_and_saves(model_folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(model_folder), tmp_path / "run")
    real = trainer.train_step

    def interrupted(*args: Any) -> dict[str, float]:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    trainer.train_step = interrupted  # type: ignore[method-assign]
    try:
        trainer.run()
    finally:
        trainer.close()
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]


def test_cold_start_lowers_the_loss(model_folder: Path, tmp_path: Path) -> None:
    settings = config(model_folder, **{"sft.steps": 8, "sft.batch": 4, "sft.lr": 0.02, "steps": 0})
    run(tmp_path / "run", settings)
    losses = [r["loss"] for r in read_rows(tmp_path / "run" / "metrics.jsonl") if r["phase"] == "sft"]
    assert len(losses) == 8
    assert losses[-1] < 0.7 * losses[0]


class TestLearner:
    def trees(self, model_folder: Path, tmp_path: Path) -> list[Tree]:
        run(tmp_path / "source", config(model_folder, steps=1))
        return read_trees(tmp_path / "source" / "trees" / "train-000000.jsonl.gz")

    def test_minibatches_use_the_policy_at_the_update_start(self, model_folder: Path, tmp_path: Path) -> None:
        trees = self.trees(model_folder, tmp_path)
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        learner = Learner(model, LearnerConfig(lr=5e-2, mini_batch=1, epochs=2, precision="float32"))
        metrics = learner.update(trees, make("arpo", M=4, N=2))
        assert learner.steps == 4
        assert metrics["clip_fraction"] > 0, "with several steps an update the ratio leaves 1"
        strict = Learner(AutoModelForCausalLM.from_pretrained(model_folder), LearnerConfig(precision="float32"))
        assert strict.update(trees, make("arpo", M=4, N=2))["clip_fraction"] == 0

    def test_groups_without_signal_cost_nothing_and_count(self, model_folder: Path, tmp_path: Path) -> None:
        trees = self.trees(model_folder, tmp_path)
        for leaf in trees[1].leaves():
            assert leaf.outcome is not None
            leaf.outcome.reward = 1.0
        learner = Learner(AutoModelForCausalLM.from_pretrained(model_folder), LearnerConfig(precision="float32"))
        algorithm = make("arpo", M=4, N=2)
        packs = learner._batch(trees, algorithm.advantages(trees), algorithm)
        assert sum(len(p.tokens) for p in packs) == trees[0].n_tokens
        assert sum(float(p.weight.sum()) for p in packs) < 1.0

    def test_mini_batches_without_signal_do_not_dilute_what_is_measured(
        self, model_folder: Path, tmp_path: Path
    ) -> None:
        trees = self.trees(model_folder, tmp_path)
        for leaf in trees[1].leaves():
            assert leaf.outcome is not None
            leaf.outcome.reward = 1.0

        def measured(some: list[Tree]) -> dict[str, float]:
            model = AutoModelForCausalLM.from_pretrained(model_folder)
            return Learner(model, LearnerConfig(mini_batch=1, precision="float32")).update(some, make("grpo", M=4))

        alone, among = measured(trees[:1]), measured([trees[0], *trees[1:] * 3])
        assert alone["grad_norm"] > 0
        for name in ("entropy", "ratio_mean", "grad_norm", "rollout_kl"):
            assert among[name] == pytest.approx(alone[name], rel=1e-4), name

    def test_several_processes_leave_weights_alone_where_one_does(self, model_folder: Path, tmp_path: Path) -> None:
        """A mini-batch without signal: zeros from the other processes are no gradient for AdamW's momentum."""

        class Two(World):
            def gather(self, item: Any) -> list[Any]:
                return [item]

            def add_numbers(self, numbers: Any) -> Any:
                return dict(numbers)

            def add_gradients(self, parameters: Any) -> None:
                for parameter in parameters:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)

        trees, algorithm = self.trees(model_folder, tmp_path), make("rloo", M=4)
        for world in (World(), Two(0, 2)):
            model = AutoModelForCausalLM.from_pretrained(model_folder)
            learner = Learner(model, LearnerConfig(lr=1e-2, precision="float32"), world=world)
            learner._own = lambda items: items  # type: ignore[method-assign]
            learner.update(trees, algorithm)
            before = {k: v.clone() for k, v in model.state_dict().items()}
            equal = copy.deepcopy(trees)
            for leaf in (leaf for tree in equal for leaf in tree.leaves()):
                assert leaf.outcome is not None
                leaf.outcome.reward = 1.1
            assert learner.update(equal, algorithm)["grad_norm"] == 0
            assert same(before, dict(model.state_dict()))
            assert learner.steps == 2

    def test_the_sampling_policys_log_probs_cost_no_forward(self, model_folder: Path, tmp_path: Path) -> None:
        trees = self.trees(model_folder, tmp_path)
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        learner = Learner(model, LearnerConfig(mini_batch=1, precision="float32"))
        learner._logp = lambda packed: pytest.fail("computed, and not needed")  # type: ignore[method-assign]
        learner.update(trees, make("grpo", M=4), old_policy="rollout")

    def test_values_are_float32_whatever_the_products_are(self, model_folder: Path, tmp_path: Path) -> None:
        trees, algorithm = self.trees(model_folder, tmp_path), make("ppo", M=4)
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        learner = Learner(model, LearnerConfig(precision="bfloat16"), algorithm=algorithm)
        assert learner.value_head is not None
        torch.nn.init.normal_(learner.value_head.weight, generator=torch.Generator().manual_seed(0))
        learner.annotate(trees, algorithm)
        values = torch.tensor([n.value for t in trees for n in t.nodes if n.kind == "action"])
        assert not torch.equal(values, values.bfloat16().float()), "no value is rounded to half precision"

    def test_mini_batches_of_a_step_that_lost_trees_are_even(self, model_folder: Path, tmp_path: Path) -> None:
        from arpo_algo.optimizer import even_cuts

        for total, size, sizes in (
            (8, 4, [4, 4]),
            (5, 4, [2, 3]),
            (9, 4, [3, 3, 3]),
            (3, 4, [3]),
            (7, 2, [1, 2, 2, 2]),
        ):
            assert [j - i for i, j in even_cuts(total, size)] == sizes
        trees = self.trees(model_folder, tmp_path)
        learner = Learner(
            AutoModelForCausalLM.from_pretrained(model_folder), LearnerConfig(mini_batch=2, precision="float32")
        )
        learner.update([trees[0], *trees[1:] * 2], make("grpo", M=4))
        assert learner.steps == 2

    def test_non_finite_gradient_takes_no_step(self, model_folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        learner = Learner(model, LearnerConfig(precision="float32"))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, float("nan"))
        with pytest.raises(TrainingError, match="no step was taken"):
            learner.optimizer_step()
        assert same(before, dict(model.state_dict()))

    def test_bad_values_are_refused(self) -> None:
        for bad in ({"lr": 0.0}, {"epochs": 0}, {"precision": "fp8"}):
            with pytest.raises(ConfigError):
                LearnerConfig(**bad)


def test_write_atomic_keeps_the_old_file_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.json"
    write_atomic(target, b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_write_atomic_leaves_the_mode_to_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "x.json", b"shared with the group")
    finally:
        os.umask(before)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o640
