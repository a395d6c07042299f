"""The loop: cold start, then rollouts -> advantages -> update -> weights to the engine, with evaluation around it.

The trainer knows no algorithm and no task by name. A run is a function of its configuration: every random draw of step
s comes from (seed, s), the engine's cache is cleared between phases, and a checkpoint holds everything else. So a run
that was killed at any moment and resumed ends with the weights of one that never was.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from arpo_algo import assembly, distributed, engines, sharding
from arpo_algo.algorithms import make, short_name
from arpo_algo.algorithms.contract import needs
from arpo_algo.allocator import keep_freed_memory
from arpo_algo.assembly import Position
from arpo_algo.batches import Batches
from arpo_algo.budget import Budget
from arpo_algo.checkpoint import CheckpointStore, seed_everything
from arpo_algo.config import RunConfig
from arpo_algo.distributed import World
from arpo_algo.envs import TextEnv
from arpo_algo.errors import ConfigError, NonFiniteError, TrainingError
from arpo_algo.evaluation import Evaluation, summarise
from arpo_algo.guards import Alarm, Guards
from arpo_algo.interrupts import Interrupts
from arpo_algo.learner import Learner
from arpo_algo.lora import merged_weights
from arpo_algo.metrics import tree_metrics
from arpo_algo.reference import set_reference
from arpo_algo.rendering import Renderer
from arpo_algo.resume import best_checkpoint, claim, fingerprint, forget, prune
from arpo_algo.runfolder import RunFolder, write_atomic
from arpo_algo.runrecord import run_record, stop_record
from arpo_algo.sft import demonstrations
from arpo_algo.tracking import Live, Tracker
from arpo_algo.tree import Tree
from arpo_algo.workers.base import Job, LocalRollouts, Rollouts


class Trainer:
    """One run in one folder.

    Everything that can be refused is refused here, before any long work: the algorithm's options, the
    environment (its tools are started), the model, the budgets, a folder that belongs to another run.

    Raises:
        ConfigError: a value that cannot be used, or a folder that belongs to another run.
        ToolUnavailable: a tool does not work on this machine.
        TrainingError: another process of the run did not come, or has died; the disk is full.
    """

    @distributed.explained()
    def __init__(self, config: RunConfig, out: Path, *, resume: bool = False, console: Console | None = None) -> None:
        self.config = config
        self.console = console or Console()
        self.budget = Budget(config.budget)
        self.algorithm = make(config.algorithm.name, **config.algorithm.options)
        engines.choose(config.rollout.engine, config.rollout.engine_options)  # refuses what it does not know
        self._stale_algorithm = assembly.for_stale_trees(config, self.algorithm)
        self.device = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        self.world = World.join(self.device)
        self.device = self.world.local_device(self.device)
        gpu = torch.device(self.device)
        if gpu.type == "cuda" and gpu.index is not None:
            torch.cuda.set_device(self.device)  # NCCL and FSDP take the current GPU, not the model's
        if config.rollout.prompts % self.world.size:
            raise ConfigError(
                f"rollout.prompts={config.rollout.prompts} cannot be dealt evenly to {self.world.size} processes; "
                f"choose a multiple of {self.world.size}"
            )
        facts = assembly.look_at_env(config)  # starts the tools, or says why not
        self.family = facts.family
        assembly.enough_tasks(facts.family, config)
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
        self._unsaved = False  # a checkpoint was due and could not be written
        self._consistent = 0  # optimiser steps that the weights at ``position`` have seen
        self._alarms: list[Alarm] = []
        try:
            found = claim(self.folder, self.store, config, self.family, resume=resume) if self.world.main else None
            start, said = self.world.agree(found) or (None, [])
            seed_everything(config.seed)
            source = str(start / "model") if start is not None else config.model
            self.model, self.tokenizer = assembly.load_policy(source, self.device)
            self.renderer = Renderer(self.tokenizer)
            self._piece = functools.cache(lambda token: str(self.tokenizer.decode([token])))
            self.rollouts = self._make_rollouts(source)
            self.learner = assembly.new_learner(config, self.model, self.algorithm, self.world)
            self._active = self.learner  # whose optimiser a checkpoint holds
            self.batches = Batches(config, self.family, self.rollouts, self.world, self.algorithm)
            self._start = start
            if start is not None:
                said += self._restore(start)
            else:
                forget(self.folder)
            record = self._record(resumed=start is not None) if self.world.main else {}
            self.folder.write_config(record)
            self.folder.drop("stopped.json")  # it goes on
            begins = {"sft": self.position.sft, "train": self.step, "eval": self.step + 1}
            self.tracker = Tracker(self.folder, self.console, config.log, record, begins=begins)
        except BaseException:
            if hasattr(self, "rollouts"):
                self.rollouts.close()
            self.folder.close()
            raise
        #: Whether everything that the configuration asks for is done, known when :meth:`run` returns.
        self.complete = False
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
                altogether, a disk that takes no checkpoint or no rows, another process of the run that has died.
                ``stopped.json`` in the folder says more.
            KeyboardInterrupt: a second signal.

        Whatever ends it: what memory holds that is consistent is saved.
        """
        with self.interrupts.listening():
            try:
                self._run()
            except KeyboardInterrupt:
                self._save_now()
                raise
            except Exception as error:
                self._save_now()
                kind = "" if isinstance(error, TrainingError) else f"{type(error).__name__}: "
                self._report_stop(f"{kind}{error}")
                raise
        return self.results

    @distributed.explained()
    def _run(self) -> None:
        config = self.config
        done = True
        if config.eval.before:
            done = self._evaluate_once("before", Position())
        if config.sft.steps:
            self.cold_start()
            done = self._evaluate_once("cold start", Position(config.sft.steps))
        if config.steps:
            done = not self._stopping()
            if done:
                self.train()
                end = config.steps if self.budget.over is None else self.step
                at = Position(config.sft.steps, end)
                done = self._evaluate_once(short_name(config.algorithm.name).upper(), at)
        self.complete = done
        if lost := self.world.agree(self.tracker.flush()):
            raise TrainingError(
                f"rows could not be written and are lost: {lost}; make room and --resume, which makes evaluations again"
            )

    def _evaluate_once(self, name: str, at: Position) -> bool:
        """Evaluate if the run stands there and has not done so before it was stopped; whether it is done now."""
        rows = (
            {(r["name"], r["step"]): r for r in self.folder.rows(log)}.get((name, at.step))
            for log in ("eval.jsonl", "eval-tasks.jsonl")
        )
        row, tasks = self.world.agree(tuple(rows))
        if row is not None and tasks is not None:  # one alone is what a full disk has left
            self.results.append(Evaluation.from_row(row, tasks["success"]))
            return True
        if (self.position.sft, self.position.step) != (at.sft, at.step) or self._stopping():
            return False
        self.results.append(dataclasses.replace(self.evaluate(name), trees=()))  # they are saved; a run has many
        return True

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
        if "reference" in needs(self.algorithm):
            where, begins = self.folder.path / "reference", self.step == 0
            set_reference(where, self.learner, self.tokenizer, self.world, device=self.device, begins=begins)
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
            if step == self.step and self.world.agree(best_checkpoint(self.folder, self.config)) == self.position.name:
                self._save_or_warn()

    def train_step(self, live: Live) -> dict[str, float]:
        """Trees of this step (sampled now, or ahead), update, log."""
        start = time.perf_counter()
        step = self.step
        batch = self.batches.of(step, self.position.drawn, live)
        whole = batch.whole
        if not whole:
            first = batch.trees[0].void_leaves()[0].outcome
            why = first.stop_reason if first is not None else ""
            raise TrainingError(f"infrastructure spoilt every rollout of step {step}: {why}")
        if self.config.log.replay:
            self._save_trees(f"train-{step:06d}", batch.trees, folder="replay")
        sampled = time.perf_counter()
        more = self.config.rollout.overlap != "off" and step + 1 < self.config.steps
        ahead = self.batches.ahead(step + 1, batch.drawn, live) if more else None
        metrics = self._update(whole, live)
        updated = time.perf_counter()
        following = None
        if ahead is not None:
            following = self.batches.complete(step + 1, batch.drawn, ahead.result(), live)
        self._sync()
        metrics.update(tree_metrics([*batch.trees, *batch.dropped]))
        if batch.dropped:
            metrics["groups_dropped"] = float(len(batch.dropped))
        metrics["seconds_rollout"] = batch.seconds
        metrics["seconds_update"] = updated - sampled
        # From here to the end the step is done: nothing below can lose it.
        self.position = dataclasses.replace(self.position, step=step + 1, drawn=batch.drawn)
        self.batches.ready, self._consistent = following, self.learner.steps
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
        self.batches.close()
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
        self.tracker.flush()  # what it tells of is not done again
        whole = None
        if self.learner.sharded:
            whole = assembly.WholeState.gather(self._active)
        if self.world.main and final not in self.store.paths():
            more = {"algorithm": self.config.algorithm.name, "guards": self.guards.state()}
            with self.interrupts.held(), self.store.writing(name) as folder:
                assembly.write_state(folder, self.position, self.model, self.tokenizer, self._active, more, whole)
                self.batches.write(folder)
            best = best_checkpoint(self.folder, self.config)
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
            self._raise_alarms([self._alarm("checkpoint", message)])
            if fatal:
                raise TrainingError(message)

    def _save_now(self) -> None:
        """Where the run breaks off: save if memory holds a consistent point, else say where the last one is."""
        consistent = self._active.steps == self._consistent
        begun = self.position.sft or self.position.step
        if begun and consistent and not self.learner.sharded:  # that would need every process
            self._active.optimizer.zero_grad(set_to_none=True)  # of packs that were already through
            try:
                self.tracker.say(f"Saved at {self.save().name}; --resume goes on from there.")
                return
            except OSError as error:
                self.tracker.say(f"No checkpoint could be written: {error}")
        points = self.store.paths()
        self.tracker.say(
            "Nothing new could be saved. "
            + (f"--resume goes on from {points[-1].name}." if points else "--resume begins again.")
        )

    def _restore(self, point: Path) -> list[str]:
        """Go on from a checkpoint; returns what there is to say about it."""
        state = assembly.read_state(point)
        self.position = assembly.position_of(state)
        self.guards.restore(state["guards"])
        if not self.position.in_sft:
            assembly.restore_learner(point, self.learner, self.device)
        self.batches.read(point)
        assembly.restore_random(point)
        prune(self.folder, self.position)
        # Rows of steps that are done again may still stand there: a follower reads what the main process prunes.
        rows = self.folder.rows("metrics.jsonl")
        self.budget.count(r for r in rows if r.get("phase") == "train" and r["step"] < self.step)
        ahead = self.config.rollout.overlap != "off" and 0 < self.step < self.config.steps
        if not ahead or self.batches.ready is not None:
            return []
        return [
            f"{point.name} holds no trees sampled ahead, the run had ended there: step {self.step} samples with the "
            "weights of now. A run that had these steps from its beginning would come to other weights"
        ]

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

    def _alarm(self, name: str, message: str) -> Alarm:
        """Of the step under way, in its phase."""
        if self.position.in_sft:
            step = self.position.sft
            return Alarm(step, name, None, None, f"cold start, step {step}: {message}", phase="sft")
        return Alarm(self.step, name, None, None, f"step {self.step}: {message}")

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
        self._raise_alarms([self._alarm("nonfinite", str(error))])
        if stop:
            raise TrainingError(stop)

    def _report_stop(self, reason: str) -> None:
        """``stopped.json``: why, the last alarms and metrics, and what to go on from."""
        points = self.store.paths()
        report = stop_record(
            reason,
            self.position,
            newest=points[-1].name if points else None,
            best=best_checkpoint(self.folder, self.config),
            alarms=self._alarms,
            metrics=self.folder.rows("metrics.jsonl"),
        )
        if self.world.main:
            try:
                write_atomic(self.folder.path / "stopped.json", json.dumps(report, indent=1).encode())
            except OSError as error:
                self.tracker.say(f"stopped.json cannot be written: {error}")

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
        return run_record(
            self.config,
            self.folder.read_config(),
            resumed_at=self.step if resumed else None,
            machine={
                "device": self.device,
                "precision": self.learner.precision,
                "attention": self.learner.attention,
                "threads": torch.get_num_threads(),
                "processes": self.world.size,
            },
            questions=fingerprint(self.family, self.config),
        )
