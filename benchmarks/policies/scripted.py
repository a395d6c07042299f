"""Policies without a model: the ceiling (experts), the floor (random turns), and a function of the user's own."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from arpo_algo.episodes import Player, Turn
from arpo_algo.errors import ConfigError, TrainingError, unknown
from arpo_env.env import AgentEnv
from arpo_env.protocol import answer_turn, tool_turn

#: The chat so far -> the next assistant turn.
Script = Callable[[list[dict[str, str]]], str]


class _Scripted:
    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency

    def check(self) -> None: ...

    def close(self) -> None: ...


class Expert(_Scripted):
    """The task family's own expert; where there is none (questions from files) the gold answer is replayed.

    A replay scores what an infallible policy would: less than 1 means a verifier that refuses its own gold.
    """

    def play(self, env: AgentEnv, messages: Sequence[Mapping[str, str]], seed: Sequence[int]) -> Player:
        try:
            expert = env.family.expert(env.task)
        except ConfigError:
            raw = env.family.answer_format == "raw"
            yield Turn(answer_turn("The gold answer.", env.task.answer, raw=raw))
            return
        turn = next(expert, None)
        while turn is not None:
            observation = yield Turn(turn)
            try:
                turn = expert.send(observation)
            except StopIteration:
                return


class Random(_Scripted):
    """Well-formed turns without sense: words of the question to a random tool, or one of them as the answer."""

    def play(self, env: AgentEnv, messages: Sequence[Mapping[str, str]], seed: Sequence[int]) -> Player:
        rng = np.random.default_rng(np.random.SeedSequence(list(seed)))
        words = messages[-1]["content"].split() or ["nothing"]
        tools = [tag[2:-1] for tag in env.stop_strings if tag != "</answer>"]
        raw = env.family.answer_format == "raw"
        while True:
            if tools and rng.random() < 0.5:
                picked = " ".join(rng.choice(words, size=min(3, len(words)), replace=False))
                yield Turn(tool_turn("Let me see.", str(rng.choice(tools)), _bare(picked)))
            else:
                answer = str(rng.choice(words)) if rng.random() < 0.5 else str(rng.integers(1000))
                yield Turn(answer_turn("A guess.", _bare(answer), raw=raw))


def _bare(text: str) -> str:
    """Without the characters that could make a tag or unbalance a box."""
    return "".join(c for c in text if c not in "<>{}\\") or "0"


class Scripted(_Scripted):
    """A function of the user's: the chat so far -> the next assistant turn. Called from ``concurrency`` threads."""

    def __init__(self, name: str, function: Script, concurrency: int) -> None:
        super().__init__(concurrency)
        self.name = name
        self.function = function

    def play(self, env: AgentEnv, messages: Sequence[Mapping[str, str]], seed: Sequence[int]) -> Player:
        chat = [dict(message) for message in messages]
        while True:
            try:
                text = self.function([dict(message) for message in chat])
            except Exception as error:
                where = traceback.format_exception(error)[-2].strip().splitlines()[0]
                raise TrainingError(f"script {self.name} raised {type(error).__name__}: {error} ({where})") from error
            if not isinstance(text, str):
                raise ConfigError(f"script {self.name} must return the next turn (str), got {type(text).__name__}")
            observation = yield Turn(text)
            chat += [{"role": "assistant", "content": text}, {"role": "tool", "content": observation}]


def load_script(path: str) -> Script:
    """``module.function`` -> the function.

    Raises:
        ConfigError: no such module or function.
    """
    module, _, name = path.rpartition(".")
    if not module:
        raise ConfigError(f"script:{path} must name a module and a function in it, e.g. script:my_policy.act")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"script:{path}: cannot import {module!r} ({error}); is its folder on PYTHONPATH?") from error
    function = getattr(found, name, None)
    if not callable(function):
        names = [n for n, value in vars(found).items() if callable(value) and not n.startswith("_")]
        raise unknown(f"function of {module}", name, names)
    return function  # type: ignore[no-any-return]  # checked when its first turn is read
