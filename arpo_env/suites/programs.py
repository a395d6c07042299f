"""``ProgramFamily``: functions to write, from rows of HumanEval's or MBPP's form; hidden tests decide.

The final answer is the code (all of ``<answer>``, with or without a Markdown fence). The tests never enter the session
that runs it (``rewards/program.py``). Of MBPP's asserts the first is shown, since it gives the function's name and
form; published results often show all three, so ours are not directly comparable.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from arpo_env.errors import unknown
from arpo_env.protocol import answer_turn, tool_turn
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.code import extract_code
from arpo_env.rewards.program import Tests, record_calls, run_program_tests
from arpo_env.rows import Broken
from arpo_env.tasks.base import Expert, Task
from arpo_env.tasks.files import FileFamily, Question

_ASK = "Answer with the code of the whole function, imports included."


class ProgramFamily(FileFamily):
    """Functions to write, from a file.

    Args, beside those of :class:`~arpo_env.tasks.files.FileFamily`:
        form: ``humaneval`` or ``mbpp``, how a row is read.
        sandbox: isolation tier that runs code and tests.
        seconds: wall time of each of the three runs of a verdict.
    """

    answer_format = "raw"

    def __init__(
        self,
        path: str | Path | Sequence[Path],
        *,
        name: str,
        form: Literal["humaneval", "mbpp"],
        split: str = "test",
        on_broken: Literal["error", "skip"] = "error",
        sandbox: str = "auto",
        seconds: float = 5.0,
    ) -> None:
        if form not in _FORMS:
            raise unknown("form", form, _FORMS)
        self._form, self.sandbox, self.seconds = _FORMS[form], sandbox, seconds
        self._recorded = lru_cache(maxsize=1024)(self._record)
        super().__init__(path, name=name, tools=("python",), split=split, on_broken=on_broken)

    def _read_row(self, row: Mapping[str, Any]) -> Question:
        return self._form(row)

    def verify(self, task: Task, answer: str) -> Verdict:
        """1 when the code's values satisfy the hidden tests.

        Raises:
            ConfigError: the row's reference solution does not pass its own tests.
            ToolUnavailable, InfraError: the sandbox cannot run.
        """
        from arpo_env.sandbox import shared_sandbox

        meta = task.meta
        code = extract_code(answer, meta["function"])
        if meta["prelude"] and code.strip():
            code = _complete(meta["prelude"], meta["function"], code)
        tests = self._recorded(task.answer, meta["function"], meta["tests"], meta["probe"])
        return run_program_tests(shared_sandbox(self.sandbox), code, tests, seconds=self.seconds)

    def expert(self, task: Task) -> Expert:
        yield tool_turn("Write it and see that it runs.", "python", f"{task.answer}\nprint('defined')")
        yield answer_turn("It runs.", task.answer, raw=True)

    def _record(self, reference: str, function: str, tests: str, probe: str) -> Tests:
        from arpo_env.sandbox import shared_sandbox

        made = Tests(reference, function, tests, probe)
        return replace(made, calls=record_calls(shared_sandbox(self.sandbox), made))


def _complete(prelude: str, function: str, code: str) -> str:
    """The program that an answer stands for: the whole function, or its body alone (as base models complete)."""
    if re.search(rf"^\s*(?:async\s+)?def\s+{re.escape(function)}\b|^{re.escape(function)}\s*=", code, re.MULTILINE):
        return f"{prelude}\n{code}"  # the prompt's imports and helpers first; its stub is then replaced
    return prelude + (code if code[:1].isspace() else f"    {code}")


def _text(row: Mapping[str, Any], *names: str) -> str:
    for name in names:
        if isinstance(row.get(name), str) and row[name].strip():
            return str(row[name])
    raise Broken(f"no text in field {' or '.join(map(repr, names))} (there is: {', '.join(row)})")


def _humaneval(row: Mapping[str, Any]) -> Question:
    prompt, function = _text(row, "prompt"), _text(row, "entry_point")
    if not function.isidentifier():
        raise Broken(f"entry_point is no Python name: {function[:60]!r}")
    return _question(
        f"Complete this Python function.\n\n{prompt.strip()}\n\n{_ASK}",
        prompt + _text(row, "canonical_solution"),
        function,
        f"{_text(row, 'test')}\n\ncheck(_arpo_candidate)\n",
        "_arpo_candidate",
        prompt,
    )


def _mbpp(row: Mapping[str, Any]) -> Question:
    code, asserts = _text(row, "code"), row.get("test_list")
    if not (isinstance(asserts, list) and asserts and all(isinstance(line, str) for line in asserts)):
        raise Broken("field 'test_list' must be a non-empty list of asserts")
    imports = row.get("test_imports") or []
    setup = "\n".join([*imports, str(row.get("test_setup_code") or "")])
    function = _tested(code, asserts)
    return _question(
        f"{_text(row, 'prompt', 'text').strip()}\nIt has to satisfy this test, and others:\n{asserts[0]}\n{_ASK}",
        f"{setup}\n{code}".strip(),
        function,
        "\n".join([setup, *asserts]),
        function,
        "",
    )


def _question(asked: str, reference: str, function: str, tests: str, probe: str, prelude: str) -> Question:
    for source in (reference, tests):
        try:
            ast.parse(source)
        except (SyntaxError, ValueError) as error:
            raise Broken(f"the solution or the tests are no Python: {error}") from error
    meta = {"function": function, "tests": tests, "probe": probe, "prelude": prelude}
    return Question(asked, reference.replace("\r\n", "\n"), meta)


def _tested(code: str, asserts: Sequence[str]) -> str:
    """The function that the asserts are about: the one that the code defines and the first assert calls."""
    try:
        defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
        calls = [node.func for node in ast.walk(ast.parse(asserts[0])) if isinstance(node, ast.Call)]
    except (SyntaxError, ValueError) as error:
        raise Broken(f"the solution or its test is no Python: {error}") from error
    for called in calls:
        if isinstance(called, ast.Name) and called.id in defined:
            return called.id
    raise Broken(f"the first test calls none of the functions that the solution defines: {asserts[0][:80]!r}")


_FORMS = {"humaneval": _humaneval, "mbpp": _mbpp}
