"""Wrappers for agents: another tool budget, a price on steps, a record of what happened.

Each is a plain :class:`gymnasium.Wrapper` that keeps plain values, so ``copy.deepcopy`` forks it with the environment
inside. (``AgentEnv.clone`` and ``get_state`` know nothing of wrappers.) Each also has ``truncate``: a driver whose
token budget runs out ends an episode without a step, and must do so through the wrappers:
``env.get_wrapper_attr("truncate")("max_tokens")``.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import gymnasium

from arpo_env import lines
from arpo_env.env import AgentEnv, StepResult
from arpo_env.errors import ConfigError

_Env = gymnasium.Env[str, str]


class _AgentWrapper(gymnasium.Wrapper[str, str, str, str]):
    """What all three share: an :class:`AgentEnv` inside, and ``truncate`` passed on."""

    def __init__(self, env: _Env) -> None:
        super().__init__(env)
        if not isinstance(env.unwrapped, AgentEnv):
            raise ConfigError(f"{type(self).__name__} wraps an AgentEnv, got {env.unwrapped!r}")

    @property
    def agent(self) -> AgentEnv:
        """The environment inside all wrappers."""
        inner = self.unwrapped
        assert isinstance(inner, AgentEnv)
        return inner

    def truncate(self, reason: str) -> StepResult:
        """:meth:`AgentEnv.truncate`, seen by this wrapper and those inside it."""
        ended: StepResult = self.env.get_wrapper_attr("truncate")(reason)
        return ended


class ToolBudget(_AgentWrapper):
    """Another number of tool calls an episode, and another one for a single episode.

    ``reset(options={"tool_budget": n})`` holds for that episode; else ``calls``. The turns beyond the calls stay as
    many as the environment had. A snapshot of ``get_state`` does not hold the budget: it belongs to the configuration.

    Raises:
        ConfigError: a budget that is not an integer >= 0.
    """

    def __init__(self, env: _Env, calls: int) -> None:
        super().__init__(env)
        self.calls = _checked_calls("calls", calls)
        self._spare_turns = max(1, self.agent.max_turns - self.agent.max_tool_calls)
        self._apply(self.calls)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        rest = dict(options or {})
        calls = _checked_calls("option tool_budget", rest.pop("tool_budget", self.calls))
        began = self.env.reset(seed=seed, options=None if options is None else rest)
        self._apply(calls)
        return began

    def _apply(self, calls: int) -> None:
        self.agent.max_tool_calls = calls
        self.agent.max_turns = calls + self._spare_turns


def _checked_calls(what: str, calls: Any) -> int:
    if isinstance(calls, bool) or not isinstance(calls, int) or calls < 0:
        raise ConfigError(f"{what} must be an integer >= 0, got {calls!r}")
    return calls


class StepPenalty(_AgentWrapper):
    """A price on turns, tool calls and failed calls; ``reward_terms["step_penalty"]`` says what was charged.

    Args:
        turn: price of a turn, the answer included.
        call: price of a tool call that was run.
        error: price of a call that failed or was refused.
        at_end: charge it all with the last step (default), for algorithms that read an episode's last reward; else
            each step pays its own. The sum over an episode is the same.

    Raises:
        ConfigError: a price that is negative or not finite.
    """

    def __init__(
        self, env: _Env, *, turn: float = 0.0, call: float = 0.0, error: float = 0.0, at_end: bool = True
    ) -> None:
        super().__init__(env)
        for name, price in (("turn", turn), ("call", call), ("error", error)):
            if not 0.0 <= price < math.inf:
                raise ConfigError(f"the price of {name} must be a finite number >= 0, got {price!r}")
        self.turn, self.call, self.error, self.at_end = turn, call, error, at_end
        self._owed = 0.0
        self._calls = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        began = self.env.reset(seed=seed, options=options)
        self._owed, self._calls = 0.0, 0
        return began

    def step(self, action: str) -> StepResult:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._owed += self.turn + self.call * (info["tool_calls"] - self._calls) + self.error * info["tool_error"]
        self._calls = info["tool_calls"]
        return self._charged((observation, float(reward), terminated, truncated, info))

    def truncate(self, reason: str) -> StepResult:
        return self._charged(super().truncate(reason))

    def _charged(self, step: StepResult) -> StepResult:
        observation, reward, terminated, truncated, info = step
        charged = 0.0 if self.at_end and not (terminated or truncated) else self._owed
        self._owed -= charged
        terms = {**info["reward_terms"], "step_penalty": 0.0 - charged}
        return observation, reward - charged, terminated, truncated, {**info, "reward_terms": terms}


class RecordTrajectories(_AgentWrapper):
    """One JSON line an ended episode, appended whole or not at all; made to be resumed and shared.

    A line holds ``task_id``, ``fork``, ``messages`` (the whole chat), ``reward`` (the sum over the episode),
    ``reward_terms``, ``is_success``, ``answer``, ``stop_reason``, ``turns``, ``tool_calls``, ``terminated``,
    ``truncated``, and ``extra``. Nothing depends on the clock. ``fork`` says where a trajectory left another:
    ``[]`` for one that was never forked, ``[[2, 1], [3, 1]]`` for the first fork taken at turn 3 of the first fork
    taken at turn 2. Episodes that were left before their end, or void (``InfraError``), are not recorded.

    The file is locked and opened a line: forks, threads and processes may write to one file, and a deep copy shares
    nothing. A line that a crash cut short is taken out by the next write. To resume, ask :func:`read_trajectories`
    for the ``task_id`` of what is there.

    Args:
        env: the environment; wrappers inside this one are in the recorded reward, those outside are not.
        path: the file; its folder must exist.
        extra: JSON-able fields of your own, the same in every line (model, run …).

    Raises:
        ConfigError: there is no such folder, or ``extra`` is not JSON-able.
    """

    def __init__(self, env: _Env, path: str | Path, *, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(env)
        self.path = Path(path).absolute()
        if not self.path.parent.is_dir():
            raise ConfigError(f"there is no folder {self.path.parent} to record into; make it first")
        try:
            self.extra = json.loads(json.dumps(dict(extra or {})))
        except TypeError as error:
            raise ConfigError(f"extra must be JSON-able: {error}") from error
        self._fork: list[list[int]] = []
        self._forked = 0
        self._return = 0.0
        self._turn = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        began = self.env.reset(seed=seed, options=options)
        self._fork, self._forked, self._return, self._turn = [], 0, 0.0, 0
        return began

    def step(self, action: str) -> StepResult:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._seen((observation, float(reward), terminated, truncated, info))

    def truncate(self, reason: str) -> StepResult:
        return self._seen(super().truncate(reason))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.env = copy.deepcopy(self.env, memo)
        self._forked += 1
        twin._fork = [*self._fork, [self._turn, self._forked]]
        twin._forked = 0
        return twin

    def _seen(self, step: StepResult) -> StepResult:
        _, reward, terminated, truncated, info = step
        self._return += reward
        self._turn = info["turn"]
        if terminated or truncated:
            # ASCII: a lone surrogate, which a model's text may hold, has no UTF-8.
            record = json.dumps(self._record(terminated, truncated, info), ensure_ascii=True)
            lines.append(self.path, record.encode() + b"\n")
        return step

    def _record(self, terminated: bool, truncated: bool, info: Mapping[str, Any]) -> dict[str, Any]:
        kept = ("messages", "reward_terms", "is_success", "answer", "stop_reason", "tool_calls")
        return {
            "task_id": info["task_id"],
            "fork": self._fork,
            "reward": self._return,
            "turns": info["turn"],
            "terminated": terminated,
            "truncated": truncated,
            **{name: info[name] for name in kept},
            "extra": self.extra,
        }


def read_trajectories(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a file, in the order written; none when there is no file yet.

    A torn last line (a crash, or a write under way) is passed over.

    Raises:
        ConfigError: another line is not a JSON object; names file and line.
    """
    if not Path(path).exists():
        return
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not lines.is_record(line):
                if not line.endswith(b"\n"):
                    return
                raise ConfigError(f"{path}, line {number}: not a JSON object: {line[:60]!r}")
            record: dict[str, Any] = json.loads(line)
            yield record
