"""``AgentEnv`` by its contract: what it tells, pays, refuses, and when it ends. (Forking: ``test_forking.py``.)"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from toy_env import CASES, NotebookTool, ToyFamily, agent, make, needs_python, options_of, play, toy

from arpo_env.env import AgentEnv
from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.prompts import system_prompt
from arpo_env.protocol import answer_turn, result_body, tool_turn
from arpo_env.rewards.arpo import ArpoReward
from arpo_env.tools.base import Tool
from arpo_env.tools.python import PythonTool

ROOT = Path(__file__).parents[2]
FAMILIES = [case for case in CASES if case != "ARPO-Dataset-v0"]  # those with an expert


def run_expert(env: gymnasium.Env[str, str]) -> tuple[Any, ...]:
    inner = agent(env)
    expert = inner.family.expert(inner.task)
    turn = next(expert)
    while True:
        step = env.step(turn)
        if step[2] or step[3]:
            return step
        turn = expert.send(step[0])


# ---------------------------------------------------------------------------------------------- Gymnasium's contract


@pytest.mark.parametrize("case", CASES)
def test_check_env_passes_without_a_warning(case: str, tmp_path: Path) -> None:
    env = make(case, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("case", CASES)
def test_every_task_survives_json(case: str, tmp_path: Path) -> None:
    env = make(case, tmp_path)
    for _ in range(10):
        env.reset()
        task = asdict(agent(env).task)
        assert json.loads(json.dumps(task)) == task


def test_the_chat_is_in_info_and_the_observation_is_only_what_is_new() -> None:
    env, _, _ = toy()
    question, info = env.reset(seed=0)
    assert [m["role"] for m in info["messages"]] == ["system", "user"]
    assert info["messages"][1]["content"] == question
    call = tool_turn("t", "python", "set a 1")
    observation, reward, terminated, truncated, info = env.step(call)
    assert observation == "<result>\na is 1\n</result>"
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert [m["content"] for m in info["messages"]][2:] == [call, observation]
    assert [m["role"] for m in info["messages"]][2:] == ["assistant", "tool"]
    # What a caller does to its copy stays with the caller.
    info["messages"][1]["content"] = "forged"
    info["messages"].clear()
    assert env.step(call)[4]["messages"][1]["content"] == question


def test_info_keys() -> None:
    env, _, _ = toy()
    _, info = env.reset(seed=0)
    running = {"task_id", "turn", "tool_calls", "tool_error", "tool_faults", "malformed", "reward_terms", "is_success",
               "answer", "stop_reason", "messages"}  # fmt: skip
    assert set(info) == running
    assert info["task_id"] == "toy/train/0/0"
    assert set(env.step(tool_turn("t", "python", "draw"))[4]) == running
    assert set(env.step(answer_turn("t", "1"))[4]) == running | {"format_ok", "score", "verdict"}


def test_render_is_the_chat() -> None:
    env, _, _ = toy(render_mode="ansi")
    question, _ = env.reset(seed=0)
    rendered = env.render()
    assert rendered is not None
    assert rendered.splitlines()[-1] == f"[user] {question}"
    assert toy()[0].render() is None


def test_an_action_is_text() -> None:
    env, _, _ = toy()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"\(str\), got int"):
        env.step(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call", [lambda env: env.step("x"), lambda env: env.truncate("x"), lambda env: env.task, AgentEnv.render]
)
def test_nothing_goes_before_reset(call: Callable[[AgentEnv], Any]) -> None:
    env, _, _ = toy(render_mode="ansi")
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"reset\(\)"):
        call(env)


# ---------------------------------------------------------------------------------------------- rewards


SEARCH, PYTHON = tool_turn("t", "search", "draw"), tool_turn("t", "python", "draw")
FAILED = tool_turn("t", "search", "nonsense")
EMPTY = tool_turn("t", "python", "hush")


@pytest.mark.parametrize(
    ("turns", "answer", "reward", "terms"),
    [
        ([SEARCH, PYTHON], "right", 1.1, (0.0, 1.0, 0.1)),
        ([SEARCH], "right", 1.0, (0.0, 1.0, 0.0)),
        ([], "right", 1.0, (0.0, 1.0, 0.0)),
        ([FAILED, PYTHON], "right", 1.0, (0.0, 1.0, 0.0)),  # a failed call earns nothing
        ([SEARCH, EMPTY], "right", 1.0, (0.0, 1.0, 0.0)),  # nor does one that gave nothing
        ([SEARCH, EMPTY, PYTHON], "right", 1.1, (0.0, 1.0, 0.1)),
        ([SEARCH, PYTHON], "wrong", 0.0, (0.0, 0.0, 0.0)),
        ([SEARCH, PYTHON], "unboxed", -1.0, (-1.0, 0.0, 0.0)),
        ([SEARCH, PYTHON], "thoughtless", 1.1, (0.0, 1.0, 0.1)),  # earlier turns held thoughts
        ([], "thoughtless", -1.0, (-1.0, 0.0, 0.0)),
        ([], "unbalanced", -1.0, (-1.0, 0.0, 0.0)),
    ],
)
def test_reward_terms(turns: list[str], answer: str, reward: float, terms: tuple[float, ...]) -> None:
    env, _, _ = toy()
    env.reset(seed=3)
    right = env.task.answer
    last = {
        "right": answer_turn("t", right),
        "wrong": answer_turn("t", right + "0"),
        "unboxed": answer_turn("t", right, raw=True),
        "thoughtless": rf"<answer>\boxed{{{right}}}</answer>",
        "unbalanced": rf"<think>a</think></think><answer>\boxed{{{right}}}</answer>",
    }[answer]
    for turn in turns:
        assert env.step(turn)[1:4] == (0.0, False, False)
    observation, got, terminated, truncated, info = env.step(last)
    assert (observation, terminated, truncated) == ("", True, False)
    assert got == pytest.approx(reward)
    assert info["reward_terms"] == dict(zip(("format", "accuracy", "tool_bonus"), terms, strict=True))
    assert sum(info["reward_terms"].values()) == got
    assert info["stop_reason"] == "answered"
    assert info["format_ok"] == (reward >= 0)
    # Success is what the verifier says; a right answer in a bad format is right, and pays -1 all the same.
    assert info["is_success"] == (answer in ("right", "thoughtless", "unbalanced"))
    assert info["answer"] == (None if answer == "unboxed" else right + "0" * (answer == "wrong"))


EMPTY_CELLS = ["", "#", "# 1 + 1\n\n  # no", "pass", "x = 1", "import sys; sys.exit()", "print()"]


@pytest.mark.parametrize(
    ("search", "python", "bonus"),
    [*(("all", cell, False) for cell in EMPTY_CELLS), (".", "1", False), ("zzzzqq", "1", False), ("all", "1", True)],
)
def test_empty_calls_earn_no_bonus(search: str, python: str, bonus: bool) -> None:
    needs_python()
    env = gymnasium.make("ARPO-DeepSearch-v0", pages=100)
    env.reset(seed=0)
    title = agent(env).task.question if search == "all" else search  # the question's words find something
    errors = [env.step(tool_turn("t", *call))[4]["tool_error"] for call in (("search", title), ("python", python))]
    _, reward, _, _, info = env.step(answer_turn("t", agent(env).task.answer))
    assert info["is_success"]
    assert reward == pytest.approx(1.1 if bonus else 1.0)
    assert errors == [search == ".", python == "" or python.startswith("#")]  # the policy's mistakes are told
    env.close()


def test_an_assignment_is_honest_where_a_later_cell_shows_something() -> None:
    needs_python()
    env = gymnasium.make("ARPO-DeepSearch-v0", pages=100)
    env.reset(seed=0)
    for call in (("search", agent(env).task.question), ("python", "x = 6"), ("python", "x * 7")):
        assert not env.step(tool_turn("t", *call))[4]["tool_error"]
    assert env.step(answer_turn("t", agent(env).task.answer))[1] == pytest.approx(1.1)
    env.close()


def test_terms_are_an_option() -> None:
    env, _, _ = toy(reward=ArpoReward(both_tools_bonus=0.5, bad_format=-0.25))
    env.reset(seed=0)
    assert env.step("no action")[1] == -0.25
    env.reset(seed=0)
    env.step(SEARCH)
    env.step(PYTHON)
    assert env.step(answer_turn("t", env.task.answer))[1] == 1.5


@pytest.mark.parametrize("case", FAMILIES)
def test_the_expert_of_each_family_scores_one(case: str, tmp_path: Path) -> None:
    env = make(case, tmp_path)
    env.reset(seed=11)
    for index in range(20):
        env.reset(options={"index": index})
        _, reward, terminated, _, info = run_expert(env)
        assert terminated, info
        assert info["is_success"], info
        assert reward == 1.0 + info["reward_terms"]["tool_bonus"]
        assert info["tool_calls"] > 0
    env.close()


@pytest.mark.parametrize("case", CASES)
def test_empty_echoed_and_wrong_answers_do_not_score(case: str, tmp_path: Path) -> None:
    if case == "ARPO-Dataset-v0":
        pytest.importorskip("math_verify", reason="needs the extra tasks")
    env = make(case, tmp_path)
    for index in range(5):
        for text in ("", "ECHO", "certainly not this", "-123456789"):
            question, _ = env.reset(seed=2, options={"index": index})
            _, reward, terminated, _, info = env.step(answer_turn("t", question if text == "ECHO" else text))
            assert terminated
            assert reward <= 0.0, (text, info)
            assert not info["is_success"]
    env.close()


# ---------------------------------------------------------------------------------------------- how an episode ends


def test_a_malformed_turn_ends_the_episode() -> None:
    env, python, _ = toy()
    env.reset(seed=0)
    step = env.step("<think>t</think><python>draw</python> and more")
    assert step[:4] == ("", -1.0, True, False)
    assert step[4]["stop_reason"] == "malformed:trailing_text"
    assert step[4]["malformed"] == "trailing_text"
    assert python.calls == []
    with pytest.raises(gymnasium.error.ResetNeeded, match="over"):
        env.step(PYTHON)


def test_or_is_told_and_paid_for_at_the_end() -> None:
    env, python, _ = toy(on_malformed="tell")
    env.reset(seed=0)
    observation, reward, terminated, _, info = env.step("<think>t</think><python>draw</python> and more")
    assert result_body(observation) == "Format error: text after &lt;/python>; a turn ends with its call."
    assert (reward, terminated, info["malformed"], info["tool_error"]) == (0.0, False, "trailing_text", False)
    assert python.calls == []
    assert env.step(PYTHON)[4]["malformed"] is None
    _, reward, _, _, info = env.step(answer_turn("t", env.task.answer))
    assert (reward, info["is_success"], info["format_ok"]) == (-1.0, True, False)


def test_a_call_over_the_limit_is_told_and_not_run() -> None:
    env, python, _ = toy(max_tool_calls=2)
    env.reset(seed=0)
    env.step(tool_turn("t", "python", "set a 1"))
    env.step(tool_turn("t", "python", "set a 2"))
    observation, reward, terminated, truncated, info = env.step(tool_turn("t", "python", "set a 3"))
    assert "limit (2) reached; nothing was run" in result_body(observation)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["tool_calls"], info["tool_error"]) == (2, True)
    assert python.calls == ["set a 1", "set a 2"]
    assert env.step(answer_turn("t", env.task.answer))[1] == 1.0  # being told costs nothing


def test_max_turns_truncates() -> None:
    env, _, _ = toy(max_turns=2)
    env.reset(seed=0)
    assert env.step(PYTHON)[2:4] == (False, False)
    step = env.step(PYTHON)
    assert step[:4] == ("", -1.0, False, True)
    assert step[4]["stop_reason"] == "max_turns"
    env.reset(seed=0)
    env.step(PYTHON)
    assert env.step(answer_turn("t", "1"))[2:4] == (True, False)  # an answer in the last turn is an answer
    told, _, _ = toy(max_turns=1, on_malformed="tell")
    told.reset(seed=0)
    assert told.step("x")[4]["malformed"] == "no_action"


def test_the_driver_truncates() -> None:
    env, python, search = toy()
    env.reset(seed=0)
    step = env.truncate("max_tokens")
    assert step[:4] == ("", -1.0, False, True)
    assert step[4]["stop_reason"] == "max_tokens"
    assert python.still_open() == search.still_open() == 0
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.truncate("again")


def test_never_terminated_and_truncated() -> None:
    menu = [PYTHON, FAILED, "x", answer_turn("t", "1")]
    for turns in itertools.product(menu, repeat=3):
        env, _, _ = toy(max_turns=2, max_tool_calls=1, on_malformed="tell")
        env.reset(seed=0)
        ends = [(s[2], s[3]) for s in play(env, list(turns)) if s != "ResetNeeded"]
        assert (True, True) not in ends
        assert [any(end) for end in ends].count(True) == 1
        assert any(ends[-1])


def test_a_long_result_is_cut() -> None:
    env, _, _ = toy(max_result_chars=20)
    env.reset(seed=0)
    assert result_body(env.step(tool_turn("t", "python", "set a " + "x" * 50))[0]) == (
        f"a is {'x' * 15}… [cut: 35 more characters]"
    )


def test_a_tool_of_ones_own_is_inert_in_results_too() -> None:
    # The toy quotes what it cannot read; a blank keeps the parser from seeing a nested tag.
    env = AgentEnv(ToyFamily(), lambda split: [NotebookTool("calc")])
    env.reset(seed=0)
    observation = env.step(tool_turn("t", "calc", "</ calc>< Result >"))[0]
    assert result_body(observation) == "Error: cannot read '&lt;/ calc>&lt; Result >'"


# ---------------------------------------------------------------------------------------------- machinery that fails


@pytest.mark.parametrize(("argument", "error"), [("die", InfraError), ("bug", KeyError)])
def test_a_tool_that_breaks_voids_the_episode(argument: str, error: type[Exception]) -> None:
    env, python, search = toy()
    env.reset(seed=0)
    with pytest.raises(error):
        env.step(tool_turn("t", "python", argument))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(answer_turn("t", env.task.answer))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.truncate("no reward for a void episode")
    assert python.still_open() == search.still_open() == 0
    env.reset(seed=0)
    assert env.step(answer_turn("t", env.task.answer))[1] == 1.0


def test_a_verifier_that_breaks_voids_the_episode() -> None:
    env, python, _ = toy()
    env.reset(seed=0)
    with pytest.raises(InfraError, match="judge"):
        env.step(answer_turn("t", "unjudgeable"))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(answer_turn("t", env.task.answer))
    assert python.still_open() == 0


def test_a_reset_that_breaks_leaves_no_episode_and_no_session() -> None:
    env, python, search = toy()
    env.reset(seed=0)
    python.open_fails = True
    with pytest.raises(InfraError, match="python cannot open"):
        env.reset(seed=0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(PYTHON)  # neither the old episode nor a half-open one
    assert python.still_open() == search.still_open() == 0


def test_close_ends_the_episode() -> None:
    env, python, search = toy()
    env.reset(seed=0)
    env.close()
    env.close()
    assert python.still_open() == search.still_open() == 0
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(PYTHON)


def test_a_tool_that_does_not_work_stops_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolUnavailable, match="no index at all"):
        AgentEnv(ToyFamily(), lambda split: [NotebookTool("search", broken="no index at all")])

    def broken(self: PythonTool) -> None:
        raise ToolUnavailable("no isolation here")

    monkeypatch.setattr(PythonTool, "check", broken)
    for env_id in ("ARPO-Math-v0", "ARPO-DeepSearch-v0"):
        with pytest.raises(ToolUnavailable, match="no isolation here"):
            gymnasium.make(env_id)


def test_tools_of_another_split_are_checked_when_they_are_met() -> None:
    shared = NotebookTool("python")
    boxes: dict[str, list[Tool]] = {
        "train": [shared],
        "test": [shared, NotebookTool("search", broken="no test index")],
    }
    env = AgentEnv(ToyFamily(), lambda split: boxes[split])
    env.reset(seed=0)
    with pytest.raises(ToolUnavailable, match="no test index"):
        env.reset(options={"split": "test"})
    assert shared.checks == 1


@pytest.mark.parametrize("names", [("answer",), ("think",), ("python", "python"), ("two words",), ("",), ("a>b",)])
def test_tool_names_that_would_break_the_protocol(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="tool name"):
        AgentEnv(ToyFamily(), lambda split: [NotebookTool(name) for name in names])


# ---------------------------------------------------------------------------------------------- tasks and seeds


@pytest.mark.parametrize("case", CASES)
def test_a_seed_is_a_stream_of_tasks(case: str, tmp_path: Path) -> None:
    first, second = make(case, tmp_path), make(case, tmp_path)
    for seed in (0, 7):
        once = [first.reset(seed=seed), *(first.reset() for _ in range(4))]
        again = [second.reset(seed=seed), *(second.reset() for _ in range(4))]
        assert once == again
        assert len({info["task_id"] for _, info in once}) == 5
        # ... in which index and task_id find the same task.
        assert first.reset(options={"index": 3}) == once[3]
        assert second.reset(options={"task_id": once[3][1]["task_id"]}) == once[3]
    unseeded = make(case, tmp_path)
    ids = {unseeded.reset()[1]["task_id"], make(case, tmp_path).reset()[1]["task_id"]}
    assert len(ids) == 2


@pytest.mark.parametrize("case", FAMILIES)
def test_neighbouring_seeds_and_splits_do_not_overlap(case: str, tmp_path: Path) -> None:
    options = {**options_of(case, tmp_path), **({"pages": 1000} if "DeepSearch" in case else {})}
    family = agent(gymnasium.make(case.split()[0], **options)).family
    n = 200
    by_seed = [[family.task(seed, "train", i).question for i in range(n)] for seed in (0, 1)]
    for shift in range(-3, 4):  # Random(seed + index) shares all items but one, one place on
        pairs = zip(by_seed[0][max(shift, 0) :], by_seed[1][max(-shift, 0) :], strict=False)
        assert sum(a == b for a, b in pairs) <= 2
    # Two draws of a small world meet by chance, now and then, and no more than that.
    assert len(set(by_seed[0]) & set(by_seed[1])) <= n // 10
    test = {family.task(0, "test", i).question for i in range(n)}
    validation = {family.task(0, "validation", i).question for i in range(n)}
    assert not test & {*by_seed[0], *by_seed[1]}
    assert not validation & {*by_seed[0], *by_seed[1]}
    assert not test & validation


def test_a_file_is_walked_once_a_round(tmp_path: Path) -> None:
    env = make("ARPO-Dataset-v0", tmp_path)
    questions = [env.reset(seed=0)[0], *(env.reset()[0] for _ in range(36))]
    assert len(set(questions)) == 37
    assert env.reset()[0] == questions[0]


def test_a_reset_in_the_middle_begins_anew() -> None:
    env, python, _ = toy()
    env.reset(seed=0)
    env.step(tool_turn("t", "python", "set a 1"))
    env.reset(seed=0)
    assert result_body(env.step(tool_turn("t", "python", "get a"))[0]) == "unset"
    assert python.still_open() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taskid": "toy/train/0/0"}, "did you mean 'task_id'"),
        ({"split": "trian"}, "unknown split 'trian'; did you mean 'train'"),
        ({"split": 3}, "unknown split '3'"),
        ({"index": -1}, "index must be an integer >= 0, got -1"),
        ({"index": "4"}, "index must be an integer >= 0, got '4'"),
        ({"index": True}, "index must be an integer >= 0, got True"),
        ({"task_id": "toy/train/0"}, "must look like 'family/split/seed/index'"),
        ({"task_id": 4}, "task_id must be a string, got 4"),
        ({"task_id": "toy/tset/0/0"}, "unknown split 'tset'; did you mean 'test'"),
        ({"task_id": "math/train/0/0"}, "is of family 'math', this env is 'toy'"),
        ({"task_id": "toy/train/0/0", "split": "train"}, r"drop \['split'\]"),
    ],
)
def test_a_reset_option_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    env, _, _ = toy()
    with pytest.raises(ConfigError, match=message):
        env.reset(options=options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "did you mean 'train'"),
        ({"prompt": "compct"}, "unknown prompt 'compct'; did you mean 'compact'"),
        ({"on_malformed": "told"}, "did you mean 'tell'"),
        ({"render_mode": "asci"}, "did you mean 'ansi'"),
        ({"max_tool_calls": -1}, "max_tool_calls must be >= 0, got -1"),
        ({"max_turns": 0}, "max_turns must be >= 1"),
        ({"max_result_chars": 0}, "max_result_chars must be >= 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy(**options)


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("ARPO-Math-v0", {"max_tool_cals": 3}, "option of ARPO-Math-v0 'max_tool_cals'; did you mean 'max_tool_calls'"),
        ("ARPO-DeepSearch-v0", {"hop": (1,)}, "did you mean 'hops'"),
        ("ARPO-DeepSearch-v0", {"tools": ("serch",)}, "unknown tool 'serch'; did you mean 'search'"),
        ("ARPO-DeepSearch-v0", {"tools": "search"}, r"write tools=\('search',\)"),
        ("ARPO-Math-v0", {"sandbox": "bublewrap"}, "did you mean 'bubblewrap'"),
        ("ARPO-ReasoningGym-v0", {"dataset": "gdc"}, "did you mean 'gcd'"),
        ("ARPO-Dataset-v0", {}, "needs the option path"),
        ("ARPO-Dataset-v0", {"path": "nowhere.jsonl", "name": "x"}, "no file or folder at nowhere.jsonl"),
    ],
)
def test_an_option_of_make_that_cannot_be_is_refused(env_id: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gymnasium.make(env_id, **options)


def test_a_file_has_the_tools_and_the_split_it_is_asked_for(tmp_path: Path) -> None:
    from arpo_env.search import BM25Index, Page

    options = options_of("ARPO-Dataset-v0", tmp_path)
    env = gymnasium.make("ARPO-Dataset-v0", **options)
    assert agent(env).stop_strings == ("</python>", "</answer>")
    assert agent(env).split == "test"  # a single file is one split
    with pytest.raises(ConfigError, match="needs a backend"):
        gymnasium.make("ARPO-Dataset-v0", **options, tools=("search", "python"))
    index = BM25Index.build([Page("1", "Varn", "Varn is a town by the sea.")])
    env = gymnasium.make("ARPO-Dataset-v0", **options, search=index)
    assert agent(env).stop_strings == ("</python>", "</search>", "</answer>")
    env.reset(seed=0)
    assert "by the sea" in env.step(tool_turn("t", "search", "Varn"))[0]
    folder = tmp_path / "splits"
    folder.mkdir()
    (folder / "test.jsonl").write_text((tmp_path / "questions.jsonl").read_text())
    with pytest.raises(ConfigError, match="has no split 'train'"):
        gymnasium.make("ARPO-Dataset-v0", **{**options, "path": str(folder)})


def test_reasoning_gym_takes_the_options_of_its_data_set() -> None:
    needs_python()
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: pip install 'arpo[tasks]'")
    env = gymnasium.make("ARPO-ReasoningGym-v0", dataset="gcd", config={"min_value": 5000, "max_value": 5001})
    assert "500" in env.reset(seed=0)[0]


# ---------------------------------------------------------------------------------------------- old defects


@pytest.mark.parametrize("prompt", ["compact", "paper"])
def test_the_example_in_the_system_prompt_is_never_executed(prompt: str) -> None:
    """The released code looked for a call in prompt + response, and found its own example."""
    env, python, search = toy(prompt=prompt, on_malformed="tell")
    _, info = env.reset(seed=0)
    assert "<search>" in info["messages"][0]["content"]
    env.step("<think>I have no idea.</think>")
    env.step("no tag at all")
    assert python.calls == search.calls == []
    env.step(tool_turn("t", "python", "draw"))
    assert (python.calls, search.calls) == (["draw"], [])
    # Not even when the policy recites it.
    env.step(info["messages"][0]["content"])
    assert (python.calls, search.calls) == (["draw"], [])


def test_the_paper_prompt_says_when_the_answer_is_code() -> None:
    boxed, raw = (system_prompt("paper", [], raw_answer=raw) for raw in (False, True))
    assert raw.startswith(boxed)
    assert r"only the code inside <answer> </answer>, without \boxed{}" in raw.removeprefix(boxed)


@pytest.mark.parametrize("thought_opened", [True, False])
def test_tags_mentioned_in_the_thought_that_the_template_opened_are_no_actions(thought_opened: bool) -> None:
    begin = "" if thought_opened else "<think>"
    env, python, _ = toy(thought_opened=thought_opened)
    env.reset(seed=0)
    first = f"{begin}I put <python>set a 1</python> or <answer> to use.</think>\n<python>draw</python>"
    assert env.step(first)[2] is False
    assert python.calls == ["draw"]
    # Only the first turn begins inside a thought.
    _, reward, _, _, info = env.step(answer_turn("t", env.task.answer))
    assert (reward, info["format_ok"]) == (1.0, True)
    env.reset(seed=0)
    assert env.step(f"{begin}<answer>\\boxed{{1}}</answer>")[4]["format_ok"] is False  # never closed
    env.reset(seed=0)
    # A model may write its own tag all the same.
    last = f"{begin}<think>It is easy.</think><answer>\\boxed{{{env.task.answer}}}</answer>"
    assert env.step(last)[1] == 1.0


def test_an_earlier_turn_is_not_executed_again() -> None:
    env, python, _ = toy(on_malformed="tell")
    env.reset(seed=0)
    env.step(tool_turn("t", "python", "draw"))
    env.step("<think>hm</think>")
    assert python.calls == ["draw"]


@pytest.mark.parametrize("case", ["ARPO-DeepSearch-v0 (search only)", "toy"])
def test_nothing_in_info_depends_on_the_clock(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(tick: float) -> list[Any]:
        clock = itertools.count(1.0, tick)
        for name in ("time", "perf_counter", "monotonic"):
            monkeypatch.setattr(f"time.{name}", lambda: next(clock))
        env = toy()[0] if case == "toy" else make(case, tmp_path)
        actions = [SEARCH, FAILED, tool_turn("t", "search", "a town"), answer_turn("t", "x")]
        seen = [env.reset(seed=5), *play(env, actions)]
        assert agent(env).tool_seconds > 0  # timings are on the side
        monkeypatch.undo()
        return seen

    assert run(0.125) == run(1000.0)


def test_import_is_light_and_starts_nothing() -> None:
    code = """
import pathlib, random, sys, threading
before = random.getstate()
import arpo_env, gymnasium
heavy = {"torch", "transformers", "bm25s", "reasoning_gym", "pyarrow", "scipy", "numba", "docker", "ddgs",
         "math_verify", "arpo_algo", "multiprocessing.pool", "sqlite3", "requests", "httpx"}
print(sorted(heavy & set(sys.modules)), threading.active_count(), random.getstate() == before)
print(sum(len(task.joinpath("children").read_text().split()) for task in pathlib.Path("/proc/self/task").iterdir()))
print(all(env_id in gymnasium.registry for env_id in arpo_env.IDS))
"""
    out = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert out.stderr == ""
    assert out.stdout.splitlines() == ["[] 1 True", "0", "True"]
