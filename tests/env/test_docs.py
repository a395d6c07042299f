"""The pages about environments: every snippet runs, every table says what the code says."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import gymnasium
import pytest
from toy_env import needs_python, toy

import arpo_env
from arpo_env.env import AgentEnv
from arpo_env.protocol import Malformed, MalformedReason, answer_turn, parse

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["environments.md", "add-a-tool.md", "add-a-task-family.md", "browse.md", "deepsearch.md"]


def snippets(page: str) -> list[tuple[int, str, str | None]]:
    """(line, code, what it must print) of each Python block; a ``text`` block shows the output of the one before."""
    text = (DOCS / page).read_text()
    found: list[tuple[int, str, str | None]] = []
    for m in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if m[1] == "text":
            line, code, _ = found.pop()
            found.append((line, code, m[2]))
        else:
            assert m[1] == "python", "a block that is not run"
            found.append((text.count("\n", 0, m.start()) + 2, m[2], None))
    assert text.count("```") / 2 == len(found) + text.count("```text\n"), "a block that is not run"
    return found


def table(page: str, header: str) -> list[list[str]]:
    """The cells of the table whose first column is headed ``header``."""
    lines = (DOCS / page).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {header} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


@pytest.fixture
def registered() -> Iterator[None]:
    before = set(gymnasium.registry)
    yield
    for name in set(gymnasium.registry) - before:
        del gymnasium.registry[name]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if page not in ("add-a-tool.md", "browse.md", "deepsearch.md"):
        needs_python()
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(page.removesuffix(".md").replace("-", "_"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for line, code, shown in snippets(page):
        capsys.readouterr()
        # Blank lines in front, so that an error names the line of the page.
        exec(compile("\n" * (line - 1) + code, str(DOCS / page), "exec", dont_inherit=True), module.__dict__)
        assert shown is None or capsys.readouterr().out == shown, f"{page}:{line} prints something else"


def test_the_ids_are_all_there() -> None:
    assert [row[0].strip("`") for row in table("environments.md", "id")] == list(arpo_env.IDS)


def test_the_options_are_the_ones_there_are() -> None:
    documented = {name for row in table("environments.md", "option") for name in re.findall(r"`(\w+)`", row[0])}
    of_env = set(inspect.signature(AgentEnv.__init__).parameters) - {"self", "family", "tools"}
    assert of_env <= documented
    assert documented - of_env == {
        "sandbox", "python_seconds", "search_k", "search_chars", "tools", "search", "retriever", "config",
        "browse", "browse_chars", "browse_summary", "on_fault",
    }  # fmt: skip
    defaults = {re.findall(r"`(\w+)`", row[0])[0]: row[1] for row in table("environments.md", "option")}
    for name in ("max_tool_calls", "max_result_chars"):
        assert defaults[name] == str(inspect.signature(AgentEnv.__init__).parameters[name].default)


def test_the_info_keys_are_the_ones_there_are() -> None:
    env, _, _ = toy()
    env.reset(seed=0)
    info = env.step(answer_turn("t", "1"))[4]
    assert {row[0].strip("`") for row in table("environments.md", "key")} == set(info)


def test_the_malformed_table_is_true() -> None:
    rows = table("environments.md", "a turn such as")
    for turn, reason, _ in rows:
        action = parse(turn.strip("`"))
        assert isinstance(action, Malformed), turn
        assert action.reason == reason.strip("`")
    assert {row[1].strip("`") for row in rows} == set(get_args(MalformedReason))
