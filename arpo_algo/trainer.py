"""The loop: cold start, then rollouts -> advantages -> update -> weights to the engine, with evaluation around it.

The trainer knows no algorithm and no task by name. A run is a function of its configuration: every random draw of step
s comes from (seed, s), the engine's cache is cleared between phases, and a checkpoint holds everything else. So a run
that was killed at any moment and resumed ends with the weights of one that never was.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import platform
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from arpo_algo import assembly, distributed, engines, models, options, sharding
from arpo_algo.algorithms import make, short_name
from arpo_algo.allocator import keep_freed_memory
from arpo_algo.assembly import Position
from arpo_algo.budget import Budget
from arpo_algo.checkpoint import CheckpointStore, seed_everything
from arpo_algo.config import RunConfig
from arpo_algo.distributed import World
from arpo_algo.errors import ConfigError, NonFiniteError, TrainingError
from arpo_algo.evaluation import Evaluation, summarise
from arpo_algo.guards import Alarm, Guards
from arpo_algo.interrupts import Interrupts
from arpo_algo.learner import Learner
from arpo_algo.lora import merged_weights
from arpo_algo.metrics import tree_metrics
from arpo_algo.rendering import Renderer
from arpo_algo.runfolder import RunFolder, read_trees, write_atomic, write_trees
from arpo_algo.sampler import TextEnv
from arpo_algo.sft import demonstrations
from arpo_algo.stats import paired_difference
from arpo_algo.tracking import Live, Tracker
from arpo_algo.tree import Tree
from arpo_algo.workers.base import Job, LocalRollouts, Rollouts
from arpo_env.tasks.base import TaskFamily

_PACKAGES = ("arpo", "torch", "transformers", "gymnasium", "numpy", "reasoning-gym")
#: What may differ between a run and its continuation: nothing that the weights depend on.
FREE_ON_RESUME = (
    "steps", "budget", "save_every", "keep", "keep_best", "device", "threads", "eval", "guards", "log",
    "rollout.workers", "rollout.tool_timeout", "rollout.actors", "rollout.actor_options", "learner.attention",
    "learner.keep_memory",
)  # fmt: skip
_LOGS = ("metrics.jsonl", "eval.jsonl", "eval-tasks.jsonl", "alarms.jsonl")


@dataclass
class Batch:
    """A step's trees, those that the algorithm did not keep, and the tasks drawn when they were complete."""

    trees: list[Tree]
    dropped: list[Tree]
    drawn: int
    seconds: float = 0.0


class Trainer:
    """One run in one folder.

    Everything that can be refused is refused here, before any long work: the algorithm's options, the
    environment (its tools are started), the model, the budgets, a folder that belongs to another run.

    Raises:
        ConfigError: a value that cannot be used, or a folder that belongs to another run.
        ToolUnavailable: a tool does not work on this machine.
        TrainingError: another process of the run did not come, or has died.
    """

    @distributed.explained()
    def __init__(self, config: RunConfig, out: Path, *, resume: bool = False, console: Console | None = None) -> None:
        self.config = config
        self.console = console or Console()
        self.budget = Budget(config.budget)
        self.algorithm = make(config.algorithm.name, **config.algorithm.options)
        engines.choose(config.rollout.engine, config.rollout.engine_options)  # refuses what it does not know
        self._stale_algorithm = for_stale_trees(config, self.algorithm)
        self.device = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        self.world = World.join(self.device)
        self.device = self.world.local_device(self.device)
        if config.rollout.prompts % self.world.size:
            raise ConfigError(
                f"rollout.prompts={config.rollout.prompts} cannot be dealt evenly to {self.world.size} processes; "
                f"choose a multiple of {self.world.size}"
            )
        facts = assembly.look_at_env(config)  # starts the tools, or says why not
        self.family = facts.family
        _enough_tasks(facts.family, config)
        self._configs = assembly.rollout_configs(config, self.algorithm, deterministic=facts.deterministic)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        if self.device == "cpu" and config.learner.keep_memory:
            keep_freed_memory()
        self.guards = Guards(config.guards, has_tools=bool(facts.tools), forks=self.algorithm.N < self.algorithm.M)
        self.interrupts = Interrupts(lambda text: self.tracker.say(text))
        self.folder = RunFolder(out, follower=not self.world.main)
        self.store = CheckpointStore(out / "checkpoints")
        self.position = Position()
        self.results: list[Evaluation] = []
        self._batch: Batch | None = None  # sampled ahead, for the step to come
        self._unsaved = False  # a checkpoint was due and could not be written
        self._consistent = 0  # optimiser steps that the weights at ``position`` have seen
        self._alarms: list[Alarm] = []
        try:
            start, said = self.world.agree(self._claim(resume) if self.world.main else None) or (None, [])
            seed_everything(config.seed)
            source = str(start / "model") if start is not None else config.model
            self.model, self.tokenizer = assembly.load_policy(source, self.device)
            self.renderer = Renderer(self.tokenizer)
            self._piece = functools.cache(lambda token: str(self.tokenizer.decode([token])))
            self.rollouts = self._make_rollouts(source)
            self.learner = assembly.new_learner(config, self.model, self.algorithm, self.world)
            self._active = self.learner  # whose optimiser a checkpoint holds
            self._start = start
            if start is not None:
                self._restore(start)
            else:
                self._forget()
            record = self._record(resumed=start is not None)
            self.folder.write_config(record)
            self.tracker = Tracker(self.folder, self.console, config.log, record, resume_step=self.position.step)
        except BaseException:
            if hasattr(self, "rollouts"):
                self.rollouts.close()
            self.folder.close()
            raise
        self._consistent = self._active.steps
        self.learner.on_nonfinite = self._on_nonfinite
        self.learner.on_finite = self.guards.finite_step
        for text in said:
            self.tracker.say(text)

    # ------------------------------------------------------------------ environments and tasks

    def make_env(self) -> TextEnv:
        """A fresh environment of the run; also the factory that samplers get."""
        return assembly.make_env(self.config)

    def _make_rollouts(self, source: str) -> Rollouts:
        config = self.config
        if config.rollout.actors:
            from arpo_algo.workers.ray import RayRollouts

            return RayRollouts(config, source)
        separate = config.rollout.overlap != "off" or (config.learner.shard and self.world.size > 1)
        engine = assembly.build_engine(config, self.model, self.tokenizer, source, separate=separate)
        return LocalRollouts(
            engine,
            self.renderer,
            self.make_env,
            self._configs,
            workers=config.rollout.workers,
            retries=config.guards.retries,
        )

    # ------------------------------------------------------------------ the run

    @property
    def step(self) -> int:
        """Training steps done."""
        return self.position.step

    def run(self) -> list[Evaluation]:
        """Everything the configuration asks for; returns the evaluations, in order, those before a resume too.

        Interrupt once (SIGINT, SIGTERM): the step under way is finished and saved. Twice: stop now; what is
        consistent is saved.

        Raises:
            TrainingError: too many non-finite steps, an alarm that stops, rollouts that infrastructure spoilt
                altogether, a disk that takes no checkpoint, another process of the run that has died.
                ``stopped.json`` in the folder says more.
            KeyboardInterrupt: a second signal.
        """
        with self.interrupts.listening():
            try:
                self._run()
            except KeyboardInterrupt:
                self._save_now()
                raise
            except TrainingError as error:
                self._report_stop(str(error))
                raise
        return self.results

    @distributed.explained()
    def _run(self) -> None:
        config = self.config
        if config.eval.before:
            self._evaluate_once("before", Position())
        if config.sft.steps:
            self.cold_start()
            self._evaluate_once("cold start", Position(config.sft.steps))
        if config.steps and not self._stopping():
            self.train()
            end = config.steps if self.budget.over is None else self.step
            self._evaluate_once(short_name(config.algorithm.name).upper(), Position(config.sft.steps, end))

    def _evaluate_once(self, name: str, at: Position) -> None:
        """Evaluate if the run stands there and has not done so before it was stopped."""
        rows = {(r["name"], r["step"]): r for r in self.folder.rows("eval.jsonl")}
        known = self.world.agree(rows.get((name, at.step)))
        if known is not None:
            tasks = {(r["name"], r["step"]): r["success"] for r in self.folder.rows("eval-tasks.jsonl")}
            self.results.append(Evaluation.from_row(known, tasks[name, at.step]))
        elif (self.position.sft, self.position.step) == (at.sft, at.step) and not self._stopping():
            self.results.append(dataclasses.replace(self.evaluate(name), trees=()))  # they are saved; a run has many

    def cold_start(self) -> None:
        """Supervised learning on demonstrations, from where it stands; the optimiser starts afresh for RL."""
        config = self.config.sft
        if self.position.sft >= config.steps and not self.position.in_sft:
            return
        learner = Learner(self.model, dataclasses.replace(self.config.learner, lr=config.lr), world=self.world)
        if self.position.in_sft and self._start is not None:
            assembly.restore_learner(self._start, learner, self.device)
        self._active, self.position.in_sft, self._consistent = learner, True, learner.steps
        demos = demonstrations(
            self.make_env,
            self.renderer,
            count=config.steps * config.batch,
            task_seed=config.task_seed,
            seed=self.config.seed,
            flawed_share=config.flawed_share,
            begin=self.position.sft * config.batch,
        )
        with Live(self.console, show=self.world.main) as live:
            bar = live.bar("cold start", config.steps)
            bar.set(self.position.sft)
            while self.position.sft < config.steps and not self._stopping():
                begin = time.perf_counter()
                trees = [next(demos) for _ in range(config.batch)]
                try:
                    with self.interrupts.held():
                        metrics = learner.imitate(trees)
                        self.guards.finite_step()
                except NonFiniteError as error:
                    self._on_nonfinite(error)
                    metrics = {"skipped_steps": 1.0}
                metrics["seconds"] = time.perf_counter() - begin
                self.tracker.log("sft", self.position.sft, metrics)
                self.position.sft += 1
                self._consistent = learner.steps
                bar.advance(f"loss {metrics.get('loss', float('nan')):.3f}")
                if self.position.sft < config.steps:  # the last one is saved below, as the start of RL
                    self._save_if_due(self.position.sft, last=False)
        demos.close()
        if self.position.sft == config.steps:
            self._active, self.position.in_sft, self._consistent = self.learner, False, self.learner.steps
            self._sync()
            self._save_or_warn()  # also frees the cold start's optimiser

    def train(self) -> None:
        """RL from the current step to ``config.steps``."""
        config = self.config
        self._set_reference()
        for step in range(1, self.step + 1):
            self._evaluate_on_the_way(step)
        with Live(self.console, show=self.world.main) as live:
            bar = live.bar(short_name(config.algorithm.name), config.steps)
            bar.set(self.step)
            while self.step < config.steps and not self._stopping() and not self._spent():
                metrics = self.train_step(live)
                bar.set(
                    self.step,
                    note=f"reward {metrics['reward']:+.2f}  success {metrics['success']:.0%}  "
                    f"forks {metrics['forks']:.0f}  {metrics['seconds_rollout']:.0f}+{metrics['seconds_update']:.0f} s",
                )
                self.budget.step_took(metrics)
                self._raise_alarms(self.guards.check(self.step - 1, metrics))
                self._save_if_due(self.step, last=self.step == config.steps or self._spent())
                self._evaluate_on_the_way(self.step)
        if self.budget.over is not None and self.step:
            self._save_or_warn(fatal=True)  # it may have met its end in an evaluation

    def _evaluate_on_the_way(self, step: int) -> None:
        """After ``step``, where ``eval.every`` asks for it; of a resumed run, what it has not done or not yet told."""
        every = self.config.eval.every
        if every and step % every == 0 and step < self.config.steps:
            self._evaluate_once(f"step {step}", Position(self.config.sft.steps, step))
            if step == self.step and self.world.agree(self._best()) == self.position.name:
                self._save_or_warn()

    def train_step(self, live: Live) -> dict[str, float]:
        """Trees of this step (sampled now, or ahead), update, log."""
        start = time.perf_counter()
        step = self.step
        if self._batch is None:
            own = self._sample_own(step, self.position.drawn, live)
            self._batch = self._complete(step, self.position.drawn, own, live)
        batch = self._batch
        whole = [t for t in batch.trees if t.leaves()]
        if not whole:
            first = batch.trees[0].void_leaves()[0].outcome
            why = first.stop_reason if first is not None else ""
            raise TrainingError(f"infrastructure spoilt every rollout of step {step}: {why}")
        if self.config.log.replay:
            self._save_trees(f"train-{step:06d}", batch.trees, folder="replay")
        sampled = time.perf_counter()
        ahead: Future[tuple[list[Tree], float]] | None = None
        if self.config.rollout.overlap != "off" and step + 1 < self.config.steps:
            ahead = _in_thread(lambda: self._sample_own(step + 1, batch.drawn, live))
        metrics = self._update(whole, live)
        updated = time.perf_counter()
        following = None
        if ahead is not None:
            following = self._complete(step + 1, batch.drawn, ahead.result(), live)
        self._sync()
        metrics.update(tree_metrics([*batch.trees, *batch.dropped]))
        if batch.dropped:
            metrics["groups_dropped"] = float(len(batch.dropped))
        metrics["seconds_rollout"] = batch.seconds
        metrics["seconds_update"] = updated - sampled
        # From here to the end the step is done: nothing below can lose it.
        self.position = dataclasses.replace(self.position, step=step + 1, drawn=batch.drawn)
        self._batch, self._consistent = following, self.learner.steps
        metrics["seconds_step"] = time.perf_counter() - start
        self.tracker.log("train", step, metrics)
        if step % self.config.log.trees_every == 0 and self.config.log.trees:
            self._show_trees(step, whole)
        return metrics

    def _update(self, trees: list[Tree], live: Live) -> dict[str, float]:
        """The update; its signals are held, but for the moments between packs."""
        bar = live.bar("  update", 1)
        stale = self.config.rollout.overlap != "off"

        def progress(done: int, total: int) -> None:
            bar.set(done, total)
            self.interrupts.check()

        with self.interrupts.held():
            metrics = self.learner.update(
                trees,
                self._stale_algorithm if stale else self.algorithm,
                old_policy="rollout" if stale and self.config.rollout.correction == "ratio" else "current",
                progress=progress,
            )
        bar.remove()
        return metrics

    # ------------------------------------------------------------------ rollouts

    def _sample_own(
        self, step: int, drawn: int, live: Live, attempt: int = 0, missing: int | None = None
    ) -> tuple[list[Tree], float]:
        """This process's share of a round of a step's prompts, and the seconds it took.

        Talks to no other process of the run, so it may go on in a thread.
        """
        begin = time.perf_counter()
        config = self.config
        job = assembly.training_job(config, self.family, step, drawn, attempt, missing)
        part = self.world.part(len(job.tasks))
        bar = live.bar("  rollouts", len(part) * self.algorithm.M)
        trees = self.rollouts.sample(job.part(part), lambda *_: bar.advance())
        bar.remove()
        return trees, time.perf_counter() - begin

    def _complete(self, step: int, drawn: int, own: tuple[list[Tree], float], live: Live) -> Batch:
        """Everybody's trees of the step; what the algorithm does not keep is replaced.

        Also where a signal came meanwhile: the run that goes on from here must have drawn what it would have.
        """
        begin = time.perf_counter()
        mine, seconds = own

        def everybodys(trees: list[Tree]) -> list[Tree]:
            return [t for part in self.world.gather(trees) for t in part]

        def more(attempt: int, missing: int, before: int) -> list[Tree]:
            return everybodys(self._sample_own(step, drawn + before, live, attempt, missing)[0])

        trees, dropped, took = assembly.fill_up(everybodys(mine), self.config.rollout.prompts, self.algorithm, more)
        return Batch(trees, dropped, drawn + took, seconds + time.perf_counter() - begin)

    def evaluate(self, name: str) -> Evaluation:
        """Held-out success now; logged, its first trees saved."""
        config = self.config
        begin = time.perf_counter()
        self.model.train(False)
        tasks = self.family.task_ids(config.env.eval_split, config.eval.task_seed, 0, config.eval.tasks)
        part = self.world.part(len(tasks))
        with Live(self.console, show=self.world.main) as live:
            bar = live.bar(f"evaluate: {name}", len(part))
            job = Job(tuple(tasks), (config.seed, 7), "eval").part(part)
            own = self.rollouts.sample(job, lambda *_: bar.advance())
        trees = [t for share in self.world.gather(own) for t in share]
        self._sync()  # what this left in the cache must not decide how the next step is batched
        result = summarise(trees, name=name, step=self.step, seconds=time.perf_counter() - begin)
        self.budget.evaluation_took(result.seconds)
        slug = {"before": "before", "cold start": "after-sft"}.get(name, f"after-{name.lower().replace(' ', '-')}")
        self._save_trees(f"eval-{slug}", trees)
        self.tracker.evaluation(result.row())
        return result

    def close(self) -> None:
        """Release the engine and the folder. Idempotent."""
        self.rollouts.close()
        self.tracker.close()
        self.folder.close()

    # ------------------------------------------------------------------ checkpoints

    def save(self) -> Path:
        """A checkpoint of where the run stands (made at most once a position).

        Raises:
            OSError: the disk is full or fails; the checkpoints before it are untouched.
        """
        name = self.position.name
        final = self.store.folder / name
        whole = None
        if self.learner.sharded:
            whole = assembly.WholeState.gather(self._active)
        if self.world.main and final not in self.store.paths():
            more = {"algorithm": self.config.algorithm.name, "guards": self.guards.state()}
            with self.interrupts.held(), self.store.writing(name) as folder:
                assembly.write_state(folder, self.position, self.model, self.tokenizer, self._active, more, whole)
                if self._batch is not None:
                    write_trees(folder / "trees.jsonl.gz", self._batch.trees)
                    write_trees(folder / "dropped.jsonl.gz", self._batch.dropped)
                    (folder / "batch.json").write_text(json.dumps({"drawn": self._batch.drawn}), encoding="utf-8")
            best = self._best()
            self.store.prune(self.config.keep, [best] if best else [])
        return final

    def _save_if_due(self, done: int, *, last: bool) -> None:
        every = self.config.save_every
        if (every and done % every == 0) or last or self._stopping() or self._unsaved:
            self._save_or_warn(fatal=last or self.interrupts.stop)

    def _save_or_warn(self, *, fatal: bool = False) -> None:
        """Save; a full disk is told, tried again after the next step, and fatal only at the end."""
        failed = ""
        try:
            self.save()
        except OSError as error:
            failed = str(error)
        failed = self.world.agree(failed)
        self._unsaved = bool(failed)
        if failed:
            points = self.store.paths()
            message = f"no checkpoint could be written: {failed}; " + (
                f"{points[-1].name} is the newest" if points else "there is none yet"
            )
            self._raise_alarms([Alarm(self.step, "checkpoint", None, None, message)])
            if fatal:
                raise TrainingError(message)

    def _best(self) -> str | None:
        """The checkpoint name of the best evaluation on the way (the earliest of equals), if any are made."""
        if not (self.config.keep_best and self.config.eval.every):
            return None
        rows = [r for r in self.folder.rows("eval.jsonl") if r["step"] > 0]
        best = max(rows, key=lambda r: (r["success"], -r["step"]), default=None)
        return None if best is None else Position(step=best["step"]).name

    def _save_now(self) -> None:
        """After a second signal: save if memory holds a consistent point, else say where the last one is."""
        if self._active.steps == self._consistent and not self.learner.sharded:  # that would need every process
            self._active.optimizer.zero_grad(set_to_none=True)  # of packs that were already through
            try:
                self.tracker.say(f"Stopped; saved at {self.save().name}.")
                return
            except OSError as error:
                self.tracker.say(f"Stopped; no checkpoint could be written: {error}")
        points = self.store.paths()
        self.tracker.say(
            "Stopped, with nothing consistent to save. "
            + (f"--resume goes on from {points[-1].name}." if points else "--resume begins again.")
        )

    def _claim(self, resume: bool) -> tuple[Path | None, list[str]]:
        """The checkpoint to go on from (None: begin), and what there is to say about it."""
        record = self.folder.read_config()
        if record is None:
            return None, []
        if not resume:
            raise ConfigError(
                f"run folder {self.folder.path} already holds a run; add --resume to go on, or choose another --out"
            )
        try:
            old = options.load(RunConfig, record["config"]).to_dict()
        except ConfigError as error:
            raise ConfigError(f"--resume: the folder's configuration cannot be read by this release: {error}") from None
        new = self.config.to_dict()
        for key in FREE_ON_RESUME:
            for values in (old, new):
                *sections, name = key.split(".")
                for part in sections:
                    values = values[part]
                values.pop(name, None)
        changed = assembly.differences(json.loads(json.dumps(old)), json.loads(json.dumps(new)))
        if changed:
            raise ConfigError(
                f"--resume: the configuration differs from the run's in {'; '.join(changed)}. "
                "Start another run, or give the same values"
            )
        point, said = self.store.newest()
        if said:
            said.append(f"going on from {point.name}" if point else "no whole checkpoint is left: beginning again")
        return point, said

    def _restore(self, point: Path) -> None:
        state = assembly.read_state(point)
        self.position = assembly.position_of(state)
        self.guards.restore(state["guards"])
        if not self.position.in_sft:
            assembly.restore_learner(point, self.learner, self.device)
        if (point / "batch.json").exists():
            drawn = json.loads((point / "batch.json").read_text(encoding="utf-8"))["drawn"]
            self._batch = Batch(read_trees(point / "trees.jsonl.gz"), read_trees(point / "dropped.jsonl.gz"), drawn)
        assembly.restore_random(point)
        at = self.position

        def kept(log: str, row: Mapping[str, Any]) -> bool:
            if row.get("phase") == "sft":
                return bool(row["step"] < at.sft)
            if "phase" in row or log == "alarms.jsonl":
                return bool(row["step"] < at.step)
            if row["name"] == "cold start":
                return not at.in_sft
            return bool(row["step"] <= at.step)

        for log in _LOGS:
            if rows := self.folder.rows(log):
                self.folder.keep_rows(log, [r for r in rows if kept(log, r)])
        # Rows of steps that are done again may still stand there: a follower reads what the main process prunes.
        done = (r for r in self.folder.rows("metrics.jsonl") if r.get("phase") == "train" and r["step"] < at.step)
        self.budget.count(done)

    def _forget(self) -> None:
        """Nothing was saved: the logs of what is done again go, but for the untouched model's evaluation."""
        for log in _LOGS:
            if rows := self.folder.rows(log):
                self.folder.keep_rows(log, [r for r in rows if r.get("name") == "before"])

    # ------------------------------------------------------------------ inside

    def _stopping(self) -> bool:
        """Whether any process of the run was asked to stop; all of them get the same answer."""
        if self.world.any(self.interrupts.stop):
            self.interrupts.request_stop()
        return self.interrupts.stop

    def _spent(self) -> bool:
        """Whether the budget leaves no room for another step; all processes get the same answer."""
        budget = self.budget
        if budget.over is None:
            met = budget.met()
            if self.world.any(met is not None):
                budget.over = met or "another process is out of time"
                self.tracker.say(f"{budget.over}: training ends after step {self.step} of {self.config.steps}")
        return budget.over is not None

    def _raise_alarms(self, alarms: Sequence[Alarm]) -> None:
        """Log alarms; stop the run, with a checkpoint, for one that asks for it.

        Raises:
            TrainingError: the alarm says stop.
        """
        for alarm in alarms:
            self._alarms.append(alarm)
            self.tracker.alarm(alarm)
        if fatal := next((a for a in alarms if a.stop), None):
            self._save_or_warn()  # a full disk must not hide why the run stops
            raise TrainingError(f"stopped by a guard: {fatal.message}")

    def _on_nonfinite(self, error: NonFiniteError) -> None:
        """The learner skipped an optimiser step."""
        stop = self.guards.nonfinite_step(str(error))
        self._raise_alarms([Alarm(self.step, "nonfinite", None, None, f"step {self.step}: {error}")])
        if stop:
            raise TrainingError(stop)

    def _report_stop(self, reason: str) -> None:
        """``stopped.json``: why, the last alarms and metrics, and what to go on from."""
        points = self.store.paths()
        report = {
            "reason": reason,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "position": dataclasses.asdict(self.position),
            "newest_checkpoint": points[-1].name if points else None,
            "best_checkpoint": self._best(),
            "alarms": [dataclasses.asdict(a) for a in self._alarms[-20:]],
            "last_metrics": self.folder.rows("metrics.jsonl")[-5:],
        }
        if self.world.main:
            try:
                write_atomic(self.folder.path / "stopped.json", json.dumps(report, indent=1).encode())
            except OSError as error:
                self.tracker.say(f"stopped.json cannot be written: {error}")

    def _set_reference(self) -> None:
        """For a KL penalty: the policy that RL starts from, kept in the folder so that a resumed run has the same."""
        if "reference" not in getattr(self.algorithm, "needs", ()):
            return
        folder = self.folder.path / "reference"
        sharded = self.learner.sharded and self.step == 0
        whole = sharding.whole_state(self.model, keep=self.world.main) if sharded else None
        if self.step == 0 and self.world.main:
            fresh = folder.with_name(".reference")
            for old in (fresh, folder):
                shutil.rmtree(old, ignore_errors=True)
            self.model.save_pretrained(fresh, state_dict=whole)
            self.tokenizer.save_pretrained(fresh)
            fresh.replace(folder)
        self.world.barrier()
        if not folder.exists():
            raise ConfigError(f"{folder} is gone, and the KL penalty needs it; bring it back, or start another run")
        reference, _ = assembly.load_policy(str(folder), self.device)
        self.learner.set_reference(reference)

    def _sync(self) -> None:
        """New weights to whoever samples; also clears its caches."""
        config = self.config
        shares = config.rollout.engine == "torch" and config.rollout.overlap == "off" and not config.rollout.actors
        if self.learner.sharded:
            weights = sharding.whole_weights(self.model)
        elif config.learner.lora.rank and not shares:
            weights = merged_weights(self.model)  # who samples has a model without adapters
        else:
            weights = dict(self.model.named_parameters())
        self.rollouts.sync(weights)

    def _show_trees(self, step: int, trees: list[Tree]) -> None:
        """The step's first trees, with advantages, for the viewer."""
        shown = trees[: self.config.log.trees]
        for tree, credit in zip(shown, self.algorithm.advantages(trees), strict=False):
            tree.meta["advantages"] = {
                str(leaf): sum(a) / max(len(a), 1) if isinstance(a, Sequence) else a
                for (leaf, node), a in credit.items()
                if leaf == node
            }
        for tree in shown:
            tree.meta["step"] = step
        self._save_trees(f"train-{step:06d}", shown)

    def _save_trees(self, name: str, trees: Sequence[Tree], folder: str = "trees") -> None:
        """Write trees; a full disk costs the trees, not the run."""
        for tree in trees:
            tree.meta.setdefault("step", self.step)
            if folder == "trees":
                used = {t for node in tree.nodes if node.kind == "action" for t in node.tokens}
                tree.meta["pieces"] = {str(t): self._piece(t) for t in sorted(used)}
        try:
            self.folder.save_trees(name, trees, folder)
        except OSError as error:
            self.tracker.say(f"{folder}/{name} cannot be written: {error}")

    def _record(self, *, resumed: bool) -> dict[str, Any]:
        """``config.json``. A continuation keeps when the run began, and says when it went on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        before = self.folder.read_config() if self.world.main else None
        return {
            "id": (before or {}).get("id") or secrets.token_hex(6),
            "config": self.config.to_dict(),
            "seed": self.config.seed,
            "algorithm": self.config.algorithm.name,
            "env_id": self.config.env.id,
            "model": (before or {}).get("model")
            or {"name": self.config.model, "from": models.provenance(self.config.model)},
            "versions": {"python": platform.python_version(), **{p: _version(p) for p in _PACKAGES}},
            "machine": {
                "platform": platform.platform(),
                "device": self.device,
                "precision": self.learner.precision,
                "attention": self.learner.attention,
                "threads": torch.get_num_threads(),
                "processes": self.world.size,
            },
            "started": before["started"] if before and resumed else now,
            "resumed": [*(before or {}).get("resumed", []), {"at": now, "step": self.step}] if resumed else [],
            "command": sys.argv,
        }


def compare(before: Evaluation, after: Evaluation) -> tuple[float, float, float]:
    """Paired difference in success over the tasks both have: (mean, low, high) at 95 %."""
    shared = sorted(set(before.per_task) & set(after.per_task))
    return paired_difference([before.per_task[t] for t in shared], [after.per_task[t] for t in shared])


def for_stale_trees(config: RunConfig, algorithm: Any) -> Any:
    """The algorithm that updates on trees one step old.

    Raises:
        ConfigError: it has no importance correction to switch on.
    """
    if config.rollout.overlap == "off" or config.rollout.correction == "ratio":
        return algorithm
    if not hasattr(algorithm, "tis_cap"):
        raise ConfigError(
            f"algorithm {config.algorithm.name!r} has no tis_cap; with rollout.overlap use rollout.correction=ratio"
        )
    if algorithm.tis_cap is not None:
        return algorithm
    return dataclasses.replace(algorithm, tis_cap=config.rollout.tis_cap)


def _enough_tasks(family: TaskFamily, config: RunConfig) -> None:
    """Raises:
    ConfigError: fewer held-out tasks than an evaluation asks for.
    """
    split = config.env.eval_split
    size = family.size(split)
    if size is not None and size < config.eval.tasks:
        raise ConfigError(
            f"eval.tasks={config.eval.tasks}, and split {split!r} of {family.name!r} has {size}; set eval.tasks={size} "
            "or less, or choose another env.eval_split"
        )


def _in_thread(call: Callable[[], Any]) -> Future[Any]:
    """Run ``call`` in a daemon thread: an interrupted run need not wait for it."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="arpo-ahead", daemon=True).start()
    return future


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
