"""Drive an expert straight through the Python tool, without an environment, and give its final answer."""

from __future__ import annotations

import pytest

from arpo_env.errors import ToolUnavailable
from arpo_env.protocol import FinalAnswer, ToolCall, parse, render_result
from arpo_env.tasks.base import Expert
from arpo_env.tools.base import Tool
from arpo_env.tools.python import PythonTool


def python_or_skip() -> Tool:
    """The Python tool in the strongest sandbox of this machine; skipped, by name, where there is none."""
    tool = PythonTool("auto")
    try:
        tool.check()
    except ToolUnavailable as error:
        pytest.skip(f"no isolation on this machine: {error}")
    return tool


def play(expert: Expert, python: Tool, *, raw: bool = False) -> tuple[str, int, int]:
    """(answer, tool calls, calls that worked). Every turn has to be well formed, with a short thought."""
    session = python.open(seed=0)
    calls = worked = 0
    try:
        turn = next(expert)
        while True:
            assert len(turn.split("</think>")[0].split()) <= 13, turn
            action = parse(turn, ("python",))
            assert action.thoughts.opened == action.thoughts.closed == 1, turn
            if isinstance(action, FinalAnswer):
                answer = action.text if raw else action.boxed
                assert answer is not None, turn
                with pytest.raises(StopIteration):
                    expert.send("")
                return answer, calls, worked
            assert isinstance(action, ToolCall), turn
            result = session.call(action.argument)
            calls, worked = calls + 1, worked + result.ok
            turn = expert.send(render_result(result.text))
    finally:
        session.close()
