"""The wrappers: what each does, and that a fork through all of them is a fork."""

from __future__ import annotations

import copy
import json
import os
import threading
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from toy_env import agent, toy

from arpo_env.env import AgentEnv
from arpo_env.errors import ConfigError, InfraError
from arpo_env.lines import append
from arpo_env.protocol import answer_turn, result_body, tool_turn
from arpo_env.wrappers import RecordTrajectories, StepPenalty, ToolBudget, read_trajectories

DRAW, FAIL = tool_turn("t", "python", "draw"), tool_turn("t", "python", "nonsense")


def right(env: gymnasium.Env[str, str]) -> str:
    return answer_turn("t", agent(env).task.answer)


# ---------------------------------------------------------------------------------------------- ToolBudget


def calls_run(env: gymnasium.Env[str, str]) -> int:
    """Call until the environment ends the episode; how many were run."""
    while True:
        _, _, terminated, truncated, info = env.step(DRAW)
        if terminated or truncated:
            assert info["stop_reason"] == "max_turns"
            return int(info["tool_calls"])


def test_a_budget_an_episode() -> None:
    env = ToolBudget(toy(max_tool_calls=2)[0], calls=3)
    env.reset(seed=0)
    assert calls_run(env) == 3
    env.reset(seed=0, options={"tool_budget": 7, "split": "test"})
    assert agent(env).task.id == "toy/test/0/0"
    assert calls_run(env) == 7
    env.reset()
    assert calls_run(env) == 3
    env.reset(options={"tool_budget": 0})
    observation, _, _, _, info = env.step(DRAW)
    assert "limit (0)" in result_body(observation)
    assert info["tool_calls"] == 0
    assert env.step(right(env))[1] == 1.0


def test_a_budget_forks_with_its_episode() -> None:
    env = ToolBudget(toy()[0], calls=2)
    env.reset(seed=0, options={"tool_budget": 4})
    twin = copy.deepcopy(env)
    env.reset(seed=0)
    assert calls_run(env) == 2
    assert calls_run(twin) == 4
    twin.reset()
    assert calls_run(twin) == 2


@pytest.mark.parametrize("budget", [-1, True, 2.5, "3"])
def test_a_budget_that_cannot_be_is_refused(budget: Any) -> None:
    with pytest.raises(ConfigError, match="integer >= 0"):
        ToolBudget(toy()[0], calls=budget)
    env = ToolBudget(toy()[0], calls=1)
    with pytest.raises(ConfigError, match="tool_budget must be"):
        env.reset(options={"tool_budget": budget})


# ---------------------------------------------------------------------------------------------- StepPenalty


@pytest.mark.parametrize("at_end", [True, False])
def test_steps_have_their_price(at_end: bool) -> None:
    env = StepPenalty(toy(max_tool_calls=2)[0], turn=0.5, call=0.25, error=0.125, at_end=at_end)
    env.reset(seed=0)
    paid = []
    for turn in (DRAW, FAIL, DRAW, right(env)):  # run; run and failed; refused; the answer
        _, reward, _, _, info = env.step(turn)
        assert sum(info["reward_terms"].values()) == reward
        paid.append(info["reward_terms"]["step_penalty"])
    each = [-0.75, -0.875, -0.625, -0.5]
    assert paid == ([0.0, 0.0, 0.0, sum(each)] if at_end else each)
    assert reward == 1.0 + paid[-1]
    env.reset(seed=0)
    assert env.step(right(env))[1] == 0.5  # an episode owes nothing of the one before


def test_what_is_owed_forks() -> None:
    env = StepPenalty(toy()[0], turn=0.5)
    env.reset(seed=0)
    env.step(DRAW)
    twin = copy.deepcopy(env)
    env.step(DRAW)
    env.step(DRAW)
    assert twin.step(right(twin))[1] == 0.0
    assert env.step(right(env))[1] == -1.0


def test_the_drivers_end_is_charged_too() -> None:
    env = StepPenalty(toy()[0], turn=0.5)
    outer = gymnasium.wrappers.TimeLimit(env, 10)
    outer.reset(seed=0)
    outer.step(DRAW)
    _, reward, terminated, truncated, info = outer.get_wrapper_attr("truncate")("max_tokens")
    assert (reward, terminated, truncated) == (-1.5, False, True)
    assert info["reward_terms"]["step_penalty"] == -0.5


@pytest.mark.parametrize("price", [-0.1, float("nan"), float("inf")])
def test_a_price_that_cannot_be_is_refused(price: float) -> None:
    with pytest.raises(ConfigError, match="price of call"):
        StepPenalty(toy()[0], call=price)


def test_only_agents_are_wrapped() -> None:
    with pytest.raises(ConfigError, match="wraps an AgentEnv"):
        ToolBudget(gymnasium.make("CartPole-v1"), calls=1)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- RecordTrajectories


def test_one_line_an_episode(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    env = RecordTrajectories(StepPenalty(toy()[0], turn=0.5, at_end=False), file, extra={"model": "none"})
    assert list(read_trajectories(file)) == []
    env.reset(seed=0)
    env.step(DRAW)
    assert not file.exists()
    last = env.step(right(env))[4]
    env.reset()
    env.step(DRAW)  # left before its end: not recorded
    env.reset()
    env.step("\ud800 malformed: a lone surrogate")
    env.reset()
    env.truncate("max_tokens")
    env.reset()
    with pytest.raises(InfraError):
        env.step(tool_turn("t", "python", "die"))
    first, second, third = read_trajectories(file)
    assert first == {
        "task_id": "toy/train/0/0", "fork": [], "reward": 0.0, "turns": 2, "terminated": True, "truncated": False,
        "messages": last["messages"], "is_success": True, "answer": last["answer"], "stop_reason": "answered",
        "reward_terms": {"format": 0.0, "accuracy": 1.0, "tool_bonus": 0.0, "step_penalty": -0.5}, "tool_calls": 1,
        "extra": {"model": "none"},
    }  # fmt: skip
    assert second["stop_reason"] == "malformed:no_action"
    assert second["messages"][-1]["content"] == "\ud800 malformed: a lone surrogate"
    assert (third["stop_reason"], third["truncated"]) == ("max_tokens", True)


def test_forks_are_recorded_apart_and_say_where_they_left(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    env = gymnasium.wrappers.TimeLimit(RecordTrajectories(toy(max_tool_calls=9)[0], file), 20)
    env.reset(seed=0)
    env.step(DRAW)
    a = copy.deepcopy(env)
    b = copy.deepcopy(env)
    a.step(FAIL)
    c = copy.deepcopy(a)
    for e in (c, env, b, a):
        e.step(right(e))
    records = {json.dumps(r["fork"]): r for r in read_trajectories(file)}
    assert list(records) == ["[[1, 1], [2, 1]]", "[]", "[[1, 2]]", "[[1, 1]]"]
    assert [r["turns"] for r in records.values()] == [3, 2, 2, 3]
    assert {r["task_id"] for r in records.values()} == {"toy/train/0/0"}
    assert records["[]"]["messages"] == records["[[1, 2]]"]["messages"]
    env.reset()
    env.step("over")
    assert list(read_trajectories(file))[-1]["fork"] == []


def test_a_run_is_resumed(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"

    def run(stop_after: int) -> list[str]:
        done = {record["task_id"] for record in read_trajectories(file)}
        env = RecordTrajectories(toy()[0], file)
        played = []
        for index in range(5):
            if f"toy/train/0/{index}" in done or len(played) == stop_after:
                continue
            env.reset(seed=0, options={"index": index})
            env.step(right(env))
            played.append(agent(env).task.id)
        return played

    assert run(stop_after=2) == ["toy/train/0/0", "toy/train/0/1"]
    with file.open("ab") as f:
        f.write(b'{"task_id": "toy/train/0/2", "fo')  # the crash
    assert len(list(read_trajectories(file))) == 2
    assert run(stop_after=9) == ["toy/train/0/2", "toy/train/0/3", "toy/train/0/4"]
    assert [r["task_id"][-1] for r in read_trajectories(file)] == list("01234")
    assert run(stop_after=9) == []


@pytest.mark.parametrize(
    ("there", "kept"),
    [(b"", 0), (b'{"a": 1}\n', 1), (b'{"a": 1}', 1), (b'{"a": 1}\n{"b"', 1), (b'{"b', 0), (b"7", 0),
     (b'{"a": 1}\n"' + b"x" * 200_000, 1)],
)  # fmt: skip
def test_what_a_crash_left_is_mended(tmp_path: Path, there: bytes, kept: int) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(there)
    append(file, '{"new": "é"}\n'.encode())
    assert list(read_trajectories(file)) == [{"a": 1}] * kept + [{"new": "é"}]


def test_a_write_that_fails_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.jsonl"
    append(file, b'{"n": 1}\n')
    real = os.pwrite

    def full(fd: int, data: bytes, at: int) -> int:
        if len(data) < 50:
            raise OSError(28, "No space left on device")
        return real(fd, data[:50], at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        append(file, b'{"n": 2}\n' * 7)  # six of them fit
    monkeypatch.undo()
    assert file.read_text() == '{"n": 1}\n'


def test_threads_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    root = RecordTrajectories(toy()[0], file)
    root.reset(seed=0)
    forks = [copy.deepcopy(root) for _ in range(4)]
    start = threading.Barrier(len(forks), timeout=30)

    def play(env: RecordTrajectories) -> None:
        start.wait()
        for index in range(10):
            env.reset(seed=0, options={"index": index})
            env.step("x" * 5000)

    threads = [threading.Thread(target=play, args=(env,)) for env in forks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = sorted(record["task_id"] for record in read_trajectories(file))
    assert written == sorted([f"toy/train/0/{i}" for i in range(10)] * len(forks))


def test_a_broken_line_in_the_middle_is_told(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"a": 1}\nnot json\n{"a": 2}\n')
    with pytest.raises(ConfigError, match="line 2"):
        list(read_trajectories(file))


def test_what_cannot_be_recorded_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        RecordTrajectories(toy()[0], tmp_path / "nowhere" / "t.jsonl")
    with pytest.raises(ConfigError, match="JSON-able"):
        RecordTrajectories(toy()[0], tmp_path / "t.jsonl", extra={"model": object()})


# ---------------------------------------------------------------------------------------------- all of them


def test_all_wrappers_keep_the_law(tmp_path: Path) -> None:
    def wrapped() -> gymnasium.Env[str, str]:
        inner: gymnasium.Env[str, str] = ToolBudget(toy()[0], calls=5)
        inner = RecordTrajectories(StepPenalty(inner, turn=0.1, call=0.1), tmp_path / "t.jsonl")
        return gymnasium.wrappers.TimeLimit(gymnasium.wrappers.OrderEnforcing(inner), 20)

    env = wrapped()
    env.reset(seed=3, options={"tool_budget": 3})
    env.step(DRAW)
    twin = copy.deepcopy(env)
    assert isinstance(twin.unwrapped, AgentEnv)
    suffix = [DRAW, tool_turn("t", "python", "set a 1"), DRAW, right(env)]
    assert [env.step(turn) for turn in suffix] == [twin.step(turn) for turn in suffix]
    assert env.reset() == twin.reset()
    env.step(tool_turn("t", "python", "set a mine"))
    assert result_body(twin.step(tool_turn("t", "python", "get a"))[0]) == "unset"
    assert len(list(read_trajectories(tmp_path / "t.jsonl"))) == 2
