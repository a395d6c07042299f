"""``max_minutes``: a run on a slow machine ends in time, evaluated and saved, and can go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import config, quiet, run, save_model

from arpo_algo.clock import Clock
from arpo_algo.errors import ConfigError
from arpo_algo.runfolder import read_rows
from arpo_algo.trainer import Trainer


def test_a_step_begins_only_if_it_and_the_evaluation_fit() -> None:
    at = [100.0]
    clock = Clock(1.0, now=lambda: at[0])
    assert not clock.late
    clock.step_took(20.0)
    clock.step_took(5.0)  # the longest counts
    clock.evaluation_took(10.0)
    at[0] = 123.9
    assert not clock.late
    at[0] = 124.1
    assert clock.late
    assert not Clock(None, now=lambda: 1e9).late


def test_a_run_out_of_time_is_evaluated_saved_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_model(tmp_path / "model")
    steps = [0]
    monkeypatch.setattr(Clock, "step_took", lambda self, seconds: steps.__setitem__(0, steps[0] + 1))
    monkeypatch.setattr(Clock, "late", property(lambda self: self._end is not None and steps[0] >= 2))
    trainer = Trainer(config(model, steps=5, save_every=0, max_minutes=1.0), tmp_path / "run", console=quiet())
    results = trainer.run()
    trainer.close()
    assert [(r.name, r.step) for r in results] == [("ARPO", 2)]
    assert (tmp_path / "run/checkpoints/step-000002").exists()
    run(tmp_path / "run", config(model, steps=3, save_every=0))  # with more time, it goes on
    assert [row["step"] for row in read_rows(tmp_path / "run/eval.jsonl")] == [2, 3]


def test_a_limit_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_minutes must be > 0"):
        config(tmp_path, max_minutes=0)
