"""Our environments under TRL's ``GRPOTrainer`` (its ``rollout_func`` hook; TRL 1.16).

TRL keeps its own loss, optimiser and logging; what it is given are real multi-turn episodes: token ids as sampled,
their log-probs, and a mask that keeps tool results out of the loss (``env_mask``)::

    from trl import GRPOConfig, GRPOTrainer

    rollouts = EnvRollouts("ARPO-DeepSearch-v0", {"hops": [1]}, max_turn_tokens=48, max_tokens=640)
    trainer = GRPOTrainer(
        model, rollouts.reward, args=GRPOConfig(...), train_dataset=rollouts.dataset(64), rollout_func=rollouts
    )
    trainer.train()

With a branching rule a prompt's group is a tree instead, N of its trajectories from the root and the rest forked after
tool results: ARPO's sampling under TRL's update.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arpo_algo.branching import BranchingRule, Never
from arpo_algo.engines.base import Engine, Sampling
from arpo_algo.engines.torch import TorchEngine
from arpo_algo.envs import TextEnv, agent, open_env
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.rendering import Renderer
from arpo_algo.rolloutconfig import RolloutConfig
from arpo_algo.sampler import TreeSampler
from arpo_algo.tree import Node, Tree

Messages = list[dict[str, str]]


class EnvRollouts:
    """A ``rollout_func`` of TRL, with the data set and the reward that go with it.

    Args:
        env_id: an ``ARPO-…`` id. options: its keyword arguments.
        max_turn_tokens: new tokens a turn at most. max_tokens: tokens of a trajectory at most, prompt included.
        branching, N: how a group is sampled, see :class:`~arpo_algo.rolloutconfig.RolloutConfig`; N defaults to the
            group.
        temperature: must be that of ``GRPOConfig``, whose loss divides logits by its own.
        seed: of the tasks and of every draw.
        slots: sequences generated at once.
        make_engine: another engine for TRL's model and tokenizer, in place of a :class:`TorchEngine` on a copy.

    Raises:
        ConfigError: an unknown id or option, or contradictory budgets.
    """

    def __init__(
        self,
        env_id: str,
        options: Mapping[str, Any] | None = None,
        *,
        max_turn_tokens: int = 256,
        max_tokens: int = 2048,
        branching: BranchingRule | None = None,
        N: int | None = None,
        temperature: float = 1.0,
        seed: int = 0,
        slots: int = 64,
        make_engine: Callable[[PreTrainedModel, PreTrainedTokenizerBase], Engine] | None = None,
    ) -> None:
        self.env_id, self.options = env_id, dict(options or {})
        self.max_turn_tokens, self.max_tokens = max_turn_tokens, max_tokens
        self.branching = branching or Never()
        self.N, self.sampling, self.seed, self.slots = N, Sampling(temperature), seed, slots
        self._make_engine = make_engine or self._engine_on_a_copy
        self._engine: Engine | None = None
        self._tasks: dict[str, str] = {}  # what a prompt is rendered from -> its task
        self._calls = 0
        self._make_env().close()  # refuses what is wrong now

    def _make_env(self) -> TextEnv:
        return open_env(self.env_id, self.options, name="env_id")

    def dataset(self, count: int, split: str = "train") -> Any:
        """The first ``count`` tasks of the stream ``seed`` as a ``datasets.Dataset`` with the column ``prompt``."""
        from datasets import Dataset

        env = self._make_env()
        rows: list[dict[str, Messages]] = []
        for task in agent(env).family.task_ids(split, self.seed, 0, count):
            _, info = env.reset(options={"task_id": task})
            self._tasks[_key(info["messages"])] = info["task_id"]
            rows.append({"prompt": info["messages"]})
        env.close()
        return Dataset.from_list(rows)

    @staticmethod
    def reward(prompts: Sequence[Any], completions: Sequence[Any], env_reward: list[float], **_: Any) -> list[float]:
        """TRL's reward function: what the environment paid."""
        return env_reward

    def __call__(self, prompts: Sequence[Messages], trainer: Any) -> dict[str, list[Any]]:
        """One completion a prompt, in order; equal prompts that follow each other are a group.

        Raises:
            ConfigError: a prompt that :meth:`dataset` did not make, or groups smaller than N.
            TrainingError: infrastructure spoilt a trajectory (TRL cannot do without one).
        """
        groups = [(key, len(list(same))) for key, same in itertools.groupby(_key(p) for p in prompts)]
        unknown = next((key for key, _ in groups if key not in self._tasks), None)
        if unknown is not None:
            raise ConfigError(f"a prompt that dataset() did not make: {unknown[-200:]!r}; train on rollouts.dataset(…)")
        tokenizer = trainer.processing_class
        engine = self._engine_with(trainer.accelerator.unwrap_model(trainer.model), tokenizer)
        leaves: list[tuple[Tree, Node]] = []
        # One sampler for each size of group: they are all of one size, but for what a last batch cuts off.
        for size, of_size in itertools.groupby(groups, key=lambda group: group[1]):
            leaves += self._sample([self._tasks[key] for key, _ in of_size], size, engine, Renderer(tokenizer))
        self._calls += 1
        return _columns(leaves)

    def _sample(self, tasks: list[str], size: int, engine: Engine, renderer: Renderer) -> list[tuple[Tree, Node]]:
        roots = size if isinstance(self.branching, Never) or self.N is None else self.N
        config = RolloutConfig(
            M=size,
            N=roots,
            branching=self.branching if roots < size else Never(),
            sampling=self.sampling,
            max_turn_tokens=self.max_turn_tokens,
            max_tokens=self.max_tokens,
        )
        sampler = TreeSampler(engine, renderer, self._make_env, config)
        try:
            trees = sampler.sample([{"task_id": t} for t in tasks], seed=(self.seed, self._calls, size))
        finally:
            sampler.close()
        spoilt = next(((tree, leaf) for tree in trees for leaf in tree.void_leaves()), None)
        if spoilt is not None:
            raise TrainingError(f"infrastructure spoilt a trajectory of {spoilt[0].task_id}: {spoilt[1].outcome}")
        return [(tree, leaf) for tree in trees for leaf in tree.leaves()]

    def _engine_with(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Engine:
        """The engine, with the weights of now."""
        if self._engine is None:
            self._engine = self._make_engine(model, tokenizer)
        self._engine.load_weights(dict(model.named_parameters()))
        return self._engine

    def _engine_on_a_copy(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Engine:
        # TRL calls the model with masks of its own; the engine needs another attention.
        twin = copy.deepcopy(model).requires_grad_(False)
        twin.gradient_checkpointing_disable()  # type: ignore[no-untyped-call]
        return TorchEngine(twin, tokenizer, slots=self.slots, max_length=self.max_tokens)


def _key(messages: Messages) -> str:
    return "\0".join(f"{m['role']}\0{m['content']}" for m in messages)


def _columns(leaves: Sequence[tuple[Tree, Node]]) -> dict[str, list[Any]]:
    """What TRL expects of a rollout function, one entry a trajectory."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask", "env_reward")
    }
    for tree, leaf in leaves:
        prompt, *rest = tree.path(leaf.id)
        assert leaf.outcome is not None
        columns["prompt_ids"].append(list(prompt.tokens))
        columns["completion_ids"].append([t for node in rest for t in node.tokens])
        columns["logprobs"].append([x for node in rest for x in node.logprobs or [0.0] * len(node.tokens)])
        columns["env_mask"].append([int(node.kind == "action") for node in rest for _ in node.tokens])
        columns["env_reward"].append(leaf.outcome.reward)
    return columns
