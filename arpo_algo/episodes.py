"""One episode played by any policy: a scripted expert, an engine, a chat endpoint. No torch, no tokens needed.

The trainer's sampler forks and keeps token ids; evaluation needs neither, and must drive policies that have no ids to
give. A policy plays an episode as a generator of turns, as experts do; what ends early has run out of its budget.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from arpo_algo.envs import TextEnv, agent
from arpo_algo.tree import Outcome
from arpo_env.env import AgentEnv


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn and the tokens it was counted at (None: the policy has no tokens, or does not say).

    ``cut``: the episode's token budget ended in the middle of it; it is counted, and not played.
    """

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cut: bool = False


#: Yields turns, is sent the observation each one caused. Returning means: no budget left for another turn.
Player = Generator[Turn, str, None]


class Policy(Protocol):
    """Who plays. One policy plays many episodes at once, each from a thread of its own."""

    #: Episodes that may run at the same time.
    concurrency: int

    def check(self) -> None:
        """Prove, before any episode, that the policy can play.

        Raises:
            ConfigError: it never will (wrong key, unknown model …); the message names the fix.
            InfraError: it cannot now (server down).
        """
        ...

    def play(self, env: AgentEnv, messages: Sequence[Mapping[str, str]], seed: Sequence[int]) -> Player:
        """The turns of one episode.

        Args:
            env: the environment as reset; policies read ``stop_strings`` (and experts the task), none steps it.
            messages: system prompt and question.
            seed: of every random draw in this episode.

        Raises:
            InfraError: the machinery failed; the episode is void.
        """
        ...

    def close(self) -> None:
        """Release what the policy holds. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished episode. Token counts are sums over turns (prompt tokens as billed: each turn's whole prompt).

    ``verifier`` names what two answers of this task can be compared by, "" where nothing can (programs).
    """

    outcome: Outcome
    messages: list[dict[str, str]]
    gold: str
    verifier: str
    tool_errors: int
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    tool_seconds: float


def run_episode(env: TextEnv, policy: Policy, options: Mapping[str, Any], seed: Sequence[int]) -> Episode:
    """Reset ``env`` with ``options`` and let the policy play to the end. The environment can be used again.

    Raises:
        InfraError: a tool, the verifier or the policy's machinery failed: void, say nothing about the policy.
        ConfigError: the policy or the options cannot be used at all.
    """
    inner = agent(env)
    start = time.perf_counter()
    turns: list[Turn] = []
    tool_errors = 0
    try:
        _, info = env.reset(options=dict(options))
        with closing(policy.play(inner, info["messages"], seed)) as player:
            turn = next(player, None)
            while True:
                if turn is not None:
                    turns.append(turn)
                if turn is None or turn.cut:
                    _, reward, terminated, truncated, info = env.get_wrapper_attr("truncate")("max_tokens")
                else:
                    observation, reward, terminated, truncated, info = env.step(turn.text)
                    tool_errors += info["tool_error"]
                if terminated or truncated:
                    break
                try:
                    turn = player.send(observation)
                except StopIteration:
                    turn = None
        return Episode(
            Outcome.of(float(reward), truncated, info),
            info["messages"],
            inner.task.answer,
            inner.task.meta.get("verifier", "mixed" if inner.family.answer_format == "boxed" else ""),
            tool_errors,
            _total([t.prompt_tokens for t in turns]),
            _total([t.completion_tokens for t in turns]),
            time.perf_counter() - start,
            inner.tool_seconds,
        )
    finally:
        env.close()


def _total(counts: Sequence[int | None]) -> int | None:
    """The sum; None when any turn was not counted."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
