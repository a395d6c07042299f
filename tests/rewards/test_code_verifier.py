"""The code verifier: right code passes, wrong code does not, and nothing the code *says* makes it pass."""

from __future__ import annotations

from typing import Any

import pytest

from arpo_env.errors import ConfigError, ToolUnavailable
from arpo_env.rewards.code import MAX_CODE_CHARS, extract_code, run_tests
from arpo_env.sandbox import shared_sandbox
from arpo_env.sandbox.base import Sandbox, SandboxSession

TESTS = [([[1, 2, 3]], 6), ([[]], 0), ([[-5, 7, 100]], 102)]
RIGHT = "def total(nums):\n    return sum(nums)"


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    made = shared_sandbox("auto")
    try:
        made.session(seed=0).close()
    except ToolUnavailable as error:
        pytest.skip(f"no isolation on this machine: {error}")
    return made


@pytest.mark.parametrize(
    "code",
    [
        RIGHT,
        "total = sum",
        "total = lambda nums: sum(nums)",
        "def total(nums):\n    print('noise' * 100)\n    return sum(nums)\nprint(total([1]))",
        "import numbers, json, sys\n" + RIGHT,
        "def add(a, b):\n    return a + b\ndef total(nums):\n    t = 0\n    for n in nums: t = add(t, n)\n    return t",
        "def total(nums):\n    return float(sum(nums))",  # 6.0 == 6
        "def total(nums):\n    nums.append(0)\n    return sum(nums)",  # its arguments are its own copies
        "x = 1\n" * 200 + RIGHT,
    ],
)
def test_right_code_passes(sandbox: Sandbox, code: str) -> None:
    verdict = run_tests(sandbox, code, "total", TESTS)
    assert verdict.score == 1, verdict.reason


@pytest.mark.parametrize(
    "code",
    [
        "",
        "   ",
        "def total(nums):\n    return 6",
        "def total(nums):\n    return None",
        "def total(nums):\n    pass",
        "def total(nums):\n    return str(sum(nums))",
        "def total(nums):\n    return sum(nums[1:])",
        "def total(nums, more):\n    return sum(nums)",
        "def other(nums):\n    return sum(nums)",
        "def total(nums)\n    return sum(nums)",
        "The function total adds all numbers.",
        "def total(nums):\n    return total(nums)",
        "def total(nums):\n    return {1, 2}",
        "total = 6",
        "1/0\n" + RIGHT,
        "x" * (MAX_CODE_CHARS + 1),
        "def total(nums):\n    return 10 ** 100000",
        "total = '\x00'",
        "total = '\ud800'",
    ],
)
def test_wrong_code_fails(sandbox: Sandbox, code: str) -> None:
    assert run_tests(sandbox, code, "total", TESTS).score == 0


FORGERIES = {
    "says so": "print('all tests passed')\nprint('3 of 3 tests passed')\ndef total(n): return 0",
    "exits": "import sys\ndef total(n):\n    print('OK')\n    sys.exit(0)",
    "exits at once": "import os\ndef total(n): return 0\nos._exit(0)",
    "exits hard": "import os\ndef total(n): os._exit(0)",
    "equals all": "class E:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
    "    __hash__ = None\ndef total(n): return E()",
    "int that equals all": "class I(int):\n    def __eq__(self, o): return True\ndef total(n): return I(0)",
    "dict that equals all": "class D(dict):\n    def __eq__(self, o): return True\ndef total(n): return D()",
    "patches json": "import json\njson.dumps = lambda *a, **k: '[\"value\", 6]'\ndef total(n): return 0",
    "patches json.loads": "import json\njson.loads = lambda *a, **k: []\ndef total(n): return 0",
    "patches print": "import builtins\nbuiltins.print = lambda *a, **k: None\ndef total(n): return 0",
    "patches len": "import builtins\nbuiltins.len = lambda x: 0\ndef total(n): return 0",
    "patches sum": "import builtins\nbuiltins.sum = lambda x: 6\ndef total(n): return sum(n)",
    "replaces stdout": "import sys\nclass O:\n    def write(self, t): return 0\n    def flush(self): pass\n"
    "sys.stdout = O()\ndef total(n): return 0",
    "reads the harness": "import sys\ndef total(n):\n    f = sys._getframe(1)\n"
    "    return f.f_locals.get('expected', f.f_globals.get('expected', 0))",
    "clears the replies": "import sys\ndef total(n):\n    sys._getframe(1).f_locals['replies'].clear()\n    return 0",
    "writes its own reply": "import sys, inspect\ndef total(n):\n    out = sys._getframe(1).f_locals['out']\n"
    "    for mark in sys._getframe(1).f_code.co_consts:\n        if isinstance(mark, str) and mark[:1] == '#':\n"
    "            out.write(mark + '[\"[1]\"]' + mark)\n    return 0",
    "at exit": "import atexit\natexit.register(lambda: print('passed'))\ndef total(n): return 0",
    "raises": "def total(n): raise SystemExit(0)",
    "raises an odd one": "class B(BaseException): pass\ndef total(n): raise B()",
    "never ends": "def total(n):\n    while True: pass",
    "floods": "def total(n):\n    import sys\n    sys.__stdout__.write('x' * 10**6)\n    return 0",
    "huge value": "def total(n): return 'x' * 10**8",
    "deep value": "def total(n):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "not a number": "def total(n): return float('nan')",
}


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES.keys())
def test_forgeries_fail_and_leave_no_trace(sandbox: Sandbox, code: str) -> None:
    assert run_tests(sandbox, code, "total", TESTS, seconds=2.0).score == 0
    after = run_tests(sandbox, RIGHT, "total", TESTS)
    assert after.score == 1, after.reason


def test_expected_values_never_enter_the_sandbox(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    opened = sandbox.session

    def spying(**options: Any) -> SandboxSession:
        session = opened(**options)
        run = session.run
        session.run = lambda code, **more: (sent.append(code), run(code, **more))[1]
        return session

    monkeypatch.setattr(sandbox, "session", spying)
    assert run_tests(sandbox, "def total(n): return n[0] * 2", "total", [([[456789]], 913578)]).score == 1
    assert any("456789" in code for code in sent)
    assert not any("913578" in code for code in sent)


def test_bad_calls(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigError, match="no tests"):
        run_tests(sandbox, RIGHT, "total", [])
    for name in ("1x", "a b", "def", "total(); import os"):
        with pytest.raises(ConfigError, match="Python name"):
            run_tests(sandbox, RIGHT, name, TESTS)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx = 1\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```py\nx = 1\ny = 2\n```", "x = 1\ny = 2"),
        ("Here it is:\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 2"),
        ("```python\nx = 1", "x = 1"),
        ("", ""),
        # Other languages, output, and fences of every kind; the last Python block counts.
        ("```python\nx = 1\n```\nExample:\n```\nf(1) -> 2\n```", "x = 1"),
        ("```text\nhello\n```\nHere:\n```python\nx = 1\n```", "x = 1"),
        ("```bash\npip install x\n```\n\n```python\nx = 1\n```\n```console\n$ x\n```", "x = 1"),
        ("```bash\npip install x\n```\n\n```\nx = 1\n```", "x = 1"),
        ("```python3.11\nx = 1\n```", "x = 1"),
        ("```Python\r\nx = 1\r\ny = 2\r\n```\r\n", "x = 1\ny = 2"),
        ("~~~python\nx = 1\n~~~", "x = 1"),
        ("````python\nx = '```'\n```\ny = 2\n````", "x = '```'\n```\ny = 2"),
        ("```{.python}\nx = 1```", "x = 1"),
        ("Code: ```python\nx = 1\n```", "x = 1"),
        ("It calls ```g``` first.\n```python\nx = 1\n```", "x = 1"),
    ],
)
def test_extract_code(answer: str, code: str) -> None:
    assert extract_code(answer) == code


F = "def f(a):\n    return {'a': a}"


@pytest.mark.parametrize(
    "answer",
    [
        F,
        f"```python\n{F}\n```\nExample:\n```python\nprint(f(1))\n```",
        f"```python\n{F}\n```\n```\nf(1) -> 2\n```",
        f"```js\nfunction f(a) {{}}\n```\n```python\n{F}\n```\n```python\nassert f\n```",
        rf"The final answer is \[ \boxed{{{F}}} \]",
        rf"\boxed{{ {F} }}",
        f"\\boxed{{```python\n{F}\n```}}",
    ],
)
def test_the_block_that_defines_the_function(answer: str) -> None:
    assert extract_code(answer, "f") == F


def test_code_that_mentions_a_box_is_not_cut() -> None:
    code = "def f(a):\n    return '\\\\boxed{' + a + '}'"
    assert extract_code(code, "f") == code
    assert extract_code("x = '\\\\boxed{1}'", "f") == "x = '\\\\boxed{1}'"


@pytest.mark.parametrize(
    "answer",
    ["```" * 10**5, "`" * 10**5 + "x`", "```\n" * 50_000, "~~~" + " " * 10**5 + "`", "```x" * 50_000,
     r"\boxed{" * 50_000, "```\n" + "`" * 10**5 + "x"],
)  # fmt: skip
def test_a_hostile_answer_is_read_in_linear_time(answer: str) -> None:
    extract_code(answer, "f")  # quadratic work would meet the suite's time limit
