"""The cold start: supervised learning on the experts' demonstrations, a stated share of them faulty.

Demonstrations are played through the real environment and kept as chains of the same :class:`Tree` that
rollouts are, so that packing, masks and the loss are the very code of the RL update. A share of flawed
demonstrations is deliberate: a model that imitates only experts leaves reinforcement learning nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from arpo_algo.envs import TextEnv, agent
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.rendering import Renderer
from arpo_algo.tree import Outcome, Tree


def demonstrate(env: TextEnv, renderer: Renderer, task_id: str, rng: np.random.Generator, flawed_share: float) -> Tree:
    """Play one demonstration; its last node carries the outcome.

    Args:
        flawed_share: probability that the demonstrator makes a mistake.

    Raises:
        TrainingError: the demonstrator broke the protocol (a fault of the task family).
    """
    _, info = env.reset(options={"task_id": task_id})
    inner = agent(env)
    tree = Tree(task_id, renderer.prompt(info["messages"]), prompt_text=info["messages"][-1]["content"])
    flawed = bool(rng.random() < flawed_share)
    tree.meta["flawed"] = flawed
    family, task = inner.family, inner.task
    expert = family.flawed_expert(task, rng) if flawed else family.expert(task)
    above = 0
    text = next(expert)
    while True:
        action = tree.add(above, "action", renderer.turn(text), text=text)
        action.logprobs = [0.0] * len(action.tokens)
        observation, reward, terminated, truncated, info = env.step(text)
        if terminated or truncated:
            if info["stop_reason"] != "answered":
                raise TrainingError(f"the demonstrator of {task_id} ended by {info['stop_reason']}, not by an answer")
            action.outcome = Outcome(float(reward), info["reward_terms"], info["is_success"], info["stop_reason"])
            return tree
        above = tree.add(action.id, "result", renderer.result(observation), text=observation).id
        text = expert.send(observation)


def demonstrations(
    make_env: Callable[[], TextEnv],
    renderer: Renderer,
    *,
    count: int,
    task_seed: int,
    seed: int,
    flawed_share: float,
    begin: int = 0,
) -> Generator[Tree]:
    """Demonstrations on the tasks ``begin`` … ``count``−1 of stream ``task_seed`` of the train split.

    Raises:
        ConfigError: a share outside [0, 1].
    """
    if not 0.0 <= flawed_share <= 1.0:
        raise ConfigError(f"flawed_share must lie in [0, 1], got {flawed_share}")
    env = make_env()
    try:
        for index, task in enumerate(agent(env).family.task_ids("train", task_seed, begin, count), begin):
            rng = np.random.default_rng(np.random.SeedSequence([seed, 3, index]))
            yield demonstrate(env, renderer, task, rng, flawed_share)
    finally:
        env.close()
