"""Options of ``gymnasium.make``: their types, what must be given, and ``gymnasium.make_vec``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest
from toy_env import agent, needs_python

import arpo_env
from arpo_env.errors import ConfigError
from arpo_env.options import check_types
from arpo_env.protocol import answer_turn
from arpo_env.registration import SUITE_IDS, WEB_IDS

SMALL: dict[str, Any] = {"pages": 120, "tools": ("search",), "arithmetic": 0.0}


def options_for(env_id: str, folder: Path) -> dict[str, Any]:
    """Options with which ``env_id`` needs no sandbox; the files they name are written."""
    rows = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(6)]
    file = folder / "gsm8k" / "test.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "ARPO-DeepSearch-v0": SMALL,
        "ARPO-Dataset-v0": {"path": str(file), "name": "sums", "answer_style": "hashes", "tools": ()},
        "ARPO/GSM8K-v0": {"data_dir": str(folder), "tools": ()},
        "ARPO-Math-v0": {"level": 1},
    }[env_id]


# ---------------------------------------------------------------------------------------------- make_vec


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("env_id", ["ARPO-DeepSearch-v0", "ARPO-Dataset-v0", "ARPO/GSM8K-v0", "ARPO-Math-v0"])
def test_make_vec(env_id: str, mode: str, tmp_path: Path) -> None:
    if env_id == "ARPO-Math-v0":
        needs_python()
    if env_id == "ARPO/GSM8K-v0":
        pytest.importorskip("math_verify", reason="needs the extra suites")
    own = {"shared_memory": False} if mode == "async" else {}  # texts have no shared memory
    envs = gymnasium.make_vec(env_id, 2, mode, vector_kwargs=own, **options_for(env_id, tmp_path))
    questions, _ = envs.reset(seed=0)
    assert len(questions) == 2
    terminated = envs.step((answer_turn("t", "\\boxed{1}"),) * 2)[2]
    assert terminated.tolist() == [True, True]
    envs.close()


def test_no_id_is_registered_with_an_option_that_gymnasium_takes_for_its_own() -> None:
    for env_id in (*arpo_env.IDS, *WEB_IDS, *SUITE_IDS):
        assert gymnasium.spec(env_id).kwargs == {"env_id": env_id}


# ---------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"max_tool_calls": "3"}, r"int, got '3' \(str\): write max_tool_calls=3"),
        ({"max_tool_calls": 3.0}, r"int, got 3.0 \(float\): write max_tool_calls=3"),
        ({"max_turns": True}, r"int \| None, got True \(bool\): write max_turns=1"),
        (
            {"max_result_chars": "all"},
            r"int \| None, got 'all' \(str\): give one of that type, or leave it out \(default",
        ),
        ({"search_k": "3"}, r"int, got '3'"),
        ({"pages": "120"}, r"int, got '120'"),
        ({"arithmetic": "0"}, r"float, got '0' \(str\): write arithmetic=0"),
        ({"python_seconds": None}, r"float, got None"),
        ({"require_think": 1}, r"bool, got 1 \(int\): write require_think=True"),
        ({"prompt": 3}, r"str, got 3"),
        ({"reward": "arpo"}, r"ArpoReward \| None, got 'arpo' .* \(arpo_env.rewards.arpo.ArpoReward\)"),
        ({"hops": 2}, r"Sequence\[int\], got 2 \(int\): write hops=\(2,\)"),
        ({"hops": ("1",)}, r"Sequence\[int\], got \('1',\)"),
        ({"tools": "search"}, r"Sequence\[str \| Tool\], got 'search' \(str\): write tools=\('search',\)"),
        ({"tools": 5}, r"Sequence\[str \| Tool\], got 5"),
        ({"on_malformed": 1}, r"Literal\['end', 'tell'\], got 1"),
    ],
)
def test_a_value_of_another_type_is_told(option: dict[str, Any], said: str) -> None:
    (name,) = option
    with pytest.raises(ConfigError, match=rf"^ARPO-DeepSearch-v0: the option {name} must be of type {said}"):
        gymnasium.make("ARPO-DeepSearch-v0", **(SMALL | option))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"path": 5}, r"str \| Path \| Sequence\[Path\], got 5"),
        ({"layout": ["plain"]}, r"str, got \['plain'\]"),
        ({"search": 5}, r"SearchBackend \| str \| Path \| None, got 5"),
        ({"browse": 5}, r"PageSource \| None, got 5"),
        ({"browse_summary": "x"}, r"Summariser \| None, got 'x'"),
        ({"on_fault": 1}, "OnFault, got 1"),
        ({"verifier": ["qa"]}, r"str \| Mapping\[str, str\], got \['qa'\]"),
        ({"decode": "rot13"}, r"Callable.*, got 'rot13'"),
    ],
)
def test_types_over_a_file(option: dict[str, Any], said: str, tmp_path: Path) -> None:
    options = options_for("ARPO-Dataset-v0", tmp_path) | {"tools": ("search", "browse")} | option
    with pytest.raises(ConfigError, match=rf"^ARPO-Dataset-v0: the option {next(iter(option))} must be of type {said}"):
        gymnasium.make("ARPO-Dataset-v0", **options)


@pytest.mark.parametrize(
    ("env_id", "option"),
    [
        ("ARPO-Web-v0", {"tools": 5}),
        ("ARPO-Web-v0", {"engine": 3}),
        ("ARPO-Web-v0", {"cache": 3}),
        ("ARPO-WebReplay-v0", {"cassette": 3}),
        ("ARPO-ReasoningGym-v0", {"config": "x"}),
        ("ARPO/GSM8K-v0", {"data_dir": 3}),
    ],
)
def test_types_of_what_an_id_takes_itself(env_id: str, option: dict[str, Any]) -> None:
    if env_id == "ARPO-Web-v0":
        pytest.importorskip("httpcore2", reason="needs the extra web")
    with pytest.raises(ConfigError, match=rf"^{env_id}: the option {next(iter(option))} must be of type"):
        gymnasium.make(env_id, **option)


def test_numbers_of_numpy_are_numbers() -> None:
    needs_python()
    env = gymnasium.make(
        "ARPO-Math-v0", level=np.int64(2), words=np.float32(0), max_turns=np.int32(3), python_seconds=5
    )
    assert agent(env).max_turns == 3
    env.reset(seed=0)
    json.dumps(agent(env).get_state())


def test_what_fits(tmp_path: Path) -> None:
    def takes(
        *,
        words: Sequence[str] = (),
        number: float = 0.0,
        path: str | Path | Sequence[Path] = "",
        call: Callable[[], None] | None = None,
        table: Mapping[str, int] | None = None,
        word: Literal["a", "b"] = "a",
        unknown: NotThere | None = None,  # type: ignore[name-defined]  # noqa: F821
    ) -> None:
        pass

    for good in (
        {"words": ["a"]}, {"words": ()}, {"words": {"a": 1}.keys()}, {"number": 1}, {"number": np.float32(1)},
        {"path": tmp_path}, {"path": ["a", tmp_path]}, {"call": print}, {"call": None}, {"table": {}},
        {"word": "c"},  # its owner says which words there are
        {"unknown": 5},  # an annotation that cannot be resolved
        {"nobodys": 5},
    ):  # fmt: skip
        check_types("X-v0", takes, good)  # type: ignore[arg-type]
    for bad in (
        {"words": b"a"}, {"words": {"a": 1}}, {"words": [1]}, {"number": True}, {"number": None}, {"path": [3]},
        {"call": 3}, {"table": []}, {"word": None},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"X-v0: the option {next(iter(bad))} must be"):
            check_types("X-v0", takes, bad)  # type: ignore[arg-type]
    assert check_types("X-v0", takes, {"unknown": 5}, lambda: {"NotThere": int}) is None
    with pytest.raises(ConfigError, match="unknown must be of type NotThere"):
        check_types("X-v0", takes, {"unknown": "x"}, lambda: {"NotThere": int})


@pytest.mark.parametrize(
    ("env_id", "name"), [("ARPO-WebReplay-v0", "cassette"), ("ARPO-Dataset-v0", "path"), ("ARPO-Dataset-v0", "name")]
)
def test_what_must_be_given_is_named(env_id: str, name: str) -> None:
    options = {"path": "questions.jsonl"} if name == "name" else {}
    with pytest.raises(ConfigError, match=f"^{env_id} needs the option {name}: gymnasium.make\\('{env_id}', {name}=…"):
        gymnasium.make(env_id, **options)


def test_a_refused_first_reset_leaves_a_whole_environment() -> None:
    env = gymnasium.make("ARPO-DeepSearch-v0", **SMALL)
    with pytest.raises(ConfigError, match="did you mean 'index'"):
        env.reset(options={"idx": 3})
    env.reset(seed=0, options={"index": 3})
    assert env.step(answer_turn("Done.", "nothing"))[2]  # terminated
