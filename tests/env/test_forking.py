"""THE LAW, for every id: after a fork both go on alike, and no later step of one is seen by the other.

Forked by ``clone()`` and by ``copy.deepcopy`` through Gymnasium's wrappers; restored from JSON as well.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_env import CASES, agent, make, play, toy

from arpo_env.env import AgentEnv
from arpo_env.errors import ConfigError, InfraError
from arpo_env.protocol import answer_turn, result_body, tool_turn

PYTHON = [
    "n = globals().get('n', 0) + 1\nn",
    "words = globals().get('words', [])\nwords.append(n)\nwords",
    "import random\nrandom.random(), random.randint(0, 10**9)",
    "with open('log', 'a') as f:\n    f.write('line\\n')\nopen('log').read()",
    "import os\nsorted(os.listdir('.'))",
    "squares = globals().get('squares') or (i * i for i in range(99))\nnext(squares)",
    "def f(x):\n    return x + globals().get('n', 0)\nf(1)",
    "1 / 0",
    "this is no Python",
    "print('a < b', '</re' + 'sult>')",
    "",
]
SEARCH = ["Where was the founder born?", "river", "zzzz qqqq", "", "x" * 2000]
NOTEBOOK = ["set a 1", "set a 2", "set b 3", "get a", "get b", "draw", "nonsense"]
BAD = ["", "<think>only thoughts</think>", "<python>1", "<search>a</search> b", "<result>x</result>", "</python>"]


def turns(*tools: tuple[str, list[str]]) -> st.SearchStrategy[str]:
    calls = [tool_turn("t", name, argument) for name, arguments in tools for argument in arguments]
    return st.one_of(
        st.sampled_from(calls),
        st.sampled_from(calls),
        st.sampled_from(BAD),
        st.sampled_from([answer_turn("t", "1"), "<answer>no box</answer>"]),
    )


BROWSE = ["https://train.world.invalid/city/3", "1", "find: founded", "https://no.invalid/", "2", ""]
TURNS = turns(("python", PYTHON), ("search", SEARCH), ("browse", BROWSE))
#: Mostly calls, so that most forks happen in the middle of an episode.
CALLS = turns(("python", PYTHON), ("python", PYTHON), ("search", SEARCH), ("search", SEARCH), ("browse", BROWSE))

ENVS: dict[tuple[str, str], gymnasium.Env[str, str]] = {}


def env_of(case: str, folder: Path, **options: Any) -> gymnasium.Env[str, str]:
    """One environment a case for the whole module: an episode begins with reset, whatever came before."""
    key = (case, json.dumps(options))
    if key not in ENVS:
        ENVS[key] = make(case, folder, max_turns=50, max_tool_calls=40, **options)
    return ENVS[key]


@pytest.fixture(scope="module", autouse=True)
def _closed_at_the_end() -> Any:
    yield
    for env in ENVS.values():
        env.close()
    ENVS.clear()


laws = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize("on_malformed", ["tell", "end"])
@pytest.mark.parametrize("case", CASES)
@laws
@given(prefix=st.lists(CALLS, max_size=5), suffix=st.lists(TURNS, min_size=1, max_size=4), seed=st.integers(0, 3))
def test_both_have_the_same_future(
    case: str,
    on_malformed: str,
    prefix: list[str],
    suffix: list[str],
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    env = env_of(case, tmp_path_factory.mktemp("data"), on_malformed=on_malformed)
    env.reset(seed=seed)
    play(env, prefix)
    clone = agent(env).clone()
    deep = copy.deepcopy(env)
    assert type(deep) is type(env)
    assert agent(deep) is not agent(env)
    state = json.loads(json.dumps(agent(env).get_state()))
    restored = agent(env_of(case, tmp_path_factory.mktemp("data"), on_malformed=on_malformed, render_mode="ansi"))
    restored.set_state(state)
    try:
        expected = play(env, suffix)
        assert play(clone, suffix) == expected
        assert play(deep, suffix) == expected
        assert play(restored, suffix) == expected
        # The stream of tasks goes on alike too.
        assert env.reset() == clone.reset() == deep.reset() == restored.reset()
    finally:
        clone.close()
        deep.close()


@pytest.mark.parametrize("case", [case for case in CASES if "only" not in case])
def test_neither_sees_the_other(case: str, tmp_path: Path) -> None:
    """Interpreter variables, files, the random stream, an open file's offset, a generator, the working directory."""
    env = make(case, tmp_path, max_turns=50, max_tool_calls=40)
    env.reset(seed=1)

    def run(e: gymnasium.Env[str, str], code: str) -> str:
        observation, _, _, _, info = e.step(tool_turn("t", "python", code))
        assert not info["tool_error"], observation
        return result_body(observation).strip()

    run(env, "x = ['root']\nwith open('f', 'w') as f: f.write('root ')\ng = iter(range(99))\nnext(g)")
    run(env, "import random, os\nos.mkdir('d')\nh = open('f')\nh.read(2)")
    twins = {"left": copy.deepcopy(env), "right": agent(env).clone(), "again": copy.deepcopy(copy.deepcopy(env))}
    everyone = {"root": env, **twins}
    for name, e in everyone.items():
        run(e, f"x.append({name!r})\nwith open('f', 'a') as f: f.write({name!r})")
    for name, e in everyone.items():
        assert run(e, "x") == repr(["root", name])
        assert run(e, "open('f').read()") == repr(f"root {name}")
        assert run(e, "next(g), h.read(2)") == "(1, 'ot')"
    draws = {name: run(e, "random.random()") for name, e in everyone.items()}
    assert len(set(draws.values())) == 1  # the same future ...
    run(env, "[random.random() for _ in range(5)]\nos.chdir('d')\nos.remove('../f')")
    rest = {name: run(e, "random.random(), os.path.exists('f'), sorted(os.listdir('.'))") for name, e in twins.items()}
    assert len(set(rest.values())) == 1  # ... and then independent
    assert "True" in rest["left"]
    assert run(env, "os.path.exists('../f'), os.listdir('.')") == "(False, [])"
    # Ending one ends no other.
    env.close()
    assert run(twins["right"], "x") == repr(["root", "right"])
    for e in twins.values():
        e.close()


def test_a_directory_is_listed_alike(tmp_path: Path) -> None:
    """``print(os.listdir())`` is a common call; an order that differs between siblings breaks the law."""
    env = make("ARPO-Math-v0", tmp_path)
    env.reset(seed=0)
    env.step(tool_turn("t", "python", "for name in 'dbcae': open(name, 'w').close()"))
    twin = copy.deepcopy(env)
    look = tool_turn("t", "python", "import os\nos.listdir('.')")
    try:
        assert env.step(look) == twin.step(look)
    finally:
        env.close()
        twin.close()


@given(
    prefix=st.lists(turns(("python", NOTEBOOK), ("search", NOTEBOOK)), max_size=6),
    left=st.lists(turns(("python", NOTEBOOK)), max_size=5),
    right=st.lists(turns(("python", NOTEBOOK)), max_size=5),
)
@settings(deadline=None)
def test_diverging_is_as_if_alone(prefix: list[str], left: list[str], right: list[str]) -> None:
    """What a fork sees is what an environment sees that lived the same history and was never forked."""

    def alone(actions: list[str]) -> list[Any]:
        env, _, _ = toy(on_malformed="tell", max_tool_calls=8)
        env.reset(seed=0)
        return play(env, actions)

    env, _, _ = toy(on_malformed="tell", max_tool_calls=8)
    env.reset(seed=0)
    seen = play(env, prefix)
    twin = copy.deepcopy(env)
    # Step by step in turns, so that a leak in either direction shows.
    a, b = list(seen), list(seen)
    for k in range(max(len(left), len(right))):
        a += play(env, left[k : k + 1])
        b += play(twin, right[k : k + 1])
    assert a == alone(prefix + left)
    assert b == alone(prefix + right)


def test_wrappers_fork_with_their_own_counters() -> None:
    env, _, _ = toy(max_turns=20)
    limited = gymnasium.wrappers.TimeLimit(env, max_episode_steps=3)
    limited.reset(seed=0)
    limited.step(tool_turn("t", "python", "draw"))
    twin = copy.deepcopy(limited)
    limited.step(tool_turn("t", "python", "draw"))
    assert limited.step(tool_turn("t", "python", "draw"))[3]
    assert not twin.step(tool_turn("t", "python", "draw"))[3]


def test_spaces_are_forked_too() -> None:
    env, _, _ = toy()
    env.action_space.seed(3)
    env.observation_space.seed(3)
    twin = env.clone()
    assert [env.action_space.sample() for _ in range(3)] == [twin.action_space.sample() for _ in range(3)]
    assert env.observation_space.sample() == twin.observation_space.sample()


def test_the_unseeded_stream_is_forked_too() -> None:
    env, _, _ = toy()
    env.reset()
    twin = env.clone()
    assert env.reset() == twin.reset()


@pytest.mark.parametrize("when", ["before reset", "after the end", "after close"])
def test_an_environment_without_an_episode_forks_too(when: str) -> None:
    env, _, _ = toy()
    if when != "before reset":
        env.reset(seed=4)
    if when == "after the end":
        env.step("over")
    if when == "after close":
        env.close()
    twin = env.clone()
    restored, _, _ = toy()
    restored.set_state(json.loads(json.dumps(env.get_state())))
    for other in (env, twin, restored):
        with pytest.raises(gymnasium.error.ResetNeeded):
            other.step("x")
    assert env.reset() == twin.reset() == restored.reset()  # before any seed too


def test_a_fork_that_fails_leaves_nothing_behind() -> None:
    env, python, search = toy()
    env.reset(seed=0)
    python.fork_fails = True  # the second of the two
    with pytest.raises(InfraError, match="no more processes"):
        env.clone()
    assert (python.still_open(), search.still_open()) == (1, 1)
    assert env.step(answer_turn("t", env.task.answer))[1] == 1.0  # the original lives on


def test_tools_are_shared_and_sessions_are_not() -> None:
    env, python, _ = toy()
    env.reset(seed=0)
    twins = [env.clone() for _ in range(3)]
    assert python.checks == 1
    assert python.still_open() == 4
    for twin in twins:
        twin.close()
    assert python.still_open() == 1


# ---------------------------------------------------------------------------------------------- saved states


def saved() -> dict[str, Any]:
    env, _, _ = toy()
    env.reset(seed=0)
    env.step(tool_turn("t", "python", "set a 1"))
    state: dict[str, Any] = json.loads(json.dumps(env.get_state()))
    return state


def test_a_state_is_a_snapshot() -> None:
    env, _, _ = toy()
    env.reset(seed=0)
    state = env.get_state()
    before = json.dumps(state)
    env.step(tool_turn("t", "python", "set a 1"))
    assert json.dumps(state) == before
    other, _, _ = toy()
    other.set_state(state)
    other.step(tool_turn("t", "python", "set a 1"))
    assert json.dumps(state) == before


def test_setting_a_state_replaces_all_there_was() -> None:
    env, python, _ = toy()
    env.reset(seed=9)
    env.step(tool_turn("t", "python", "set b 2"))
    env.set_state(saved())
    assert env.get_state() == saved()
    assert python.still_open() == 1
    assert result_body(env.step(tool_turn("t", "python", "get b"))[0]) == "unset"
    assert result_body(env.step(tool_turn("t", "python", "get a"))[0]) == "1"


def test_a_state_that_does_not_fit_is_refused_and_harms_nothing() -> None:
    env, python, _ = toy()
    env.reset(seed=0)
    only = AgentEnv(env.family, lambda split: [python])
    for other, change, message in (
        (env, {"version": 99}, "state version 99 cannot be read"),
        (env, {"family": "math"}, "family 'math' does not fit an env of 'toy'"),
        (only, {}, r"tools \['python', 'search'\] does not fit an env with \['python'\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            other.set_state({**saved(), **change})
    assert env.step(answer_turn("t", env.task.answer))[1] == 1.0


def test_a_session_that_cannot_be_restored_leaves_no_episode() -> None:
    env, python, search = toy()
    env.reset(seed=0)
    python.open_fails = True
    with pytest.raises(InfraError, match="cannot open"):
        env.set_state(saved())
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("x")
    assert python.still_open() == search.still_open() == 0
