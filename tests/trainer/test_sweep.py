"""A sweep: one cold start a seed, equal budgets, nothing done twice, an honest page."""

from __future__ import annotations

import dataclasses
import json
import weakref
from pathlib import Path

import pytest
from tiny_run import config, quiet, save_model

from arpo_algo import sweep as module
from arpo_algo.cli import parser
from arpo_algo.cli import sweep as command
from arpo_algo.errors import ConfigError
from arpo_algo.report.page_sweep import build_sweep_page, curves_section, pooled, results_section
from arpo_algo.sweep import differences, entrant, sweep


def test_options_of_the_configuration_hold_for_those_that_know_them(tmp_path: Path) -> None:
    base = config(tmp_path)  # of ARPO, with M=4 N=2 k=4
    grpo, hard = entrant("grpo", base), entrant("arpo attribution=hard k=8", base)
    assert (grpo.section.options, grpo.dropped) == ({"M": 4}, ("N", "k"))
    assert hard.section.options == {"M": 4, "N": 2, "k": 8, "attribution": "hard"}
    assert hard.label == "arpo-attribution=hard-k=8"
    with pytest.raises(ConfigError, match="did you mean 'grpo'"):
        entrant("grop", base)
    with pytest.raises(ConfigError, match="need 1 <= N <= M"):
        entrant("arpo N=9", base)


def test_a_sweep_resumes_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = config(save_model(tmp_path / "model"), steps=9, **{"sft.steps": 1, "budget.trajectories": 16})
    entrants = [entrant(name, base) for name in ("arpo", "grpo")]
    monkeypatch.chdir(tmp_path)
    rows = sweep(base, entrants[:1], [0], Path("sweep"), quiet())
    out = tmp_path / "sweep"
    started = json.loads((out / "arpo/seed-0/config.json").read_text())["config"]["model"]
    assert Path(started).is_absolute()  # an interrupted sweep resumes from any working directory
    made: list[Path] = []
    alive: list[weakref.ref[module.Trainer]] = []
    trainer = module.Trainer

    def counted(settings, folder, **kwargs):  # type: ignore[no-untyped-def]
        assert not any(ref() for ref in alive)  # a finished run's weights would stay in memory
        made.append(folder.relative_to(out))
        new = trainer(settings, folder, **kwargs)
        alive.append(weakref.ref(new))
        return new

    monkeypatch.setattr(module, "Trainer", counted)
    rows = sweep(base, entrants, [0, 1], out, quiet())
    assert [str(m) for m in made] == ["cold-start/seed-1", "arpo/seed-1", "grpo/seed-0", "grpo/seed-1"]
    assert [(r.label, r.seed) for r in rows] == [("arpo", 0), ("arpo", 1), ("grpo", 0), ("grpo", 1)]
    # Four trajectories a prompt, two prompts a step: an equal budget of 16 is two steps for each.
    assert all(r.spent["trajectories"] == [8.0, 16.0] for r in rows)
    # Each seed has training tasks of its own, the same for all algorithms; held-out tasks are everybody's.
    assert [r.task_seed for r in rows] == [0, 1, 0, 1]
    streams = [json.loads((r.folder / "config.json").read_text())["config"]["env"]["task_seed"] for r in rows]  # type: ignore[operator]
    assert streams == [0, 1, 0, 1]
    assert len({tuple(r.final.per_task) for r in rows}) == 1
    said = json.loads((out / "sweep.json").read_text())
    assert [d["label"] for d in said["differences"]] == ["grpo"]
    page = build_sweep_page(rows, out).read_text()
    assert page.count("<figure") == 5
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    record = json.loads((out / "sweep.json").read_text())
    del record["config"]["learner"]["pack_tokens"]  # as if it was newer than the folder
    (out / "sweep.json").write_text(json.dumps(record))
    assert len(sweep(base, entrants, [0, 1], out, quiet())) == 4
    with pytest.raises(ConfigError, match="differs in \\['steps'\\]"):
        sweep(dataclasses.replace(base, steps=8), entrants, [0], out, quiet())
    with pytest.raises(ConfigError, match=r"each seed trains on its own questions; leave env\.task_seed out"):
        sweep(base, entrants, [0, 1], out, quiet(), same_questions=True)
    del record["same_questions"]  # as an older release left it
    (out / "sweep.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"all seeds train on the same questions; give env\.task_seed=0"):
        sweep(base, entrants, [0, 1], out, quiet())
    assert len(sweep(base, entrants, [0, 1], out, quiet(), same_questions=True)) == 4


@pytest.mark.parametrize(("values", "same"), [(["steps=1"], False), (["env.task_seed=0"], True), ([], True)])
def test_a_stream_that_the_user_names_is_everybodys(
    values: list[str], same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command line, or by the file (the last case)."""
    file = tmp_path / "my.toml"
    file.write_text("[env]\ntask_seed = 3\n" if not values else "steps = 2\n")
    asked: list[bool] = []

    def stopped(*args: object, same_questions: bool) -> None:
        asked.append(same_questions)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "sweep", stopped)
    with pytest.raises(KeyboardInterrupt):
        command.run(parser().parse_args(["sweep", "--algorithm", "grpo", "--config", str(file), *values]))
    assert asked == [same]


def test_an_interrupted_cold_start_is_not_taken_for_a_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = config(save_model(tmp_path / "model"), steps=1, **{"sft.steps": 2})
    one, out = [entrant("grpo", base)], tmp_path / "sweep"
    run = module.Trainer.run

    def interrupted(self):  # type: ignore[no-untyped-def]
        self.interrupts.request_stop()
        return run(self)

    with monkeypatch.context() as patch:
        patch.setattr(module.Trainer, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(base, one, [0], out, quiet())
    assert not (out / "cold-start/seed-0/model.json").exists()
    assert len(sweep(base, one, [0], out, quiet())) == 1


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("precious")
    base = config(tmp_path)
    with pytest.raises(ConfigError, match="holds no sweep"):
        sweep(base, [entrant("grpo", base)], [0], tmp_path / "out", quiet())
    with pytest.raises(ConfigError, match="each seed once"):
        sweep(base, [entrant("grpo", base)], [0, 0], tmp_path / "new", quiet())


def test_differences_pair_tasks_and_seeds() -> None:
    def row(label: str, seed: int, *success: float) -> module.SweepRow:
        tasks = {f"t/{i}": x for i, x in enumerate(success)}
        final = module.Evaluation("x", 1, tasks, 0.0, 0.0, 0.0, 0.0, 0.0, 0, ())
        return module.SweepRow(label, seed, final)

    rows = [row("a", 0, 1, 0, 0), row("a", 1, 0, 0, 0), row("b", 0, 1, 1, 0), row("b", 1, 1, 0, 0)]
    (one,) = differences(rows)
    assert one["difference"] == pytest.approx(1 / 3)  # (0.5 + 0.5 + 0) / 3 tasks
    assert one["low"] < one["difference"] < one["high"]
    assert pooled(rows[2:])[0] == pytest.approx(0.5)
    for each in rows:
        each.spent = {axis: [1.0] for axis in module.AXES}
    drawn = results_section(rows).split("<b>Difference from a, same tasks and seeds</b>")[1]
    assert "percentage points" in drawn
    assert "b: 33.3 (95 % CI" in drawn
    assert "Difference" not in results_section(rows, compare=False)


def test_many_algorithms_are_drawn_in_groups_that_can_be_told_apart() -> None:
    labels = [f"a{i}" for i in range(17)]
    rows = [module.SweepRow(x, 0, module.Evaluation("x", 1, {}, 0.0, 0.0, 0.0, 0.0, 0.0, 0, ())) for x in labels]
    for row in rows:
        row.success, row.spent = [0.1, 0.2], {axis: [1.0, 2.0] for axis in module.AXES}
    for n, figures in ((1, 3), (5, 3), (6, 6), (17, 12)):
        drawn = curves_section(rows[:n])
        assert drawn.count("<figure") == figures
        assert all(label in drawn for label in labels[:n])
