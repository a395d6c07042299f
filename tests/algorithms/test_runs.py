"""Whole runs of the trainer with algorithms that use its hooks: the same loop, checkpoint and resume as ARPO's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import config, model_folder, run, same

from arpo_algo.algorithms.dapo import DAPO
from arpo_algo.config import AlgorithmSection, RunConfig
from arpo_algo.runfolder import read_trees
from arpo_algo.trainer import Trainer

__all__ = ["model_folder"]  # a fixture

CASES = {
    "ppo": {"M": 4, "value_lr": 0.05},
    "grpo": {"M": 4, "kl_coef": 0.5},
    "dapo": {"M": 4},
    "treerl": {"M": 4, "N": 2},
    "aepo": {"M": 4, "k": 4},
}


def made(model: Path, name: str, steps: int = 2) -> RunConfig:
    return replace(config(model, steps=steps, save_every=1), algorithm=AlgorithmSection(name, CASES[name]))


@pytest.mark.parametrize("name", CASES)
def test_resumed_equals_never_stopped(name: str, model_folder: Path, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", made(model_folder, name))
    run(tmp_path / "parts", made(model_folder, name, steps=1))
    resumed = run(tmp_path / "parts", made(model_folder, name), resume=True)
    assert same(whole, resumed)
    for folder in ("whole", "parts"):
        rows = [json.loads(x) for x in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        assert [r["step"] for r in rows] == [0, 1]
        trees = read_trees(tmp_path / folder / "trees" / "train-000001.jsonl.gz")
        assert all(len(t.leaves()) == 4 for t in trees)
        assert all(isinstance(a, float) for t in trees for a in t.meta["advantages"].values())
    if name == "ppo":
        point = tmp_path / "whole" / "checkpoints" / "step-000002" / "critic.pt"
        assert float(torch.load(point, weights_only=True)["weight"].abs().sum()) > 0, "the critic moved"
    if name == "grpo":
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-6), "training starts at its reference"
        assert rows[1]["kl"] > 1e-6


def test_dynamic_sampling_replaces_groups_of_equal_reward(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DAPO.keep
    monkeypatch.setattr(DAPO, "keep", lambda self, tree: real(self, tree) and not tree.task_id.endswith(("/0", "/3")))
    run(tmp_path / "run", made(model_folder, "dapo", steps=1))
    (row,) = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    used = [t.task_id for t in read_trees(tmp_path / "run" / "trees" / "train-000000.jsonl.gz")]
    assert len(used) == 2
    assert not any(t.endswith(("/0", "/3")) for t in used)
    assert row["groups_dropped"] >= 1
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-000001" / "state.json").read_text())
    assert state["drawn"] == 2 + row["groups_dropped"]


@pytest.mark.parametrize(
    ("rollout", "old_policy", "cap"),
    [
        ({}, "current", None),
        ({"overlap": "one-step", "correction": "tis", "tis_cap": 3.0}, "current", 3.0),
        ({"overlap": "one-step", "correction": "ratio"}, "rollout", None),
    ],
)
def test_the_update_is_told_how_to_correct_stale_trees(
    rollout: dict[str, Any], old_policy: str, cap: float | None, model_folder: Path, tmp_path: Path
) -> None:
    settings = config(model_folder, steps=1, **{f"rollout.{k}": v for k, v in rollout.items()})
    trainer = Trainer(replace(settings, algorithm=AlgorithmSection("grpo", {"M": 4})), tmp_path / "run")
    update, told = trainer.learner.update, []

    def updated(trees: Any, algorithm: Any, **options: Any) -> dict[str, float]:
        told.append((options.get("old_policy", "current"), algorithm.tis_cap))
        return update(trees, algorithm, **options)

    trainer.learner.update = updated  # type: ignore[method-assign]
    try:
        trainer.run()
    finally:
        trainer.close()
    assert told == [(old_policy, cap)]
