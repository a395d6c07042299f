"""``ThreadVectorEnv``: steps overlap, order does not depend on who is done first, and Gymnasium's rules hold."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from toy_env import NotebookSession, NotebookTool, ToyFamily, toy

import arpo_env  # noqa: F401 (registers the ids)
from arpo_env.env import AgentEnv
from arpo_env.errors import ConfigError, InfraError
from arpo_env.protocol import answer_turn, result_body, tool_turn
from arpo_env.tools.base import ToolResult
from arpo_env.vector import ThreadVectorEnv, spread_seed

DRAW = tool_turn("t", "python", "draw")
PATIENCE = 30.0  # only ever waited for when a test fails


def plain(**options: Any) -> AgentEnv:
    return toy(**options)[0]


class Hooked(NotebookTool):
    """A tool that runs ``hook`` in every call before answering."""

    def __init__(self, hook: Callable[[str], None]) -> None:
        super().__init__("python")
        self.hook = hook

    def open(self, seed: int, state: Any = None) -> NotebookSession:
        session = super().open(seed, state)
        answer, hook = session.call, self.hook

        def call(argument: str) -> ToolResult:
            hook(argument)
            return answer(argument)

        session.call = call  # type: ignore[method-assign]
        return session


def hooked(hook: Callable[[str], None], n: int, **options: Any) -> ThreadVectorEnv:
    return ThreadVectorEnv([lambda: AgentEnv(ToyFamily(), lambda split: [Hooked(hook)])] * n, **options)


def equal(a: Any, b: Any) -> bool:
    """Equality of vector results: arrays, object arrays, nested infos."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and equal(a.tolist(), b.tolist())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


# ---------------------------------------------------------------------------------------------- overlap and order


def test_steps_overlap() -> None:
    """Each call waits until all four are inside: one after the other would never get there."""
    barrier = threading.Barrier(4, timeout=PATIENCE)
    env = hooked(lambda argument: barrier.wait() and None, 4)
    env.reset(seed=0)
    for _ in range(3):
        env.step([DRAW] * 4)
    assert not barrier.broken
    env.close()


def test_max_workers_bounds_the_overlap() -> None:
    inside, most, lock = set[int](), [0], threading.Lock()
    pair = threading.Barrier(2, timeout=PATIENCE)

    def hook(argument: str) -> None:
        with lock:
            inside.add(threading.get_ident())
            most[0] = max(most[0], len(inside))
        pair.wait()
        with lock:
            inside.discard(threading.get_ident())

    env = hooked(hook, 6, max_workers=2)
    env.reset(seed=0)
    env.step([DRAW] * 6)
    assert most[0] == 2
    env.close()


def test_results_are_in_order_whoever_is_done_first() -> None:
    """Environment 0 may only go on once 1 has answered, and 1 once 2 has: they end in reverse."""
    done = [threading.Event() for _ in range(4)]
    done[3].set()
    ended: list[int] = []

    def hook(argument: str) -> None:
        i = int(argument.split()[2])
        assert done[i + 1].wait(PATIENCE)
        ended.append(i)
        done[i].set()

    env = hooked(hook, 3)
    env.reset(seed=0)
    observations, _, _, _, infos = env.step([tool_turn("t", "python", f"set me {i}") for i in range(3)])
    assert ended == [2, 1, 0]
    assert [result_body(o) for o in observations] == ["me is 0", "me is 1", "me is 2"]
    assert [m[-1]["content"] for m in infos["messages"]] == list(observations)
    env.close()


# ---------------------------------------------------------------------------------------------- the same as Gymnasium's

SCRIPT = [
    [DRAW, answer_turn("t", "1"), tool_turn("t", "search", "nonsense")],
    [DRAW, DRAW, "malformed"],
    [answer_turn("t", "2"), DRAW, DRAW],
    [DRAW, DRAW, answer_turn("t", "3")],
    [DRAW, answer_turn("t", "4"), DRAW],
]


def run(env: VectorEnv[Any, Any, Any], script: list[list[str]] = SCRIPT) -> list[Any]:
    seen: list[Any] = [env.reset(seed=[5, 6, None])]
    seen[0] = [seen[0][0][:2], seen[0][1]["turn"]]  # the third is unseeded
    env.reset(seed=[5, 6, 7])
    seen += [env.step(tuple(actions)) for actions in script]
    env.close()
    return seen


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_same_as_sync(mode: AutoresetMode) -> None:
    ours, theirs = (run(kind([plain] * 3, autoreset_mode=mode)) for kind in (ThreadVectorEnv, SyncVectorEnv))  # type: ignore[operator]
    assert equal(ours, theirs)
    if mode is AutoresetMode.SAME_STEP:
        infos = ours[1][4]
        assert infos["_final_obs"].tolist() == [False, True, False]
        assert infos["final_obs"].tolist() == [None, "", None]
        assert infos["final_info"]["answer"].tolist() == [None, "1", None]
    else:
        assert ours[1][2].tolist() == [False, True, False]
        assert ours[2][1].tolist() == [0.0, 0.0, -1.0]
        assert ours[2][0][1].endswith("?")  # reset: the action was ignored
        assert "final_obs" not in ours[2][4]


def test_the_same_as_async_in_processes() -> None:
    """The same environments of the suite in threads, one after the other, and in processes."""
    make = functools.partial(
        gymnasium.make, "arpo_env:ARPO-DeepSearch-v0", pages=120, tools=("search",), arithmetic=0.0
    )
    script = [[tool_turn("t", "search", "river"), answer_turn("t", "1")], [answer_turn("t", "x"), DRAW], ["a", "b"]]

    def play(env: VectorEnv[Any, Any, Any]) -> list[Any]:
        seen = [env.reset(seed=[1, 2]), *(env.step(tuple(actions)) for actions in script)]
        env.close()
        return seen

    # spawn: forking a process that has threads is unsafe, and Python 3.12 says so.
    apart = play(AsyncVectorEnv([make] * 2, shared_memory=False, context="spawn"))
    threads = play(ThreadVectorEnv([make] * 2))
    assert equal(threads, play(SyncVectorEnv([make] * 2)))
    assert [step[0] for step in threads] == [step[0] for step in apart]
    assert equal(threads, apart)


def test_spaces_and_metadata() -> None:
    env = ThreadVectorEnv([plain] * 3, autoreset_mode="SameStep")
    assert env.num_envs == 3
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert "autoreset_mode" not in AgentEnv.metadata
    observations, infos = env.reset(seed=0)
    assert isinstance(observations, tuple)
    assert observations in env.observation_space
    assert env.action_space.sample() in env.action_space
    assert infos["turn"].tolist() == [0, 0, 0]
    assert infos["_turn"].all()
    assert env.get_attr("max_tool_calls") == (6, 6, 6)
    env.set_attr("max_tool_calls", [1, 2, 3])
    assert env.get_attr("max_tool_calls") == (1, 2, 3)
    env.set_attr("on_malformed", "tell")
    assert env.call("truncate", "test")[2][3] is True
    assert len(env.np_random) == 3
    assert env.np_random_seed == tuple(spread_seed(0, 3))
    assert env.render() == (None, None, None)
    env.close()


def test_numeric_environments_work_as_well() -> None:
    def play(env: VectorEnv[Any, Any, Any]) -> list[Any]:
        seen = [env.reset(seed=[1, 2])[0], *(env.step(np.array([0, 1]))[:4] for _ in range(30))]
        env.close()
        return seen

    make = functools.partial(gymnasium.make, "CartPole-v1")
    assert equal(play(ThreadVectorEnv([make] * 2)), play(SyncVectorEnv([make] * 2)))


# ---------------------------------------------------------------------------------------------- seeds and resets


def test_an_integer_seed_is_spread() -> None:
    env = ThreadVectorEnv([plain] * 4)
    first, again, next_one = (env.reset(seed=seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert len({*first, *next_one}) == 8  # Gymnasium's seed + i would share three
    assert spread_seed(0, 4)[:2] == spread_seed(0, 2)
    assert all(0 <= seed < 2**63 for seed in spread_seed(123, 50))
    explicit, _ = env.reset(seed=[3, 4, 5, 6])
    single = plain()
    assert explicit == tuple(single.reset(seed=seed)[0] for seed in (3, 4, 5, 6))
    assert len(set(env.reset()[0])) == 4
    env.close()


def test_options_reach_every_environment_and_are_left_alone() -> None:
    env = ThreadVectorEnv([plain] * 2)
    options = {"split": "test", "reset_mask": np.array([True, True])}
    _, infos = env.reset(seed=[0, 1], options=options)
    assert [task_id.split("/")[1] for task_id in infos["task_id"]] == ["test", "test"]
    assert set(options) == {"split", "reset_mask"}
    env.close()


def test_disabled_autoreset_and_reset_mask() -> None:
    env = ThreadVectorEnv([plain] * 2, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=[0, 1])
    observations, _, terminated, _, _ = env.step([DRAW, answer_turn("t", "1")])
    assert terminated.tolist() == [False, True]
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"environments \[1\]"):
        env.step([DRAW, DRAW])
    kept, infos = env.reset(seed=[None, 9], options={"reset_mask": np.array([False, True])})
    assert kept[0] == observations[0]
    assert infos["_turn"].tolist() == [False, True]
    _, _, terminated, _, infos = env.step([DRAW, DRAW])
    assert infos["turn"].tolist() == [2, 1]
    assert not terminated.any()
    env.close()


@pytest.mark.parametrize("mask", [[True, False], np.array([1, 0]), np.array([True]), np.array([False, False])])
def test_a_mask_that_cannot_be_is_refused(mask: Any) -> None:
    env = ThreadVectorEnv([plain] * 2)
    with pytest.raises(ConfigError, match="reset_mask"):
        env.reset(options={"reset_mask": mask})
    env.close()


# ---------------------------------------------------------------------------------------------- what goes wrong


def test_an_exception_keeps_its_type_and_names_its_environment() -> None:
    env = ThreadVectorEnv([plain] * 3)
    env.reset(seed=0)
    die = tool_turn("t", "python", "die")
    with pytest.raises(InfraError, match="server died") as caught:
        env.step([DRAW, die, die])
    first, second = caught.value.__notes__
    assert "environment 1" in first
    assert "environment 2" in second
    # Nothing is half counted: all need a reset, and then all is well.
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"\[0, 1, 2\]"):
        env.step([DRAW] * 3)
    env.reset(seed=0)
    assert env.step([DRAW] * 3)[4]["turn"].tolist() == [1, 1, 1]
    env.close()


def test_all_have_ended_when_an_exception_surfaces() -> None:
    """The failing one goes first and the other may end only then: its step must not be left running."""
    failed = threading.Event()
    ended: list[str] = []

    def hook(argument: str) -> None:
        if argument == "fail":
            failed.set()
            raise InfraError("gone")
        assert failed.wait(PATIENCE)
        ended.append(argument)

    env = hooked(hook, 2)
    env.reset(seed=0)
    with pytest.raises(InfraError, match="gone"):
        env.step([tool_turn("t", "python", "fail"), DRAW])
    assert ended == ["draw"]
    env.close()


def test_a_reset_that_fails_names_its_environment() -> None:
    envs = [toy() for _ in range(2)]
    env = ThreadVectorEnv([lambda e=e: e[0] for e in envs])  # type: ignore[misc]
    envs[1][1].open_fails = True
    with pytest.raises(InfraError, match="cannot open") as caught:
        env.reset(seed=0)
    assert "environment 1" in caught.value.__notes__[0]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step([DRAW] * 2)
    env.close()


@pytest.mark.parametrize("actions", [[DRAW], [DRAW] * 3, "ab", []])
def test_a_batch_of_another_size_is_refused(actions: Any) -> None:
    env = ThreadVectorEnv([plain] * 2)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="must hold 2 actions"):
        env.step(actions)
    assert env.step([DRAW, DRAW])[4]["turn"].tolist() == [1, 1]  # and nothing was run
    env.close()


def test_values_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="env_fns is empty"):
        ThreadVectorEnv([])
    with pytest.raises(ConfigError, match="max_workers must be >= 1"):
        ThreadVectorEnv([plain], max_workers=0)
    with pytest.raises(ConfigError, match="'NextStep'"):
        ThreadVectorEnv([plain], autoreset_mode="nextstep")
    env = ThreadVectorEnv([plain] * 2)
    with pytest.raises(ConfigError, match="hold 2 seeds, got 1"):
        env.reset(seed=[1])
    with pytest.raises(ConfigError, match="must hold 2 values"):
        env.set_attr("max_turns", [1])
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step([DRAW, DRAW])
    env.close()


def test_environments_that_differ_are_refused_and_closed() -> None:
    env, python, _ = toy()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="environment 1 has the observation_space"):
        ThreadVectorEnv([lambda: env, lambda: gymnasium.make("CartPole-v1")])  # type: ignore[list-item, return-value]
    assert python.still_open() == 0


def test_close_closes_all_and_ends_the_threads() -> None:
    made = [toy() for _ in range(3)]
    env = ThreadVectorEnv([lambda e=e: e[0] for e in made])  # type: ignore[misc]
    env.reset(seed=0)
    assert any(thread.name.startswith("arpo-env") for thread in threading.enumerate())
    env.close()
    env.close()
    assert [python.still_open() for _, python, _ in made] == [0, 0, 0]
    assert not any(thread.name.startswith("arpo-env") for thread in threading.enumerate())
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.step([DRAW] * 3)
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.reset()
