"""Budgets: a run ends in time, or when its rollouts are used up; evaluated and saved, and it can go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run import config, quiet, run, save_model

from arpo_algo.budget import Budget, BudgetSection
from arpo_algo.errors import ConfigError
from arpo_algo.runfolder import RunFolder, read_rows
from arpo_algo.trainer import Trainer


def test_a_step_begins_only_if_it_and_the_evaluation_fit() -> None:
    at = [100.0]
    budget = Budget(BudgetSection(minutes=1.0), now=lambda: at[0])
    assert budget.met() is None
    budget.step_took({"seconds_step": 20.0})
    budget.step_took({"seconds_step": 5.0})  # the longest counts
    budget.evaluation_took(10.0)
    at[0] = 123.9
    assert budget.met() is None
    at[0] = 124.1
    assert "minutes=1" in str(budget.met())
    at[0] = 1e9
    assert Budget(BudgetSection(), now=lambda: at[0]).met() is None


def test_what_rollouts_spend_is_counted() -> None:
    budget = Budget(BudgetSection(tool_calls=10, tokens=1000))
    budget.count([{"tool_calls_made": 4.0, "tokens_computed": 300.0}])
    budget.step_took({"tool_calls_made": 5.0, "tokens_computed": 300.0, "trajectories": 8.0})
    assert budget.met() is None
    assert budget.spent == {"trajectories": 8.0, "tokens": 600.0, "tool_calls": 9.0}
    budget.step_took({"tool_calls_made": 1.0})
    assert budget.met() == "budget.tool_calls=10 is used up (10)"


def run_once(out: Path, model: Path, **changes: Any) -> Trainer:
    trainer = Trainer(config(model, save_every=0, **changes), out, resume=True, console=quiet())
    trainer.run()
    trainer.close()
    return trainer


def test_a_run_out_of_budget_is_evaluated_saved_and_goes_on(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    # Two prompts of M = 4 a step: the ninth trajectory falls into the second step.
    trainer = run_once(tmp_path / "run", model, steps=5, **{"budget.trajectories": 9})
    assert [(r.name, r.step) for r in trainer.results] == [("ARPO", 2)]
    assert (tmp_path / "run/checkpoints/step-000002").exists()
    again = run_once(tmp_path / "run", model, steps=5, **{"budget.trajectories": 17})
    assert again.budget.spent["trajectories"] == 24, "a resumed run knows what was spent before"
    run(tmp_path / "whole", config(model, steps=3, save_every=0))
    assert [row["step"] for row in read_rows(tmp_path / "run/eval.jsonl")] == [2, 3]
    last = [row["loss"] for row in read_rows(tmp_path / "run/metrics.jsonl")]
    assert last == [row["loss"] for row in read_rows(tmp_path / "whole/metrics.jsonl")]


def test_what_is_done_again_is_not_spent_twice(tmp_path: Path) -> None:
    """Also where the log still holds it, as it does when a follower reads before the main process has pruned."""
    model = save_model(tmp_path / "model")
    run_once(tmp_path / "run", model, steps=3)
    newest = tmp_path / "run" / "checkpoints" / "step-000003"
    newest.rename(tmp_path / "gone")
    run_once(tmp_path / "again", model, steps=1)
    (tmp_path / "again" / "checkpoints" / "step-000001").rename(newest.with_name("step-000001"))
    settings = config(model, save_every=0, steps=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "keep_rows", lambda *_: None)
        trainer = Trainer(settings, tmp_path / "run", resume=True, console=quiet())
    trainer.close()
    assert trainer.step == 1
    assert trainer.budget.spent["trajectories"] == 8


def test_a_run_whose_time_ends_in_an_evaluation_is_saved(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[float] = []
    monkeypatch.setattr(Budget, "evaluation_took", lambda self, seconds: evaluated.append(seconds))
    monkeypatch.setattr(Budget, "met", lambda self: "no time is left" if evaluated else None)
    trainer = run_once(tmp_path / "run", tiny_model, steps=9, **{"eval.every": 2})
    assert [(r.name, r.step) for r in trainer.results] == [("step 2", 2), ("ARPO", 2)]
    assert (tmp_path / "run/checkpoints/step-000002").exists()


def test_a_limit_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"budget.minutes must be > 0"):
        config(tmp_path, **{"budget.minutes": 0})
