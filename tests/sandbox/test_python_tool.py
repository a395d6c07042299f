"""The Python tool: lazy, forked with the episode, restored from its cells."""

from __future__ import annotations

import json

import pytest

from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.sandbox import factory
from arpo_env.tools.python import PythonTool

from .conftest import Box


@pytest.fixture
def tool(box: Box) -> PythonTool:
    return PythonTool(box.sandbox, limits=box.sandbox.limits)


def test_check(tool: PythonTool) -> None:
    tool.check()


def test_check_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "_proved", {"bubblewrap": "absent", "namespaces": "forbidden"})
    monkeypatch.setattr(factory, "_shared", {})
    with pytest.raises(ToolUnavailable, match="absent"):
        PythonTool().check()
    with pytest.raises(ConfigError, match="unknown sandbox"):
        PythonTool("pyhton").check()


def test_calls_share_variables_and_say_how_they_ended(tool: PythonTool) -> None:
    session = tool.open(0)
    assert session.call("x = 20").ok
    assert session.call("x + 1").text == "21"
    assert not session.call("1 / 0").ok
    session.close()
    with pytest.raises(InfraError):
        session.call("1")


def test_nothing_is_opened_before_the_first_call() -> None:
    tool = PythonTool("no such tier at all")
    session = tool.open(3)
    twin = session.fork()  # free: not even the name is looked up
    assert twin.get_state() == {"version": 1, "seed": 3, "cells": []}
    session.close()
    with pytest.raises(ConfigError, match="unknown sandbox"):
        twin.call("1")


def test_fork_is_live(tool: PythonTool) -> None:
    session = tool.open(0)
    session.call("gen = (i * i for i in range(10)); next(gen); next(gen)")
    twin = session.fork()
    assert twin.call("next(gen)").text == session.call("next(gen)").text == "4"
    twin.call("gen = None")
    assert session.call("next(gen)").text == "9"


def test_state_round_trip(tool: PythonTool) -> None:
    session = tool.open(11)
    session.call("import random\nx = [random.random()]")
    session.call("x.append(random.random()); 1 / 0")
    state = json.loads(json.dumps(session.get_state()))
    restored = tool.open(0, state)
    assert restored.get_state() == state
    look = "x, random.random()"
    assert restored.call(look) == session.call(look)
    assert restored.get_state() == session.get_state()
    unopened = tool.open(0, state).fork()
    assert unopened.get_state() == state
    assert unopened.call(look) == tool.open(0, state).call(look)


def test_a_lost_interpreter_clears_the_state(tool: PythonTool) -> None:
    session = tool.open(1)
    session.call("x = 1")
    lost = session.call("import os; os._exit(1)")
    assert not lost.ok
    assert "gone" in lost.text
    assert session.get_state()["cells"] == []
    session.call("y = 2")
    assert tool.open(0, session.get_state()).call("y").text == "2"


@pytest.mark.parametrize(
    "state", [{}, [], {"version": 2}, {"version": 1, "seed": 1}, {"version": 1, "seed": "1", "cells": []}]
)
def test_bad_state(state: object) -> None:
    with pytest.raises(ConfigError, match="Python session state"):
        PythonTool().open(0, state)
