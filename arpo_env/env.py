"""``AgentEnv``: one agentic episode as a Gymnasium environment that can be forked mid-episode.

An action is one assistant turn (text), an observation is the *new* text only: the question, then results.
The whole chat is in ``info["messages"]``. The environment knows text, never tokens.

What ends an episode::

    terminated   the policy answered, or (``on_malformed="end"``) ended a turn without a valid action
    truncated    a budget ran out: ``max_turns`` here, or tokens, told by the driver through :meth:`truncate`

THE LAW (tested for every id): after ``b = a.clone()``, ``a.step(x) == b.step(x)``, and no later step of one
is seen by the other, the interpreter's variables and files included.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from arpo_env import protocol
from arpo_env.errors import ConfigError, unknown
from arpo_env.prompts import PROMPTS, system_prompt
from arpo_env.rewards.arpo import ArpoReward
from arpo_env.spaces import UnicodeText
from arpo_env.tasks.base import SPLITS, Task, TaskFamily, parse_task_id
from arpo_env.tools.base import Tool, ToolSession

#: Split -> the tools of its episodes (a split may have its own corpus).
ToolFactory = Callable[[str], Sequence[Tool]]
StepResult = tuple[str, float, bool, bool, dict[str, Any]]
STATE_VERSION = 1
_NAME = re.compile(r"[A-Za-z][\w-]*")


@dataclass(slots=True)
class _Episode:
    """All that changes in an episode, but for the tool sessions; JSON-able field by field."""

    task: Task
    messages: list[dict[str, str]]
    turn: int = 0
    tool_calls: int = 0
    calls_ok: dict[str, int] = field(default_factory=dict)  # tool -> calls that worked and gave something
    thoughts_opened: int = 0
    thoughts_closed: int = 0
    malformed: int = 0
    tool_faults: int = 0
    done: bool = False


class AgentEnv(gymnasium.Env[str, str]):
    """An agent solves tasks of one family with tools.

    Args:
        family: where tasks come from, and their verifier.
        tools: split -> tools; each is checked here, so that a tool that cannot start stops a run before it begins.
        split: the split that ``reset`` draws from unless ``options`` name another.
        max_tool_calls: calls that are run; a further one is answered by a result that says so.
        max_turns: turns before truncation; default ``max_tool_calls + 2`` (one told refusal, one answer).
        max_result_chars: cap of one result's text, the cut said in it. None: no cap.
        prompt: name of a system prompt (``compact``, ``paper``).
        on_malformed: ``end`` ends the episode with the format penalty, as the paper's rollouts do;
            ``tell`` answers with the reason, and goes on; the penalty still falls due at the end.
        require_think: a well-formatted episode holds at least one ``<think>`` block.
        thought_opened: the policy's chat template writes the first ``<think>`` itself (QwQ's does), so the policy's
            first turn begins inside that block.
        reward: terms of the reward, see :class:`arpo_env.rewards.arpo.ArpoReward`.

    Raises:
        ConfigError: a value that cannot be used.
        ToolUnavailable: a tool does not work on this machine.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 (Gymnasium's own convention)

    def __init__(
        self,
        family: TaskFamily,
        tools: ToolFactory,
        *,
        split: str = "train",
        max_tool_calls: int = 6,
        max_turns: int | None = None,
        max_result_chars: int | None = 1000,
        prompt: str = "compact",
        on_malformed: Literal["end", "tell"] = "end",
        require_think: bool = True,
        thought_opened: bool = False,
        reward: ArpoReward | None = None,
        render_mode: str | None = None,
    ) -> None:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if prompt not in PROMPTS:
            raise unknown("prompt", prompt, PROMPTS)
        if on_malformed not in ("end", "tell"):
            raise unknown("on_malformed", on_malformed, ("end", "tell"))
        if max_tool_calls < 0:
            raise ConfigError(f"max_tool_calls must be >= 0, got {max_tool_calls}")
        if max_turns is not None and max_turns < 1:
            raise ConfigError(f"max_turns must be >= 1 (or None), got {max_turns}")
        if max_result_chars is not None and max_result_chars < 1:
            raise ConfigError(f"max_result_chars must be >= 1 (or None for no cap), got {max_result_chars}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise unknown("render_mode", render_mode, self.metadata["render_modes"])
        self.family = family
        self.split = split
        self.max_tool_calls = max_tool_calls
        self.max_turns = max_tool_calls + 2 if max_turns is None else max_turns
        self.max_result_chars = max_result_chars
        self.prompt = prompt
        self.on_malformed = on_malformed
        self.require_think = require_think
        self.thought_opened = thought_opened
        self.reward = ArpoReward() if reward is None else reward
        self.render_mode = render_mode
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        #: Seconds spent in tools this episode. On the side: ``info`` holds nothing that depends on the clock.
        self.tool_seconds = 0.0
        self._tool_factory = tools
        self._toolboxes: dict[str, dict[str, Tool]] = {}
        self._stream: int | None = None
        self._next_index = 0
        self._episode: _Episode | None = None
        self._sessions: dict[str, ToolSession] = {}
        self._spec: EnvSpec | None = None
        family.size(split)  # a file without this split says so now, not at the first reset
        self._toolbox(split)

    # ------------------------------------------------------------------ what a driver needs to know

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Where generation of a turn stops: the closing tag of each tool and of the answer."""
        return protocol.stop_strings(self._toolbox(self.split))

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Tags of the tools of its split."""
        return tuple(self._toolbox(self.split))

    @property
    def task(self) -> Task:
        """The task of the current episode."""
        return self._current().task

    @property
    def tool_calls(self) -> int:
        """Calls run in the current episode, also those that failed."""
        return self._current().tool_calls

    @property
    def deterministic(self) -> bool:
        """Whether equal actions always give equal results: False with a tool over the live web."""
        return all(tool.deterministic for box in self._toolboxes.values() for tool in box.values())

    @property
    def spec(self) -> EnvSpec | None:
        """Gymnasium's record of how this environment was made; marked by what its tools are, not by its id alone."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None and not self.deterministic:
            spec = dataclasses.replace(spec, nondeterministic=True)
        self._spec = spec

    # ------------------------------------------------------------------ Gymnasium

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode and return the question.

        ``seed`` starts the task stream ``seed``; each later ``reset()`` takes its next task. Never seeded: a
        stream drawn from the operating system, as everywhere in Gymnasium. ``options``:

        * ``task_id``: exactly that task (``"deepsearch/test/0/17"``);
        * ``index``: that task of the stream (of stream 0 when never seeded);
        * ``split``: ``train``, ``validation`` or ``test``, for this episode.

        Raises:
            ConfigError: an unknown or contradictory option.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        for key in options:
            if key not in ("task_id", "index", "split"):
                raise unknown("reset option", str(key), ("task_id", "index", "split"))
        if seed is not None:
            self._stream, self._next_index = int(seed), 0  # int: True is a seed too, and no part of a task id
        stream, split, index = self._locate(options)
        task = self.family.task(stream, split, index)
        toolbox = self._toolbox(split)
        self.close()
        self._open_sessions(task, toolbox, dict.fromkeys(toolbox))
        raw = self.family.answer_format == "raw"
        prompt = system_prompt(self.prompt, list(toolbox.values()), raw)
        messages = [{"role": "system", "content": prompt}, {"role": "user", "content": task.question}]
        self._episode = _Episode(task, messages, thoughts_opened=int(self.thought_opened))
        self.tool_seconds = 0.0
        return task.question, self._info()

    def step(self, action: str) -> StepResult:
        """Take one assistant turn.

        Raises:
            gymnasium.error.ResetNeeded: there is no episode under way.
            ConfigError: ``action`` is not a string.
            InfraError: the machinery of a tool or of the verifier failed; the episode is void (retry or mask it,
                never score it).
        """
        episode = self._current()
        if episode.done:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset() first")
        if not isinstance(action, str):
            raise ConfigError(f"an action is one assistant turn (str), got {type(action).__name__}")
        inside = self.thought_opened and episode.turn == 0
        parsed = protocol.parse(f"<think>{action}" if inside else action, tuple(self._sessions))
        episode.turn += 1
        episode.messages.append({"role": "assistant", "content": action})
        episode.thoughts_opened += parsed.thoughts.opened - inside  # that one is counted since the reset
        episode.thoughts_closed += parsed.thoughts.closed
        match parsed:
            case protocol.FinalAnswer():
                return self._answered(parsed)
            case protocol.ToolCall():
                text, error = self._call(parsed)
                return self._go_on(self._result(text), tool_error=error)
            case protocol.Malformed():
                episode.malformed += 1
                if self.on_malformed == "end":
                    why = f"malformed:{parsed.reason}"
                    return self._finish(None, None, why, truncated=False, malformed=parsed.reason)
                told = self._result(f"Format error: {parsed.message}")
                return self._go_on(told, tool_error=False, malformed=parsed.reason)

    def truncate(self, reason: str) -> StepResult:
        """End the episode because the driver's budget ran out (tokens, context); the reward is that of no answer.

        Returns the same five values as :meth:`step`, with ``truncated`` True and an empty observation.
        """
        if self._current().done:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset() first")
        return self._finish(None, None, reason, truncated=True)

    def render(self) -> str | None:
        """The chat so far as text, when ``render_mode="ansi"``."""
        if self.render_mode != "ansi":
            return None
        return "\n".join(f"[{m['role']}] {m['content']}" for m in self._current().messages)

    def close(self) -> None:
        """Release the tool sessions and end the episode. Idempotent; tools themselves are shared and stay."""
        if self._episode is not None:
            self._episode.done = True  # without its sessions it cannot go on
        self._close_sessions()

    # ------------------------------------------------------------------ forking and saving

    def clone(self) -> Self:
        """A live fork: same state, same future, then independent. Tools are shared, sessions forked.

        Raises:
            InfraError: a session could not be forked.
        """
        twin = copy.copy(self)
        twin._toolboxes = dict(self._toolboxes)
        twin._episode = copy.deepcopy(self._episode)
        # The property: Gymnasium makes the generator when it is first asked for, and both must get the same one.
        twin._np_random = copy.deepcopy(self.np_random)
        # A space holds the generator of its ``sample``.
        twin.observation_space = copy.deepcopy(self.observation_space)
        twin.action_space = copy.deepcopy(self.action_space)
        twin._sessions = {}
        try:
            for name, session in self._sessions.items():
                twin._sessions[name] = session.fork()
        except BaseException:
            twin.close()
            raise
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = self.clone()
        memo[id(self)] = twin
        return twin

    def get_state(self) -> dict[str, Any]:
        """A JSON-able snapshot that :meth:`set_state` of an equally configured environment restores."""
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "family": self.family.name,
            "stream": self._stream,
            "next_index": self._next_index,
            "rng": self.np_random.bit_generator.state,
            "episode": None if self._episode is None else asdict(self._episode),
            "sessions": {name: session.get_state() for name, session in self._sessions.items()},
        }
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore a snapshot of :meth:`get_state`.

        Raises:
            ConfigError: another version, or a snapshot of an environment with another family or other tools.
            InfraError: a tool session could not be restored; there is then no episode under way.
        """
        if state.get("version") != STATE_VERSION:
            raise ConfigError(
                f"state version {state.get('version')!r} cannot be read; this release writes and reads {STATE_VERSION}"
            )
        if state["family"] != self.family.name:
            raise ConfigError(f"a state of family {state['family']!r} does not fit an env of {self.family.name!r}")
        saved = copy.deepcopy(state["episode"])
        task = None if saved is None else Task(**saved.pop("task"))
        episode = None if task is None else _Episode(task=task, **saved)
        toolbox = {} if task is None else self._toolbox(parse_task_id(task.id)[1])
        if episode is not None and not episode.done and set(state["sessions"]) != set(toolbox):
            raise ConfigError(
                f"a state with the tools {sorted(state['sessions'])} does not fit an env with {sorted(toolbox)}"
            )
        self.close()
        self._stream, self._next_index = state["stream"], state["next_index"]
        bits = np.random.PCG64()
        bits.state = state["rng"]
        self._np_random = np.random.Generator(bits)
        self._episode = None  # as long as no session is open
        if task is not None:
            self._open_sessions(task, toolbox, state["sessions"])
        self._episode = episode

    # ------------------------------------------------------------------ inside

    def _toolbox(self, split: str) -> dict[str, Tool]:
        """The tools of ``split`` by name, each proved to work when it is first met."""
        if split not in self._toolboxes:
            known = [tool for box in self._toolboxes.values() for tool in box.values()]
            made: dict[str, Tool] = {}
            for tool in self._tool_factory(split):
                if tool.name in made or tool.name in protocol.CORE_TAGS or not _NAME.fullmatch(tool.name):
                    raise ConfigError(
                        f"tool name {tool.name!r} cannot be used: a name is a tag of letters, digits, _ and -, "
                        f"is given once, and is none of {', '.join(protocol.CORE_TAGS)}"
                    )
                if not any(tool is other for other in known):
                    tool.check()
                made[tool.name] = tool
            self._toolboxes[split] = made
        return self._toolboxes[split]

    def _open_sessions(self, task: Task, toolbox: Mapping[str, Tool], states: Mapping[str, Any]) -> None:
        """One session a state (None: a fresh one), all or none of them."""
        seed = zlib.crc32(task.id.encode())
        try:
            for name, state in states.items():
                self._sessions[name] = toolbox[name].open(seed, state)
        except BaseException:
            self._close_sessions()
            raise

    def _result(self, text: str) -> str:
        return protocol.render_result(text, self.max_result_chars, tuple(self._sessions))

    def _locate(self, options: dict[str, Any]) -> tuple[int, str, int]:
        """Options -> (stream, split, index); advances the cursor when nothing names a task."""
        if "task_id" in options:
            if len(options) > 1:
                raise ConfigError(f"task_id already names split and index; drop {sorted(set(options) - {'task_id'})}")
            if not isinstance(options["task_id"], str):
                raise ConfigError(f"option task_id must be a string, got {options['task_id']!r}")
            family, split, stream, index = parse_task_id(options["task_id"])
            if family != self.family.name:
                raise ConfigError(
                    f"task_id {options['task_id']!r} is of family {family!r}, this env is {self.family.name!r}"
                )
            return stream, split, index
        split = options.get("split", self.split)
        if split not in SPLITS:
            raise unknown("split", str(split), SPLITS)
        if "index" in options:
            index = options["index"]
            if not isinstance(index, int | np.integer) or isinstance(index, bool) or index < 0:
                raise ConfigError(f"option index must be an integer >= 0, got {index!r}")
            return self._stream or 0, split, int(index)
        if self._stream is None:
            self._stream = int(self.np_random.integers(2**31))
        index = self._next_index
        self._next_index += 1
        size = self.family.size(split)
        return self._stream, split, index if size is None else index % max(size, 1)

    def _current(self) -> _Episode:
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._episode

    def _call(self, call: protocol.ToolCall) -> tuple[str, bool]:
        """The result's text, and whether the policy erred."""
        episode = self._current()
        if episode.tool_calls >= self.max_tool_calls:
            return f"Tool call limit ({self.max_tool_calls}) reached; nothing was run. Give your answer now.", True
        episode.tool_calls += 1
        start = time.perf_counter()
        try:
            result = self._sessions[call.tool].call(call.argument)
        except BaseException:
            self.close()  # void: a half-done call cannot be taken back
            raise
        finally:
            self.tool_seconds += time.perf_counter() - start
        if result.ok and result.useful:  # an empty call earns no bonus
            episode.calls_ok[call.tool] = episode.calls_ok.get(call.tool, 0) + 1
        episode.tool_faults += result.fault
        return result.text, not (result.ok or result.fault)

    def _go_on(self, observation: str, *, tool_error: bool, malformed: str | None = None) -> StepResult:
        episode = self._current()
        if episode.turn >= self.max_turns:
            return self._finish(None, None, "max_turns", truncated=True, tool_error=tool_error, malformed=malformed)
        episode.messages.append({"role": "tool", "content": observation})
        return observation, 0.0, False, False, self._info(tool_error=tool_error, malformed=malformed)

    def _answered(self, action: protocol.FinalAnswer) -> StepResult:
        raw = self.family.answer_format == "raw"
        answer = action.text if raw else action.boxed
        return self._finish(answer, action, "answered", truncated=False)

    def _finish(
        self,
        answer: str | None,
        action: protocol.FinalAnswer | None,
        reason: str,
        *,
        truncated: bool,
        tool_error: bool = False,
        malformed: str | None = None,
    ) -> StepResult:
        episode = self._current()
        verdict_score, verdict_reason = 0.0, ""
        if answer is not None:
            try:
                verdict = self.family.verify(episode.task, answer)
            except BaseException:
                self.close()  # void: an answer that could not be judged has no reward
                raise
            verdict_score, verdict_reason = verdict.score, verdict.reason
        balanced = episode.thoughts_opened == episode.thoughts_closed
        thought = episode.thoughts_opened > 0 or not self.require_think
        format_ok = action is not None and answer is not None and episode.malformed == 0 and balanced and thought
        terms = self.reward(verdict_score, format_ok, episode.calls_ok)
        episode.done = True
        self._close_sessions()
        info = self._info(tool_error=tool_error, malformed=malformed)
        info.update(
            reward_terms=dict(terms),
            score=verdict_score,
            is_success=verdict_score >= 1.0,
            answer=answer,
            stop_reason=reason,
            format_ok=format_ok,
            verdict=verdict_reason,
        )
        reward: SupportsFloat = sum(terms.values())
        return "", float(reward), not truncated, truncated, info

    def _info(self, *, tool_error: bool = False, malformed: str | None = None) -> dict[str, Any]:
        episode = self._current()
        return {
            "task_id": episode.task.id,
            "turn": episode.turn,
            "tool_calls": episode.tool_calls,
            "tool_error": tool_error,
            "tool_faults": episode.tool_faults,
            "malformed": malformed,
            "reward_terms": {},
            "is_success": False,
            "answer": None,
            "stop_reason": None,
            "messages": [dict(m) for m in episode.messages],
        }

    def _close_sessions(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions = {}
