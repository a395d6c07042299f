"""The parts of a run made from its configuration, and their state in and out of a checkpoint.

The trainer drives these parts; ``arpo replay`` and rollout workers build the same ones without a run folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arpo_algo import checkpoint, engines, models, sharding
from arpo_algo.algorithms.contract import Algorithm, keeps, rounds_of, with_correction
from arpo_algo.branching import Never
from arpo_algo.config import RunConfig
from arpo_algo.distributed import World
from arpo_algo.engines.base import Engine, Sampling
from arpo_algo.envs import TextEnv, agent, open_env
from arpo_algo.errors import ConfigError
from arpo_algo.learner import Learner
from arpo_algo.precision import resolve_precision
from arpo_algo.rolloutconfig import RolloutConfig
from arpo_algo.tree import Tree
from arpo_algo.workers.base import Job, Kind
from arpo_env.tasks.base import TaskFamily


def make_env(config: RunConfig) -> TextEnv:
    """A fresh environment of the run.

    Raises:
        ConfigError: an unknown id or option. ToolUnavailable: a tool does not work here.
    """
    return open_env(config.env.id, config.env.options, name="env.id")


@dataclass(frozen=True)
class EnvFacts:
    """What the trainer wants to know of the environment before it begins."""

    family: TaskFamily
    tools: tuple[str, ...]
    deterministic: bool


def look_at_env(config: RunConfig) -> EnvFacts:
    """Build the environment once: its tools are started, or say why not.

    Raises:
        ConfigError: it is not an ``AgentEnv``.
    """
    env = make_env(config)
    try:
        inner = agent(env)
        return EnvFacts(inner.family, inner.tool_names, inner.deterministic)
    finally:
        env.close()


def enough_tasks(family: TaskFamily, config: RunConfig) -> None:
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


def rollout_configs(config: RunConfig, algorithm: Algorithm, *, deterministic: bool) -> dict[Kind, RolloutConfig]:
    """How training and evaluation rollouts are sampled. ``deterministic``: of the environment (:class:`EnvFacts`).

    Raises:
        ConfigError: contradictory budgets.
    """
    rollout = config.rollout
    if rollout.tool_lag == "auto":  # over the live web nothing repeats anyway, and calls take seconds
        tool_lag = 1 if deterministic else None
    else:
        tool_lag = rollout.tool_lag
    train = RolloutConfig(
        M=algorithm.M,
        N=algorithm.N,
        branching=algorithm.branching,
        sampling=Sampling(rollout.temperature),
        max_turn_tokens=rollout.max_turn_tokens,
        max_tokens=rollout.max_tokens,
        tool_lag=tool_lag,
        tool_timeout=rollout.tool_timeout,
    )
    of_eval = Sampling(config.eval.temperature, config.eval.top_p, config.eval.top_k)
    return {"train": train, "eval": dataclasses.replace(train, M=1, N=1, branching=Never(), sampling=of_eval)}


def training_job(
    config: RunConfig, family: TaskFamily, step: int, drawn: int, attempt: int = 0, count: int | None = None
) -> Job:
    """What a training step samples after ``drawn`` tasks; ``attempt``: its rounds after the first (:func:`fill_up`)."""
    tasks = family.task_ids("train", config.env.task_seed, drawn, drawn + (count or config.rollout.prompts))
    return Job(tuple(tasks), (config.seed, 1, step) if attempt == 0 else (config.seed, 4, step, attempt))


def fill_up(
    first: list[Tree], wanted: int, algorithm: Algorithm, more: Callable[[int, int, int], list[Tree]]
) -> tuple[list[Tree], list[Tree], int]:
    """A step's trees, those that the algorithm does not keep, and how many tasks both took.

    Args:
        first: the ``wanted`` trees of the first round.
        algorithm: with ``keep`` it says which trees it can learn from, and with ``rounds`` how often others are drawn
            (0: all trees are kept).
        more: (round, number of trees, tasks drawn in the step before) -> trees.
    """
    trees: list[Tree] = []
    dropped: list[Tree] = []
    found, drawn = first, wanted
    for attempt in range(1 + rounds_of(algorithm)):
        if attempt:
            missing = wanted - len(trees)
            found = more(attempt, missing, drawn)
            drawn += missing
        for tree in found:
            (trees if not tree.leaves() or keeps(algorithm, tree) else dropped).append(tree)
        if len(trees) == wanted:
            break
    if not any(t.leaves() for t in trees) and dropped:
        trees, dropped = dropped, []  # nothing to learn from, but a step all the same
    return trees, dropped, drawn


def for_stale_trees(config: RunConfig, algorithm: Algorithm) -> Algorithm:
    """The algorithm that updates on trees one step old.

    Raises:
        ConfigError: it has no importance correction to switch on.
    """
    if config.rollout.overlap == "off" or config.rollout.correction == "ratio":
        return algorithm
    return with_correction(algorithm, config.rollout.tis_cap)


def load_policy(source: str, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model whose numbers do not depend on how its file was read.

    Weights read from a safetensors file may lie at any address; matrix products round differently then. A copy is
    aligned as every tensor that torch allocates, so a resumed run computes as the one that never stopped.
    """
    model, tokenizer = models.load(source, device=device)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.clone()
    return model, tokenizer


def build_engine(
    config: RunConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    *,
    separate: bool = False,
) -> Engine:
    """The configuration's engine. ``separate``: it must not share the learner's weights."""
    rollout = config.rollout
    choice = engines.choose(rollout.engine, rollout.engine_options)
    precision = resolve_precision(config.learner.precision, next(model.parameters()).device)
    return choice.build(
        engines.EngineSetup(model, tokenizer, source, rollout.slots, rollout.max_tokens, precision, separate)
    )


# ------------------------------------------------------------------ state


@dataclass
class Position:
    """Where a run stands: between which two steps, and how many training tasks it has drawn."""

    sft: int = 0
    step: int = 0
    drawn: int = 0
    in_sft: bool = False

    @property
    def name(self) -> str:
        """Of the checkpoint made here."""
        return f"sft-{self.sft:06d}" if self.in_sft else f"step-{self.step:06d}"


@dataclass(frozen=True)
class WholeState:
    """Weights and optimiser state of a sharded learner, put together; empty but in the main process."""

    weights: dict[str, torch.Tensor] | None
    optimizer: dict[str, Any]

    @classmethod
    def gather(cls, learner: Learner) -> WholeState:
        """All processes must take part."""
        keep = learner.world.main
        return cls(
            sharding.whole_state(learner.model, keep=keep), sharding.optimizer_state(learner.optimizer, keep=keep)
        )


def write_state(
    folder: Path,
    position: Position,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    learner: Learner,
    more: Mapping[str, Any],
    whole: WholeState | None = None,
) -> None:
    """Everything a resumed run needs; ``model/`` is a plain transformers folder. ``whole``: of a sharded learner."""
    model.save_pretrained(folder / "model", state_dict=whole.weights if whole else None)
    tokenizer.save_pretrained(folder / "model")
    torch.save(whole.optimizer if whole else learner.optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(checkpoint.random_state(), folder / "random.pt")
    if learner.value_head is not None:
        torch.save(learner.value_head.state_dict(), folder / "critic.pt")
    state = {**dataclasses.asdict(position), "optimizer_steps": learner.steps, **more}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state


def position_of(state: Mapping[str, Any]) -> Position:
    return Position(**{f.name: state[f.name] for f in dataclasses.fields(Position)})


def restore_learner(folder: Path, learner: Learner, device: str) -> None:
    """Optimiser, warm-up, value head."""
    learner.steps = read_state(folder)["optimizer_steps"]
    if learner.value_head is not None and (folder / "critic.pt").exists():
        head = torch.load(folder / "critic.pt", map_location=device, weights_only=True)
        learner.value_head.load_state_dict(head)
    where = "cpu" if learner.sharded else device
    state = torch.load(folder / "optimizer.pt", map_location=where, weights_only=True)
    if learner.sharded:
        sharding.load_optimizer_state(learner.optimizer, state)
    else:
        learner.optimizer.load_state_dict(state)


def restore_random(folder: Path) -> None:
    checkpoint.restore_random_state(torch.load(folder / "random.pt", map_location="cpu", weights_only=True))


def new_learner(config: RunConfig, model: PreTrainedModel, algorithm: Algorithm, world: World) -> Learner:
    return Learner(model, config.learner, temperature=config.rollout.temperature, algorithm=algorithm, world=world)


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two nested configurations differ, as ``key: old -> new``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(k for k in new if k not in old)]
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{path}.{k}" if path else str(k))]
    return [] if old == new else [f"{path}: {old!r} in the folder, {new!r} now"]
