"""Judge code by hidden tests, run in a sandbox, in a way the code cannot forge.

Untrusted code owns the interpreter it runs in: it can patch builtins, ``json`` and ``sys.stdout``, override
``__eq__``, exit, or print "all tests passed". So nothing that the interpreter *says about itself* counts:

* the sandbox is given the tests' inputs only; the expected values never enter it;
* it sends back the values the function returned, as JSON, and these are compared here, outside;
* a fresh session a verdict, closed afterwards, so no answer meets another one's state.

To pass, code has to produce the right values for inputs it has not seen, which is what was asked. What is
left open: with ``sandbox="unsafe"`` code can read this package's files, hence generate the tests itself.
"""

from __future__ import annotations

import hashlib
import json
import keyword
import re
from collections.abc import Callable, Sequence
from typing import Any

from arpo_env.errors import ConfigError
from arpo_env.rewards.base import Verdict
from arpo_env.sandbox.base import Limits, Sandbox

#: ``(arguments, expected)``; both JSON values.
Test = tuple[Sequence[Any], Any]

#: Characters of code that are run at most.
MAX_CODE_CHARS = 50_000
#: Characters of returned values, over all tests.
_MAX_OUTPUT = 400_000

#: A line that opens a fenced block (text may stand before it), with its info string; and one that closes it.
_OPENS = re.compile(r"(?<![`~])(?P<fence>`{3,}+|~{3,}+)(?P<info>[^`~]*+)$")
_FENCE = re.compile(r"`{3,}+|~{3,}+")
_CLOSES = re.compile(r"(?<![`~])(?P<fence>`{3,}+|~{3,}+)[ \t]*+$")
_PYTHON = re.compile(r"\{?\s*\.?(?:python|py)(?![a-z])", re.IGNORECASE)

# Runs in the session after the policy's code. Names are underscored so as not to hide any of the policy's.
_HARNESS = """
def _arpo_harness():
    import io, json, sys
    class _Sink(io.TextIOBase):
        def write(self, text):
            return len(text)
    out, sys.stdout = sys.stdout, _Sink()
    replies = []
    try:
        for arguments in json.loads({inputs!r}):
            try:
                replies.append(json.dumps(["value", {function}(*arguments)]))
            except BaseException as error:
                replies.append(json.dumps(["error", type(error).__name__]))
    finally:
        sys.stdout = out
    print({mark!r} + json.dumps(replies) + {mark!r}, flush=True)
_arpo_harness()
"""


def extract_code(answer: str, function: str | None = None) -> str:
    r"""The code of an answer: that of one Markdown block if it has any, else all of it.

    Of several blocks the last one that defines ``function`` counts; else the last one marked as Python, the last one
    without a mark, or the last one. A ``\boxed{…}`` around the definition of ``function`` is opened.

    >>> extract_code("```python\nx = 1\n```\nIt prints:\n```text\n1\n```"), extract_code("x = 1")
    ('x = 1', 'x = 1')
    """
    text = answer.replace("\r\n", "\n")
    if function is not None:
        text = _unboxed(text, function)
    blocks = _blocks(text)
    if not blocks:
        return text.strip("\n")
    wanted: tuple[Callable[[str, str], bool], ...] = (
        lambda info, code: function is not None and _defines(code, function),
        lambda info, code: _PYTHON.match(info) is not None,
        lambda info, code: not info,
        lambda info, code: True,
    )
    chosen = next(code for fits in wanted for info, code in reversed(blocks) if fits(info, code))
    return chosen.strip("\n")


def _defines(code: str, function: str) -> bool:
    name = re.escape(function)
    return bool(re.search(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{name}\b|^{name}[ \t]*[=:]", code, re.MULTILINE))


def _unboxed(text: str, function: str) -> str:
    r"""What stands between the first ``\boxed{`` and the last brace, where that is the definition of ``function``.

    Braces are not paired: those of code may stand in strings.
    """
    box = re.search(r"\\boxed[ \t]*\{", text)
    end = text.rfind("}")
    if box is None or end < box.end() or _defines(text[: box.start()], function):
        return text
    inside = text[box.end() : end]
    return inside.strip() if _defines(inside.strip(), function) else text


def _blocks(text: str) -> list[tuple[str, str]]:
    """(info string, code) of every fenced block; one that is never closed reaches to the end. Linear time."""
    blocks: list[tuple[str, str]] = []
    fence, info, lines = "", "", list[str]()
    for line in text.split("\n"):
        if not fence:
            opened = _OPENS.search(line)
            # After an odd number of fences it closes a span of code within the line.
            if opened and len(_FENCE.findall(line, 0, opened.start())) % 2 == 0:
                fence, info, lines = opened["fence"], opened["info"].strip(), []
            continue
        closed = _CLOSES.search(line)
        # A longer fence may hold shorter ones.
        if closed and closed["fence"][0] == fence[0] and len(closed["fence"]) >= len(fence):
            blocks.append((info, "\n".join([*lines, line[: closed.start()]])))
            fence = ""
        else:
            lines.append(line)
    if fence:
        blocks.append((info, "\n".join(lines)))
    return blocks


def run_tests(sandbox: Sandbox, code: str, function: str, tests: Sequence[Test], *, seconds: float = 5.0) -> Verdict:
    """1 when ``code`` defines ``function`` and it returns the expected value on every test, else 0.

    Values are compared as Python compares decoded JSON: a tuple counts as a list, ``2.0`` as ``2``.

    Args:
        seconds: wall time for running the code, and again for all tests together.

    Raises:
        ConfigError: no tests, or a function name that is none.
        ToolUnavailable, InfraError: the sandbox cannot run; never for what the code did.
    """
    if not tests:
        raise ConfigError("no tests: a verdict over nothing would be 1")
    if not function.isidentifier() or keyword.iskeyword(function):
        raise ConfigError(f"function must be a Python name, got {function!r}")
    if not code.strip():
        return Verdict(0.0, "no code")
    if len(code) > MAX_CODE_CHARS:
        return Verdict(0.0, f"code of {len(code)} characters; at most {MAX_CODE_CHARS} are run")
    if not re.search(rf"\b{re.escape(function)}\b", code):
        return Verdict(0.0, f"no function {function}")
    # The mark only delimits; it need not be secret, since whatever stands between must still hold the right values.
    mark = f"#{hashlib.sha256((function + code).encode('utf-8', 'replace')).hexdigest()[:24]}#"
    harness = _HARNESS.format(inputs=json.dumps([list(args) for args, _ in tests]), function=function, mark=mark)
    session = sandbox.session(seed=0, limits=Limits(seconds=seconds, output_chars=_MAX_OUTPUT))
    try:
        defined = session.run(code)
        if not defined.ok:
            return Verdict(0.0, f"the code does not run ({defined.status}): {defined.output.strip()[-200:]}")
        ran = session.run(harness)
    finally:
        session.close()
    if ran.status in ("timeout", "killed"):
        return Verdict(0.0, f"the tests were stopped ({ran.status})")
    return _compare(ran.output, mark, tests)


def _compare(output: str, mark: str, tests: Sequence[Test]) -> Verdict:
    parts = output.split(mark)
    if len(parts) != 3:
        return Verdict(0.0, "the tests gave no readable reply")
    try:
        replies = [json.loads(reply) for reply in json.loads(parts[1])]
    except (ValueError, TypeError, RecursionError):
        return Verdict(0.0, "the tests gave no readable reply")
    if len(replies) != len(tests):
        return Verdict(0.0, f"{len(replies)} replies to {len(tests)} tests")
    for number, (reply, (_, expected)) in enumerate(zip(replies, tests, strict=True), start=1):
        if not (isinstance(reply, list) and len(reply) == 2 and reply[0] == "value"):
            what = reply[1] if isinstance(reply, list) and len(reply) == 2 else "unreadable"
            return Verdict(0.0, f"test {number} of {len(tests)} raised {str(what)[:60]}")
        if reply[1] != expected:
            return Verdict(0.0, f"test {number} of {len(tests)} returned another value")
    return Verdict(1.0, f"{len(tests)} of {len(tests)} tests passed")
