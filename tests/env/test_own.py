"""Tools and retrievers of the user's own, under ids of ours."""

from __future__ import annotations

import copy
import json
import re
import threading
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import arpo_env  # noqa: F401  (registers the ids)
from arpo_env.errors import ConfigError
from arpo_env.protocol import result_body, tool_turn

PAGE = Path(__file__).parents[2] / "docs" / "add-a-tool.md"
DEEP: dict[str, Any] = {"pages": 120, "arithmetic": 0.0}
FURTHER = """

def short_notes():
    return NotesTool(most=1)

class Needy(NotesTool):
    def __init__(self, key):
        super().__init__()

class NoTool: ...

def no_backend(where):
    return where

def first_page(where):
    from pathlib import Path
    from arpo_env.search import BM25Index, Page
    return BM25Index.build([Page("1", "Own", Path(where).read_text())])
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the documentation's tool in ``notes.py``, and questions."""
    code = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert code is not None
    (tmp_path / "notes.py").write_text(code[1] + FURTHER)
    (tmp_path / "questions.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(env: gymnasium.Env[str, str], argument: str, tool: str = "notes") -> str:
    return result_body(env.step(tool_turn("t", tool, argument))[0])


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("ARPO-Dataset-v0", {"path": "questions.jsonl", "name": "mine", "tools": ()}),
        ("ARPO-DeepSearch-v0", DEEP | {"tools": ("search",)}),
        ("ARPO-Math-v0", {"tools": ()}),
    ],
)
def test_an_own_tool_by_its_place_obeys_the_clone_law(env_id: str, options: dict[str, Any], here: Path) -> None:
    tools = [*options["tools"], "./notes.py:NotesTool"]
    env = gymnasium.make(env_id, **(options | {"tools": tools}))
    assert env.spec is not None
    assert json.loads(env.spec.to_json())["kwargs"]["tools"] == tools
    env.reset(seed=0)
    assert call(env, "founder: Maya") == "Kept 'founder'."
    twin = copy.deepcopy(env)
    assert call(env, "founder: Walter") == "Kept 'founder'."
    assert call(twin, "founder") == "Maya"
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    again.reset()
    again.unwrapped.set_state(json.loads(json.dumps(env.unwrapped.get_state())))  # type: ignore[attr-defined]
    assert call(again, "founder") == call(env, "founder") == "Walter"


def test_a_tool_itself_is_shared_by_clones_and_specs(here: Path) -> None:
    from arpo_env.own import find_own

    tool = find_own("tool", "./notes.py:NotesTool")()
    tool.lock = threading.Lock()  # which no copy could be made of
    env = gymnasium.make("ARPO-Dataset-v0", path="questions.jsonl", name="mine", tools=[tool])
    assert env.unwrapped.family.tools == ("notes",)  # type: ignore[attr-defined]
    env.reset(seed=0)
    for one in (env, copy.deepcopy(env)):
        assert one.unwrapped._toolbox("test")["notes"] is tool  # type: ignore[attr-defined]
    assert copy.deepcopy(env.spec).kwargs["tools"][0] is tool  # type: ignore[union-attr]


def test_a_function_makes_a_tool_with_arguments(here: Path) -> None:
    env = gymnasium.make("ARPO-Math-v0", tools=["./notes.py:short_notes"])
    env.reset(seed=0)
    call(env, "a: 1")
    assert call(env, "b: 2") == "Error: no more than 1 notes."


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ("notes", r"unknown tool 'notes'\. Known: browse, python, search; or one of your own: a Tool, or module:Class"),
        ("./notes.py:NotesTol", r"unknown class in \./notes\.py: 'NotesTol'; did you mean 'NotesTool'"),
        ("./none.py:X", r"tool '\./none\.py:X': .*none\.py is not there"),
        ("./notes.py:Needy", r"cannot be made without arguments .*; name a function that makes it"),
        ("./notes.py:NoTool", r"no tool; name a subclass of arpo_env\.tools\.base\.Tool"),
    ],
)
def test_what_is_no_tool_is_refused_before_a_file_is_read(tool: str, said: str, here: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        gymnasium.make("ARPO-Dataset-v0", path="not there.jsonl", name="mine", tools=[tool])


def test_there_is_nothing_to_search_in_arithmetic() -> None:
    with pytest.raises(ConfigError, match=r"unknown tool 'search'\. Known: python"):
        gymnasium.make("ARPO-Math-v0", tools=["search"])


def test_an_own_retriever_is_called_with_the_corpus(here: Path) -> None:
    (here / "corpus.txt").write_text("the only page")
    options = {"path": "questions.jsonl", "name": "mine", "tools": ["search"], "search": str(here / "corpus.txt")}
    env = gymnasium.make("ARPO-Dataset-v0", retriever="./notes.py:first_page", **options)
    env.reset(seed=0)
    assert call(env, "page", tool="search") == "[1] Own: the only page"
    with pytest.raises(ConfigError, match=r"retriever '\./notes\.py:no_backend' returned '.*corpus\.txt', no arpo_env"):
        gymnasium.make("ARPO-Dataset-v0", retriever="./notes.py:no_backend", **options)
    with pytest.raises(ConfigError, match=r"unknown retriever 'bm52'; did you mean 'bm25'\? .*or one of your own"):
        gymnasium.make("ARPO-Dataset-v0", retriever="bm52", **options)
