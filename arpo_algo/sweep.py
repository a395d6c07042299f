"""Algorithms × seeds at an equal budget, from one cold start a seed; every run resumes, the comparison is drawn anew.

Each seed trains on questions of its own (stream ``env.task_seed`` + seed), so that a spread over seeds holds the luck
of the questions too; under one seed all algorithms see the same ones. Held-out tasks are the same for all.

A sweep's folder::

    cold-start/seed-0/      a run of its own, where the configuration asks for a cold start
    arpo/seed-0/ …          one run an algorithm and seed
    sweep.json              what was compared, and what came out
    comparison.html         the same, drawn
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from arpo_algo import algorithms, options
from arpo_algo.config import AlgorithmSection, RunConfig
from arpo_algo.errors import ConfigError
from arpo_algo.evaluation import Evaluation
from arpo_algo.runfolder import read_rows, write_atomic
from arpo_algo.stats import paired_difference
from arpo_algo.trainer import Trainer


@dataclass(frozen=True)
class Entrant:
    """An algorithm of the sweep. ``label`` names its folder; ``dropped`` are options of the configuration it lacks."""

    label: str
    section: AlgorithmSection
    dropped: tuple[str, ...] = ()


def entrant(text: str, config: RunConfig) -> Entrant:
    """Read ``"arpo"`` or ``"arpo attribution=hard k=10"``.

    The configuration's own algorithm options hold for every entrant that knows them; what is written here wins.

    Raises:
        ConfigError: an unknown algorithm or option, or contradictory values.
    """
    name, *assignments = text.split()
    fields = algorithms.option_names(name)  # refuses an unknown name
    base = config.algorithm.options
    values = {**{k: v for k, v in base.items() if k in fields}, **options.override({}, assignments)}
    algorithms.make(name, **values)
    shown = " ".join([algorithms.short_name(name), *assignments]).replace("'", "").replace('"', "")
    label = re.sub(r"[^\w.=-]+", "-", shown).strip("-")
    return Entrant(label, AlgorithmSection(name, values), tuple(sorted(set(base) - fields)))


@dataclass
class SweepRow:
    """One finished run: its held-out result, and training success against what rollouts had spent by then."""

    label: str
    seed: int
    final: Evaluation
    spent: dict[str, list[float]] = field(default_factory=dict)  # metric -> running total by step
    success: list[float] = field(default_factory=list)
    forks: float = 0.0  # of the whole run
    task_seed: int = 0  # stream of its training tasks
    folder: Path | None = None  # the run's own

    def to_json(self) -> dict[str, Any]:
        final = {k: v for k, v in self.final.row().items() if k != "per_task"}
        return {
            "label": self.label,
            "seed": self.seed,
            "task_seed": self.task_seed,
            "final": final,
            "spent": {k: v[-1] for k, v in self.spent.items()},
        }


#: What a budget is counted in -> the metric of a training step.
AXES = {"trajectories": "trajectories", "tokens": "tokens_computed", "tool calls": "tool_calls_made"}


def names_questions(values: Mapping[str, Any]) -> bool:
    """Whether a configuration's nested values give ``env.task_seed``: then all seeds train on that stream."""
    env = values.get("env")
    return isinstance(env, Mapping) and "task_seed" in env


def sweep(
    config: RunConfig,
    entrants: Sequence[Entrant],
    seeds: Sequence[int],
    out: Path,
    console: Console,
    *,
    same_questions: bool = False,
) -> list[SweepRow]:
    """Do what is not done yet; returns every run in order of entrants, then seeds.

    Args:
        same_questions: all seeds train on the stream ``env.task_seed``. Then the spread over seeds does not hold the
            luck of the questions, and what was learned for equal tokens or calls cannot be compared.

    Raises:
        ConfigError: nothing to compare, a label or seed given twice, or a folder that holds another sweep.
    """
    labels = [e.label for e in entrants]
    for what, given in (("algorithm", labels), ("seed", list(seeds))):
        if len(set(given)) != len(given) or not given:
            raise ConfigError(f"a sweep needs each {what} once, and at least one; got {given}")
    out = out.resolve()  # runs name their cold start's folder, and may be resumed from elsewhere
    plan = {**_plan(config, entrants, seeds), "same_questions": same_questions}
    _claim(plan, out)
    starts = {seed: _cold_start(config, seed, out, console) for seed in seeds}
    rows = []
    for number, (one, seed) in enumerate([(e, s) for e in entrants for s in seeds], 1):
        console.rule(f"{one.label}, seed {seed} ({number} of {len(entrants) * len(seeds)})")
        stream = config.env.task_seed + (0 if same_questions else seed)
        own = dataclasses.replace(config, seed=seed, env=dataclasses.replace(config.env, task_seed=stream))
        rows.append(_train(own, one, starts[seed], out, console))
    done = {"runs": [r.to_json() for r in rows], "differences": differences(rows)}
    write_atomic(out / "sweep.json", json.dumps({**plan, **done}, indent=1).encode())
    return rows


def read(out: Path) -> list[tuple[AlgorithmSection, SweepRow]]:
    """Every finished run of a sweep's folder, with its algorithm, by label and seed; nothing is written.

    Raises:
        ConfigError: the folder holds no sweep.
    """
    configuration(out)
    found = []
    for done in sorted(out.glob("*/seed-*/finished.json")):
        record = json.loads((done.parent / "config.json").read_text(encoding="utf-8"))["config"]
        row = _read_run(done.parent, done.parents[1].name, record["seed"])
        found.append((options.load(AlgorithmSection, record["algorithm"], "algorithm."), row))
    return sorted(found, key=lambda pair: (pair[1].label, pair[1].seed))


def configuration(out: Path) -> RunConfig:
    """The configuration that all runs of a sweep's folder share, but for algorithm and seed.

    Raises:
        ConfigError: the folder holds no sweep, or one of another release.
    """
    file = out / "sweep.json"
    if not file.exists():
        raise ConfigError(f"{out} holds no sweep (no sweep.json); `arpo sweep --out {out}` makes one")
    return options.load(RunConfig, json.loads(file.read_text(encoding="utf-8"))["config"])


def cold_start_folder(out: Path, seed: int) -> Path:
    """Where the cold start of a seed lies, if the configuration asks for one."""
    return out / "cold-start" / f"seed-{seed}"


def differences(rows: Sequence[SweepRow]) -> list[dict[str, Any]]:
    """Each entrant against the first: mean paired difference over (seed, task), with its 95 % interval."""
    first = {(r.seed, t): x for r in rows if r.label == rows[0].label for t, x in r.final.per_task.items()}
    out = []
    for label in dict.fromkeys(r.label for r in rows):
        own = {(r.seed, t): x for r in rows if r.label == label for t, x in r.final.per_task.items()}
        shared = sorted(first.keys() & own.keys())
        if label == rows[0].label or not shared:
            continue
        # A task's seeds are averaged first: its difficulty is one draw, however often it is tried.
        tasks = sorted({t for _, t in shared})
        mean = {t: [[d[s, u] for s, u in shared if u == t] for d in (first, own)] for t in tasks}
        a, b = ([sum(mean[t][i]) / len(mean[t][i]) for t in tasks] for i in (0, 1))
        value, low, high = paired_difference(a, b)
        out.append({"label": label, "against": rows[0].label, "difference": value, "low": low, "high": high})
    return out


def _plan(config: RunConfig, entrants: Sequence[Entrant], seeds: Sequence[int]) -> dict[str, Any]:
    return {
        "config": json.loads(json.dumps(config.to_dict())),
        "algorithms": {e.label: {"name": e.section.name, "options": e.section.options} for e in entrants},
        "seeds": list(seeds),
    }


def _claim(plan: Mapping[str, Any], out: Path) -> None:
    """Refuse a folder of another configuration; algorithms and seeds may be added."""
    file = out / "sweep.json"
    if file.exists():
        old = json.loads(json.dumps(configuration(out).to_dict()))  # what an older release did not know has its default
        if changed := sorted(k for k in plan["config"] if old.get(k) != plan["config"][k]):
            raise ConfigError(
                f"{out} holds a sweep of another configuration (differs in {changed}); choose another --out"
            )
        # Sweeps of older releases say nothing: all their seeds trained on one stream.
        same = json.loads(file.read_text(encoding="utf-8")).get("same_questions", True)
        if same != plan["same_questions"]:
            stream = old["env"]["task_seed"]
            what = "all seeds train on the same" if same else "each seed trains on its own"
            todo = f"give env.task_seed={stream}" if same else "leave env.task_seed out"
            raise ConfigError(f"in the sweep {out} {what} questions; {todo} to go on with it, or choose another --out")
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no sweep; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(plan, indent=1).encode())


def _cold_start(config: RunConfig, seed: int, out: Path, console: Console) -> str:
    """The model that every algorithm starts from with this seed."""
    if not config.sft.steps:
        return config.model
    folder = cold_start_folder(out, seed)
    done = folder / "model.json"
    if not done.exists():
        console.rule(f"cold start, seed {seed}")
        own = dataclasses.replace(config, steps=0, seed=seed, eval=dataclasses.replace(config.eval, before=False))
        saved = _run(own, folder, console)
        write_atomic(done, json.dumps({"model": str((saved / "model").relative_to(folder))}).encode())
    return str(folder / json.loads(done.read_text(encoding="utf-8"))["model"])


def _train(config: RunConfig, one: Entrant, model: str, out: Path, console: Console) -> SweepRow:
    folder = out / one.label / f"seed-{config.seed}"
    own = dataclasses.replace(
        config,
        model=model,
        algorithm=one.section,
        sft=dataclasses.replace(config.sft, steps=0),
        eval=dataclasses.replace(config.eval, before=False),
    )
    finished = folder / "finished.json"
    if finished.exists():
        return _read_run(folder, one.label, config.seed)
    _run(own, folder, console)
    row = _read_run(folder, one.label, config.seed)
    write_atomic(finished, b"{}")  # only now: the run can be read
    return row


def _run(config: RunConfig, folder: Path, console: Console) -> Path:
    """A run to its end; returns its last checkpoint.

    Raises:
        KeyboardInterrupt: it was told to stop; it is saved, and the same call goes on from there.
    """
    trainer = Trainer(config, folder, resume=True, console=console)
    try:
        trainer.run()
        if trainer.interrupts.stop:
            raise KeyboardInterrupt
        return trainer.save()
    finally:
        trainer.close()
        del trainer
        gc.collect()  # weights and optimiser lie in reference cycles, and the next run brings its own


def _read_run(folder: Path, label: str, seed: int) -> SweepRow:
    """A finished run, from its logs."""
    final = _last_evaluation(folder)
    if final is None:
        raise ConfigError(f"{folder} has no whole evaluation; delete finished.json there to go on with the run")
    steps = [r for r in read_rows(folder / "metrics.jsonl") if r.get("phase") == "train"]
    row = SweepRow(label, seed, final, folder=folder)
    row.success = [r["success"] for r in steps]
    row.forks = sum(r.get("forks", 0.0) for r in steps)
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    row.task_seed = record["config"]["env"]["task_seed"]
    for axis, metric in AXES.items():
        row.spent[axis] = list(itertools.accumulate(r.get(metric, 0.0) for r in steps))
    return row


def _last_evaluation(folder: Path) -> Evaluation | None:
    rows = read_rows(folder / "eval.jsonl")
    tasks = {(r["name"], r["step"]): r["success"] for r in read_rows(folder / "eval-tasks.jsonl")}
    if not rows or (rows[-1]["name"], rows[-1]["step"]) not in tasks:
        return None
    return Evaluation.from_row(rows[-1], tasks[rows[-1]["name"], rows[-1]["step"]])
