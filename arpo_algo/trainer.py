"""The loop: cold start, then rollouts -> advantages -> update -> weights to the engine, with evaluation around it.

The trainer knows no algorithm and no task by name. Every random draw of step s comes from (seed, s), so that a
resumed run continues as the one that was stopped.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gymnasium
import torch
from rich.console import Console

import arpo_env  # noqa: F401 (registers the ids)
from arpo_algo import engines, models
from arpo_algo.algorithms import make
from arpo_algo.config import RunConfig
from arpo_algo.engines.base import Sampling
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.evaluation import Evaluation, evaluate
from arpo_algo.learner import Learner
from arpo_algo.rendering import Renderer
from arpo_algo.runfolder import RunFolder
from arpo_algo.sampler import RolloutConfig, TextEnv, TreeSampler
from arpo_algo.sft import demonstrations
from arpo_algo.stats import paired_difference
from arpo_algo.tracking import Live, Tracker
from arpo_algo.tree import Tree
from arpo_env.env import AgentEnv

_PACKAGES = ("arpo", "torch", "transformers", "gymnasium", "numpy", "bm25s", "reasoning-gym")
_SHOWN_TREES = 4  # trees saved a step, for the viewer


class Trainer:
    """One run in one folder.

    Everything that can be refused is refused here, before any long work: the algorithm's options, the
    environment (its tools are started), the model, the budgets.

    Raises:
        ConfigError: a value that cannot be used, or a folder that belongs to another run.
        ToolUnavailable: a tool does not work on this machine.
    """

    def __init__(self, config: RunConfig, out: Path, *, resume: bool = False, console: Console | None = None) -> None:
        self.config = config
        self.console = console or Console()
        self.algorithm = make(config.algorithm.name, **config.algorithm.options)
        rollout = config.rollout
        engine = engines.choose(rollout.engine, rollout.engine_options)
        self.rollout = RolloutConfig(
            M=self.algorithm.M,
            N=self.algorithm.N,
            branching=self.algorithm.branching,
            sampling=Sampling(rollout.temperature),
            max_turn_tokens=rollout.max_turn_tokens,
            max_tokens=rollout.max_tokens,
            tool_lag=rollout.tool_lag,
        )
        self.eval_sampling = Sampling(config.eval.temperature, config.eval.top_p, config.eval.top_k)
        env = self.make_env()  # starts the tools, or says why not
        inner = env.unwrapped
        if not isinstance(inner, AgentEnv):
            raise ConfigError(f"env.id={config.env.id!r} is not an AgentEnv but {type(inner).__name__}")
        self.family = inner.family.name
        env.close()
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        self.folder = RunFolder(out)
        try:
            start = self._claim(resume)
            source = str(start / "model") if start is not None else config.model
            self.model, self.tokenizer = models.load(source, device=self.device)
            self.renderer = Renderer(self.tokenizer)
            setup = engines.EngineSetup(self.model, self.tokenizer, source, rollout.slots, rollout.max_tokens)
            self.engine = engine.build(setup)
            self.learner = Learner(
                self.model, config.learner, temperature=rollout.temperature, algorithm=self.algorithm
            )
            self.step = 0
            self.drawn = 0  # training tasks drawn so far
            if start is not None:
                self._restore(start)
            else:
                self.folder.write_config(self._record())
        except BaseException:
            self.folder.close()
            raise
        self.tracker = Tracker(self.folder, self.console)
        self._stop = threading.Event()

    # ------------------------------------------------------------------ environments and tasks

    def make_env(self) -> TextEnv:
        """A fresh environment of the run; also the factory that samplers get."""
        try:
            env: TextEnv = gymnasium.make(self.config.env.id, disable_env_checker=True, **self.config.env.options)
        except (gymnasium.error.NameNotFound, gymnasium.error.NamespaceNotFound) as error:
            raise ConfigError(f"env.id={self.config.env.id!r}: {error}") from None
        return env

    def task_ids(self, split: str, seed: int, begin: int, count: int) -> list[str]:
        return [f"{self.family}/{split}/{seed}/{i}" for i in range(begin, begin + count)]

    # ------------------------------------------------------------------ the run

    def run(self) -> list[Evaluation]:
        """Everything the configuration asks for; returns the evaluations, in order.

        Interrupt once (SIGINT): the step under way is finished and saved. Twice: stop now.

        Raises:
            TrainingError: non-finite numbers, or rollouts that infrastructure spoilt altogether.
        """
        config = self.config
        results: list[Evaluation] = []
        with self._interruptible():
            fresh = self.step == 0 and not self.folder.checkpoints
            if fresh and config.eval.before:
                results.append(self.evaluate("before"))
            if fresh and config.sft.steps:
                self.cold_start()
                if not self._stop.is_set():
                    results.append(self.evaluate("cold start"))
            if config.steps and not self._stop.is_set():
                self.train()
                if not self._stop.is_set():
                    results.append(self.evaluate(config.algorithm.name.upper()))
        return results

    def cold_start(self) -> None:
        """Supervised learning on demonstrations; the optimiser starts afresh for RL."""
        config = self.config.sft
        learner = Learner(self.model, dataclasses.replace(self.config.learner, lr=config.lr))
        demos = demonstrations(
            self.make_env,
            self.renderer,
            count=config.steps * config.batch,
            task_seed=config.task_seed,
            seed=self.config.seed,
            flawed_share=config.flawed_share,
        )
        with Live(self.console) as live:
            bar = live.bar("cold start", config.steps)
            for step in range(config.steps):
                start = time.perf_counter()
                metrics = learner.imitate([next(demos) for _ in range(config.batch)])
                metrics["seconds"] = time.perf_counter() - start
                self.tracker.log("sft", step, metrics)
                bar.advance(f"loss {metrics['loss']:.3f}")
                if self._stop.is_set():
                    break
        demos.close()
        self._sync()

    def train(self) -> None:
        """RL from the current step to ``config.steps``."""
        config = self.config
        self._set_reference()
        sampler = TreeSampler(self.engine, self.renderer, self.make_env, self.rollout, workers=config.rollout.workers)
        try:
            with Live(self.console) as live:
                bar = live.bar(config.algorithm.name, config.steps)
                bar.set(self.step)
                while self.step < config.steps and not self._stop.is_set():
                    metrics = self.train_step(sampler, live)
                    self.step += 1
                    bar.set(
                        self.step,
                        note=f"reward {metrics['reward']:+.2f}  success {metrics['success']:.0%}  "
                        f"forks {metrics['forks']:.0f}  "
                        f"{metrics['seconds_rollout']:.0f}+{metrics['seconds_update']:.0f} s",
                    )
                    due = config.save_every and self.step % config.save_every == 0
                    if due or self.step == config.steps or self._stop.is_set():
                        self.save()
                    if config.eval.every and self.step % config.eval.every == 0 and self.step < config.steps:
                        self.evaluate(f"step {self.step}")
        finally:
            sampler.close()

    def train_step(self, sampler: TreeSampler, live: Live) -> dict[str, float]:
        """Sample a batch of trees, update, log."""
        start = time.perf_counter()
        self.model.train(False)
        trees, dropped = self._sample(sampler, live)
        sampled = time.perf_counter()
        whole = [t for t in trees if t.leaves()]
        if not whole:
            first = trees[0].void_leaves()[0].outcome
            raise TrainingError(f"infrastructure spoilt every rollout of step {self.step}: {first}")
        bar = live.bar("  update", 1)
        metrics = self.learner.update(whole, self.algorithm, progress=bar.set)
        bar.remove()
        self._sync()
        metrics.update(_tree_metrics([*whole, *dropped]))
        if dropped:
            metrics["groups_dropped"] = float(len(dropped))
        metrics["void"] = float(sum(len(t.void_leaves()) for t in trees))
        metrics["seconds_rollout"] = sampled - start
        metrics["seconds_update"] = time.perf_counter() - sampled
        self.tracker.log("train", self.step, metrics)
        credits = self.algorithm.advantages(whole)
        for tree, credit in zip(whole[:_SHOWN_TREES], credits, strict=False):
            tree.meta["advantages"] = {
                str(leaf): sum(a) / max(len(a), 1) if isinstance(a, Sequence) else a
                for (leaf, node), a in credit.items()
                if leaf == node
            }
        self._save_trees(f"train-{self.step:06d}", whole[:_SHOWN_TREES], self.step)
        return metrics

    def _sample(self, sampler: TreeSampler, live: Live) -> tuple[list[Tree], list[Tree]]:
        """The step's trees, and those that the algorithm did not keep (its ``keep`` and ``rounds``)."""
        config = self.config
        keep = getattr(self.algorithm, "keep", None)
        trees: list[Tree] = []
        dropped: list[Tree] = []
        for attempt in range(1 + (self.algorithm.rounds if keep else 0)):  # type: ignore[attr-defined]
            missing = config.rollout.prompts - len(trees)
            tasks = self.task_ids("train", config.env.task_seed, self.drawn, missing)
            self.drawn += missing
            bar = live.bar("  rollouts", missing * self.algorithm.M)
            seed = (config.seed, 1, self.step) if attempt == 0 else (config.seed, 4, self.step, attempt)
            for tree in sampler.sample([{"task_id": t} for t in tasks], seed=seed, on_leaf=lambda *_: bar.advance()):  # noqa: B023
                (trees if keep is None or not tree.leaves() or keep(tree) else dropped).append(tree)
            bar.remove()
            if len(trees) == config.rollout.prompts or self._stop.is_set():
                break
        if not any(t.leaves() for t in trees) and dropped:
            return dropped, []  # nothing to learn from, but a step all the same
        return trees, dropped

    def evaluate(self, name: str) -> Evaluation:
        """Held-out success now; logged, its first trees saved."""
        config = self.config
        self.model.train(False)
        tasks = self.task_ids(config.env.eval_split, config.eval.task_seed, 0, config.eval.tasks)
        with Live(self.console) as live:
            bar = live.bar(f"evaluate: {name}", len(tasks))
            result = evaluate(
                self.engine,
                self.renderer,
                self.make_env,
                tasks,
                name=name,
                step=self.step,
                sampling=self.eval_sampling,
                seed=config.seed,
                max_turn_tokens=config.rollout.max_turn_tokens,
                max_tokens=config.rollout.max_tokens,
                tool_lag=config.rollout.tool_lag,
                workers=config.rollout.workers,
                on_leaf=lambda tree, leaf: bar.advance(),
            )
        self.tracker.evaluation(result.row())
        slug = {"before": "before", "cold start": "after-sft"}.get(name, f"after-{name.lower().replace(' ', '-')}")
        self._save_trees(f"eval-{slug}", result.trees, self.step)
        return result

    def close(self) -> None:
        """Release the engine and the folder. Idempotent."""
        self.engine.close()
        self.tracker.close()
        self.folder.close()

    # ------------------------------------------------------------------ checkpoints

    def save(self) -> Path:
        """A complete checkpoint, made at one stroke; ``model/`` in it is a plain transformers folder."""
        folder = self.folder.new_checkpoint(self.step)
        self.model.save_pretrained(folder / "model")
        self.tokenizer.save_pretrained(folder / "model")
        torch.save(self.learner.optimizer.state_dict(), folder / "optimizer.pt")
        if self.learner.value_head is not None:
            torch.save(self.learner.value_head.state_dict(), folder / "critic.pt")
        state = {
            "step": self.step,
            "drawn": self.drawn,
            "optimizer_steps": self.learner.steps,
            "algorithm": self.config.algorithm.name,
        }
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
        return self.folder.commit_checkpoint(folder, self.config.keep)

    def _claim(self, resume: bool) -> Path | None:
        """The checkpoint to go on from, or None for a fresh folder."""
        record = self.folder.read_config()
        if record is None:
            return None
        if not resume:
            raise ConfigError(
                f"run folder {self.folder.path} already holds a run; add --resume to go on, or choose another --out"
            )
        old, new = dict(record["config"]), json.loads(json.dumps(self.config.to_dict()))
        for key in ("steps", "save_every", "keep", "device", "threads", "eval"):  # may change on resume
            old.pop(key, None)
            new.pop(key, None)
        if old != new:
            changed = [k for k in new if old.get(k) != new[k]]
            raise ConfigError(f"--resume: the configuration differs from the run's in {changed}; start another run")
        points = self.folder.checkpoints
        if not points:
            # Nothing finished to go on from: begin again, with clean logs.
            for name in ("metrics.jsonl", "eval.jsonl", "eval-tasks.jsonl"):
                self.folder.keep_rows(name, [])
            return None
        return points[-1]

    def _restore(self, checkpoint: Path) -> None:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        self.step = state["step"]
        self.drawn = state.get("drawn", self.step * self.config.rollout.prompts)
        self.learner.steps = state["optimizer_steps"]
        if self.learner.value_head is not None:
            critic = torch.load(checkpoint / "critic.pt", map_location=self.device, weights_only=True)
            self.learner.value_head.load_state_dict(critic)
        self.learner.optimizer.load_state_dict(
            torch.load(checkpoint / "optimizer.pt", map_location=self.device, weights_only=True)
        )
        rows = self.folder.rows("metrics.jsonl")
        self.folder.keep_rows("metrics.jsonl", [r for r in rows if r["phase"] != "train" or r["step"] < self.step])

    # ------------------------------------------------------------------ inside

    def _set_reference(self) -> None:
        """For a KL penalty: the policy that RL starts from, kept in the folder so that a resumed run has the same."""
        if "reference" not in getattr(self.algorithm, "needs", ()):
            return
        folder = self.folder.path / "reference"
        if self.step == 0:
            fresh = folder.with_name(".reference")
            for old in (fresh, folder):
                shutil.rmtree(old, ignore_errors=True)
            self.model.save_pretrained(fresh)
            self.tokenizer.save_pretrained(fresh)
            fresh.replace(folder)
        reference, _ = models.load(str(folder), device=self.device)
        self.learner.set_reference(reference)

    def _sync(self) -> None:
        """New weights to the engine (the torch engine shares the model: there, only cached keys must go)."""
        self.engine.load_weights(dict(self.model.named_parameters()))

    def _save_trees(self, name: str, trees: Sequence[Tree], step: int) -> None:
        for tree in trees:
            tree.meta["step"] = step
            used = {t for node in tree.nodes if node.kind == "action" for t in node.tokens}
            tree.meta["pieces"] = {str(t): str(self.tokenizer.decode([t])) for t in sorted(used)}
        self.folder.save_trees(name, trees)

    def _record(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "seed": self.config.seed,
            "algorithm": self.config.algorithm.name,
            "env_id": self.config.env.id,
            "model": {"name": self.config.model, "from": models.provenance(self.config.model)},
            "versions": {"python": platform.python_version(), **{p: _version(p) for p in _PACKAGES}},
            "machine": {
                "platform": platform.platform(),
                "device": self.device,
                "precision": self.learner.precision,
                "threads": torch.get_num_threads(),
            },
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
        }

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """First SIGINT: finish the step; second: KeyboardInterrupt. Only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(signum: int, frame: Any) -> None:
            if self._stop.is_set():
                raise KeyboardInterrupt
            self._stop.set()
            self.console.print("[yellow]Stopping after this step (interrupt again to stop now).[/]")

        before = signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def compare(before: Evaluation, after: Evaluation) -> tuple[float, float, float]:
    """Paired difference in success over the tasks both have: (mean, low, high) at 95 %."""
    shared = sorted(set(before.per_task) & set(after.per_task))
    return paired_difference([before.per_task[t] for t in shared], [after.per_task[t] for t in shared])


def _tree_metrics(trees: Sequence[Tree]) -> dict[str, float]:
    outcomes = [leaf.outcome for t in trees for leaf in t.leaves() if leaf.outcome is not None]
    n = len(outcomes)
    return {
        "reward": sum(o.reward for o in outcomes) / n,
        "success": sum(o.is_success for o in outcomes) / n,
        "format_errors": sum(not o.info["format_ok"] for o in outcomes) / n,
        "truncated": sum(o.truncated for o in outcomes) / n,
        "tool_calls": sum(o.tool_calls for o in outcomes) / n,
        "turns": sum(o.turns for o in outcomes) / n,
        "tool_calls_made": float(sum(t.tool_calls for t in trees)),
        "forks": float(sum(t.n_forks for t in trees)),
        "tokens_unique": float(sum(t.n_tokens for t in trees)),
        "tokens_flat": float(sum(t.n_tokens_flat for t in trees)),
        "groups_without_signal": sum(len({x.outcome.reward for x in t.leaves() if x.outcome}) == 1 for t in trees)
        / len(trees),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
