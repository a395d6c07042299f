"""A step done again: its update from its saved trees alone, or its rollouts from their seeds.

Both start from the checkpoint made before the step (``step-000007`` for step 7) and touch nothing in the folder, so a
running run can be looked at too. An environment that records (option ``cassette``) is replayed from its recording
alone: nobody is asked. On the machine and versions that made it, a replay gives the same numbers; elsewhere
rounding differs, which is why differences are reported and not raised.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium.envs.registration import load_env_creator

from arpo_algo import assembly, checkpoint, options
from arpo_algo.algorithms import make
from arpo_algo.algorithms.contract import needs
from arpo_algo.config import RunConfig
from arpo_algo.distributed import World
from arpo_algo.errors import ConfigError
from arpo_algo.rendering import Renderer
from arpo_algo.runfolder import read_rows, read_trees
from arpo_algo.tree import Tree
from arpo_algo.workers.base import LocalRollouts


@dataclass
class Replay:
    """What came out, and how it compares with what the run recorded.

    ``weights``: largest difference of any weight from the checkpoint after the step; None if there is none.
    ``metrics``: of the repeated update; ``recorded``: of the run.
    ``trees``: the repeated rollouts; ``same_trees``: how many equal the saved ones token by token, of ``saved``.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    recorded: dict[str, float] = field(default_factory=dict)
    weights: float | None = None
    trees: list[Tree] = field(default_factory=list)
    same_trees: int = 0
    saved: int = 0

    @property
    def void_reason(self) -> str:
        """Why the first void trajectory of the repeated rollouts is void; empty if none is."""
        outcomes = [leaf.outcome for tree in self.trees for leaf in tree.void_leaves()]
        return next((outcome.stop_reason for outcome in outcomes if outcome is not None), "")


def replay_update(run: Path, step: int) -> Replay:
    """The update of training step ``step`` from ``replay/train-….jsonl.gz``.

    Raises:
        ConfigError: no such run, no checkpoint before the step, or its trees were not kept (``log.replay=true``).
    """
    config, point = _open(run, step)
    trees = _saved_trees(run, step)
    algorithm = make(config.algorithm.name, **config.algorithm.options)
    device = _device(config)
    model, _ = assembly.load_policy(_source(config, point), device)
    learner = assembly.new_learner(config, model, algorithm, World())
    if point is not None:
        assembly.restore_learner(point, learner, device)
        assembly.restore_random(point)
    if "reference" in needs(algorithm):
        learner.set_reference(assembly.load_policy(str(run / "reference"), device)[0])
    stale = config.rollout.overlap != "off"
    out = Replay()
    out.metrics = learner.update(
        [t for t in trees if t.leaves()],
        assembly.for_stale_trees(config, algorithm),
        old_policy="rollout" if stale and config.rollout.correction == "ratio" else "current",
    )
    rows = [r for r in read_rows(run / "metrics.jsonl") if r["phase"] == "train" and r["step"] == step]
    out.recorded = {k: v for k, v in rows[-1].items() if k in out.metrics} if rows else {}
    after = run / "checkpoints" / f"step-{step + 1:06d}" / "model"
    if after.exists():
        other, _ = assembly.load_policy(str(after), device)
        with torch.no_grad():
            pairs = zip(model.parameters(), other.parameters(), strict=True)
            out.weights = max(float((a - b).abs().max()) for a, b in pairs)
    return out


def replay_rollout(run: Path, step: int) -> Replay:
    """The rollouts of training step ``step`` from their seeds, compared with the saved trees (if there are).

    Raises:
        ConfigError: no such run, no checkpoint before the step, no cassette where the run recorded one, or trees of
            an older policy (``rollout.overlap``).
    """
    config, point = _open(run, step)
    config, recorded = _from_cassette(config)
    if config.rollout.overlap != "off" and step > 0:
        raise ConfigError(
            "with rollout.overlap a step's trees were sampled by the policy of the step before, which its checkpoint "
            "does not hold; replay the update instead (--update)"
        )
    algorithm = make(config.algorithm.name, **config.algorithm.options)
    facts = assembly.look_at_env(config)
    source = _source(config, point)
    model, tokenizer = assembly.load_policy(source, _device(config))
    # As those who sampled had it: by themselves, without the learner's adapters.
    separate = config.rollout.actors > 0 or config.rollout.overlap != "off"
    engine = assembly.build_engine(config, model, tokenizer, source, separate=separate)
    rollouts = LocalRollouts(
        engine,
        Renderer(tokenizer),
        lambda: assembly.make_env(config),
        assembly.rollout_configs(config, algorithm, deterministic=facts.deterministic),
        workers=config.rollout.workers,
        retries=0 if recorded else config.guards.retries,
    )
    drawn = 0 if point is None else assembly.read_state(point)["drawn"]
    out = Replay()

    def sample(attempt: int, count: int, before: int) -> list[Tree]:
        return rollouts.sample(
            assembly.training_job(config, facts.family, step, drawn + before, attempt=attempt, count=count)
        )

    wanted = config.rollout.prompts
    try:
        out.trees, _, _ = assembly.fill_up(sample(0, wanted, 0), wanted, algorithm, sample)
    finally:
        rollouts.close()
    kept = run / "replay" / f"train-{step:06d}.jsonl.gz"
    shown = run / "trees" / f"train-{step:06d}.jsonl.gz"
    saved = read_trees(kept if kept.exists() else shown) if kept.exists() or shown.exists() else []
    mine = {tree.task_id: tree for tree in out.trees}
    out.saved = len(saved)
    out.same_trees = sum(t.task_id in mine and _said(t) == _said(mine[t.task_id]) for t in saved)
    return out


def _said(tree: Tree) -> Any:
    """What makes two rollouts the same: who said what where, and how it ended."""
    return [(n.parent, n.kind, n.tokens, n.fork_of, n.outcome and n.outcome.reward) for n in tree.nodes]


def _open(run: Path, step: int) -> tuple[RunConfig, Path | None]:
    """The configuration, and the checkpoint before the step (None: the untouched model)."""
    record = run / "config.json"
    if not record.exists():
        raise ConfigError(f"{str(run)!r} holds no run (no config.json)")
    config = options.load(RunConfig, json.loads(record.read_text(encoding="utf-8"))["config"])
    store = checkpoint.CheckpointStore(run / "checkpoints")
    point = store.folder / f"step-{step:06d}"
    if step == 0 and not config.sft.steps:
        checkpoint.seed_everything(config.seed)
        return config, None
    if point not in store.paths():
        there = ", ".join(p.name for p in store.paths()) or "none"
        raise ConfigError(f"no checkpoint {point.name} in {run}; there are: {there} (see save_every and keep)")
    checkpoint.verify(point)
    return config, point


def _from_cassette(config: RunConfig) -> tuple[RunConfig, bool]:
    """The run's configuration with its environment reading the cassette strictly; whether it has one."""
    cassette = config.env.options.get("cassette")
    if cassette is None:
        return config, False
    if not Path(cassette).exists():
        raise ConfigError(f"the run recorded to {str(cassette)!r}, which is not there (seen from {Path.cwd()})")
    entry = gymnasium.spec(config.env.id).entry_point
    make = load_env_creator(entry) if isinstance(entry, str) else entry
    if make is None or "cache" not in inspect.signature(make).parameters:
        return config, True  # it only ever replays (ARPO-WebReplay-v0)
    env = dataclasses.replace(config.env, options={**config.env.options, "cache": "strict"})
    return dataclasses.replace(config, env=env), True


def _source(config: RunConfig, point: Path | None) -> str:
    return config.model if point is None else str(point / "model")


def _saved_trees(run: Path, step: int) -> list[Tree]:
    file = run / "replay" / f"train-{step:06d}.jsonl.gz"
    if not file.exists():
        raise ConfigError(f"{file} is not there: the run must be made with log.replay=true")
    return read_trees(file)


def _device(config: RunConfig) -> str:
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"
