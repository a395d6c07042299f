"""The temperature that trajectories are sampled at is the learner's and the reference's too; evaluation has its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_trainer import config, model_folder, run

from arpo_algo.algorithms import make
from arpo_algo.assembly import rollout_configs
from arpo_algo.config import AlgorithmSection
from arpo_algo.engines.base import Sampling
from arpo_algo.runfolder import read_rows

__all__ = ["model_folder"]  # a fixture


def test_sampler_learner_and_reference_are_one_policy_at_its_temperature(model_folder: Path, tmp_path: Path) -> None:
    settings = config(model_folder, **{"steps": 1, "rollout.temperature": 0.7})
    grpo = AlgorithmSection("grpo", {"M": 4, "kl_coef": 0.1})
    run(tmp_path / "run", replace(settings, algorithm=grpo))
    row = next(r for r in read_rows(tmp_path / "run" / "metrics.jsonl") if r["phase"] == "train")
    assert row["rollout_kl"] < 1e-6, "who sampled and who learns"
    assert row["kl"] == pytest.approx(0, abs=1e-6), "who learns and where training began"


def test_training_and_evaluation_sample_as_configured(model_folder: Path) -> None:
    settings = config(
        model_folder,
        **{"rollout.temperature": 0.7, "eval.temperature": 0.5, "eval.top_p": 0.9, "eval.top_k": 12},
    )
    made = rollout_configs(settings, make("grpo", M=4), deterministic=True)
    assert made["train"].sampling == Sampling(0.7)
    assert made["eval"].sampling == Sampling(0.5, 0.9, 12)
