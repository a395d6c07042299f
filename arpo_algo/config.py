"""The typed configuration of a run. ``configs/*.toml`` are files of it; every value can be overridden."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from arpo_algo.budget import BudgetSection
from arpo_algo.errors import ConfigError, unknown
from arpo_algo.guards import GuardsSection
from arpo_algo.models import DEFAULT
from arpo_algo.optimizer import LearnerConfig
from arpo_algo.options import opt, section
from arpo_algo.tracking import LogSection


@dataclass(frozen=True)
class EnvSection:
    """Which tasks."""

    id: str = opt("ARPO-DeepSearch-v0", "environment id, as gymnasium.make takes it")
    options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "keyword arguments of the environment, e.g. env.options.hops=[1,2]"}
    )
    task_seed: int = opt(0, "stream of training tasks, of their own split; a sweep adds each seed unless this is given")
    eval_split: Literal["train", "validation", "test"] = opt("test", "split of the held-out tasks")


@dataclass(frozen=True)
class AlgorithmSection:
    """Which algorithm."""

    name: str = opt("arpo", "name of the algorithm (arpo, grpo …; see `arpo algorithms`)")
    options: dict[str, Any] = field(default_factory=dict, metadata={"help": "its options, e.g. algorithm.options.M=16"})


@dataclass(frozen=True)
class RolloutSection:
    """How rollouts are sampled."""

    prompts: int = opt(8, "prompts a training step")
    engine: str = opt("torch", "who generates: torch, vllm (in process), vllm-server (docs/engines.md)")
    engine_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "its own options, e.g. rollout.engine_options.dtype='bfloat16'"}
    )
    temperature: float = opt(1.0, "sampling temperature in training")
    max_turn_tokens: int = opt(256, "new tokens a turn at most")
    max_tokens: int = opt(2048, "tokens of a trajectory at most, prompt included")
    slots: int = opt(64, "sequences generated at once (bounds memory)")
    tool_lag: int | Literal["auto"] | None = opt(
        "auto",
        "engine steps between a call and its result: makes runs repeatable, and slow tools are waited for; "
        "none: as results come; auto: 1, and none with tools over the live web",
    )
    workers: int = opt(8, "threads that environments step in")
    tool_timeout: float = opt(600.0, "seconds a tool call may run before it is given up and its trajectory is void")
    overlap: Literal["off", "one-step"] = opt(
        "off", "one-step: sample the next step's trees, with the weights of now, while the update runs"
    )
    correction: Literal["tis", "ratio"] = opt(
        "tis",
        "of trees one step old: tis weighs advantages by min(pi/pi_sampled, tis_cap); ratio puts pi_sampled into the "
        "algorithm's own ratio",
    )
    tis_cap: float = opt(2.0, "cap of the correction tis")
    actors: int = opt(0, "Ray actors that sample (needs arpo[ray]); 0: this process does")
    actor_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "what an actor asks of Ray, e.g. rollout.actor_options.num_gpus=1"}
    )


@dataclass(frozen=True)
class SFTSection:
    """The cold start."""

    steps: int = opt(0, "optimiser steps of supervised learning before RL; 0: none")
    batch: int = opt(8, "demonstrations a step")
    lr: float = opt(7e-6, "learning rate of the cold start")
    flawed_share: float = opt(0.0, "share of demonstrations that make a mistake")
    task_seed: int = opt(1_000_003, "stream of demonstration tasks (train split)")


@dataclass(frozen=True)
class EvalSection:
    """How success is measured."""

    tasks: int = opt(100, "held-out tasks")
    every: int = opt(0, "evaluate each so many training steps; 0: only before and after")
    temperature: float = opt(0.6, "sampling temperature in evaluation (paper: 0.6)")
    top_p: float = opt(0.95, "nucleus of evaluation sampling (paper: 0.95)")
    top_k: int = opt(20, "top-k of evaluation sampling, 0: off (paper: 20)")
    before: bool = opt(True, "also evaluate the model before any training")
    task_seed: int = opt(0, "stream of held-out tasks")


@dataclass(frozen=True)
class RunConfig:
    """A whole run: cold start, training, evaluation.

    Raises:
        ConfigError: contradictory values.
    """

    model: str = opt(DEFAULT, "smollm2 (embedded default), a folder, or a Hub name")
    device: str = opt("auto", "cpu, cuda, cuda:1 …; auto: a GPU when there is one")
    seed: int = opt(0, "the one seed of the run")
    steps: int = opt(100, "training steps")
    save_every: int = opt(
        10, "checkpoint each so many steps (of the cold start, too); 0: only at its end and at the end"
    )
    keep: int = opt(2, "newest checkpoints kept")
    keep_best: bool = opt(True, "also keep (and make) the checkpoint of the best evaluation, where eval.every is set")
    threads: int | None = opt(None, "CPU threads of torch; none: all cores")
    budget: BudgetSection = section(BudgetSection, "when training ends before its steps")
    env: EnvSection = section(EnvSection, "tasks")
    algorithm: AlgorithmSection = section(AlgorithmSection, "algorithm")
    rollout: RolloutSection = section(RolloutSection, "rollouts")
    learner: LearnerConfig = section(LearnerConfig, "update")
    sft: SFTSection = section(SFTSection, "cold start")
    eval: EvalSection = section(EvalSection, "evaluation")
    guards: GuardsSection = section(GuardsSection, "alarms")
    log: LogSection = section(LogSection, "what is written")

    def __post_init__(self) -> None:
        for name, value, least in (
            ("steps", self.steps, 0),
            ("seed", self.seed, 0),
            ("keep", self.keep, 1),
            ("save_every", self.save_every, 0),
            ("rollout.prompts", self.rollout.prompts, 1),
            ("rollout.slots", self.rollout.slots, 1),
            ("rollout.workers", self.rollout.workers, 1),
            ("sft.steps", self.sft.steps, 0),
            ("sft.batch", self.sft.batch, 1),
            ("eval.tasks", self.eval.tasks, 1),
            ("eval.every", self.eval.every, 0),
            ("rollout.actors", self.rollout.actors, 0),
        ):
            if value < least:
                raise ConfigError(f"{name} must be >= {least}, got {value}")
        if self.rollout.temperature <= 0:
            raise ConfigError(
                f"rollout.temperature must be > 0 in training, got {self.rollout.temperature}: "
                "greedy rollouts of a prompt are all the same and teach nothing"
            )
        if not 0.0 <= self.sft.flawed_share <= 1.0:
            raise ConfigError(f"sft.flawed_share must lie in [0, 1], got {self.sft.flawed_share}")
        for name, choice, known in (
            ("rollout.overlap", self.rollout.overlap, ("off", "one-step")),
            ("rollout.correction", self.rollout.correction, ("tis", "ratio")),
        ):
            if choice not in known:
                raise unknown(name, choice, known)
        if not self.rollout.tis_cap > 0:
            raise ConfigError(f"rollout.tis_cap must be > 0, got {self.rollout.tis_cap}")
        if self.learner.shard and self.learner.lora.rank:
            raise ConfigError("learner.shard and learner.lora.rank exclude each other; adapters train data parallel")
        if (self.steps or self.sft.steps) and self.rollout.max_tokens > self.learner.pack_tokens:
            raise ConfigError(
                f"a trajectory may have rollout.max_tokens={self.rollout.max_tokens} tokens, and a forward takes "
                f"learner.pack_tokens={self.learner.pack_tokens}; raise pack_tokens or lower max_tokens"
            )
        mini = self.learner.mini_batch
        if mini is not None and self.rollout.prompts % mini:
            raise ConfigError(
                f"learner.mini_batch={mini} does not divide rollout.prompts={self.rollout.prompts}; "
                "the last mini-batch would weigh its tokens more"
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
