"""Judge code by tests written as a program (HumanEval's ``check``, MBPP's asserts), in a way the code cannot forge.

Such tests usually run in the interpreter of the code they judge, which can patch builtins, return objects that equal
everything, or exit with success. Here the two never meet:

1. *record*: the tests run once on the reference solution, which notes every call's arguments (:func:`record_calls`);
2. *answer*: the code under judgement runs in a session of its own, is called with these arguments, and its values come
   back as plain data (JSON);
3. *replay*: the tests run again, in a fresh session, on a stand-in that answers each call with the value recorded.

A test may call the function again because of what it returned (or to word its complaint); such a call is then asked
for as well, and the replay begins anew. To pass, the code has to return values that satisfy the tests. All three steps
run in the sandbox. What plain data cannot carry is lost: a test that looks at the identity or the methods of a returned
object would fail; neither set has one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from arpo_env.errors import ConfigError
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.code import MAX_CODE_CHARS
from arpo_env.sandbox.base import ExecResult, Limits, Sandbox

#: How often values unlike the reference's may lead the tests to a further call.
_MAX_ROUNDS = 6
#: Characters of values, over all calls.
_MAX_OUTPUT = 2_000_000

# Plain data as JSON, with a tag where JSON has no such type. ``repr`` of floats is exact. Iterators become lists that
# the replay hands out as iterators, so that ``list(f(x)) == […]`` holds and ``f(x) == […]`` does not, as in Python.
_CODEC = """
def _arpo_encode(value, depth=0):
    if depth > 60:
        raise ValueError("too deep")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return {"f": float.__repr__(value)}
    if isinstance(value, complex):
        return {"c": [float.__repr__(value.real), float.__repr__(value.imag)]}
    if isinstance(value, (bytes, bytearray)):
        return {"b": bytes(value).hex()}
    if isinstance(value, list):
        return [_arpo_encode(one, depth + 1) for one in value]
    if isinstance(value, tuple):
        return {"t": [_arpo_encode(one, depth + 1) for one in value]}
    if isinstance(value, (set, frozenset)):
        return {"s": [_arpo_encode(one, depth + 1) for one in value]}
    if isinstance(value, dict):
        return {"d": [[_arpo_encode(k, depth + 1), _arpo_encode(v, depth + 1)] for k, v in value.items()]}
    if hasattr(value, "item") and hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0:
        return _arpo_encode(value.item(), depth + 1)
    import itertools
    if hasattr(value, "__iter__"):
        return {"i": [_arpo_encode(one, depth + 1) for one in itertools.islice(value, 100000)]}
    raise TypeError("no plain data: " + type(value).__name__)

def _arpo_decode(value):
    if isinstance(value, list):
        return [_arpo_decode(one) for one in value]
    if not isinstance(value, dict):
        return value
    (tag, inner), = value.items()
    if tag == "f":
        return float(inner)
    if tag == "c":
        return complex(float(inner[0]), float(inner[1]))
    if tag == "b":
        return bytes.fromhex(inner)
    if tag == "d":
        return {_arpo_decode(k): _arpo_decode(v) for k, v in inner}
    items = [_arpo_decode(one) for one in inner]
    return {"t": tuple, "s": set, "i": iter}[tag](items)
"""

# The harnesses. Their output goes between two marks; what else is printed does not count.
_RECORD = (
    _CODEC
    + """
def _arpo_record():
    import json, random
    random.seed(0)
    function, calls = globals()[$quoted_function], []
    def probe(*args, **kwargs):
        calls.append(json.dumps([_arpo_encode(args), _arpo_encode(kwargs)]))
        return function(*args, **kwargs)
    space = dict(globals())
    space[$probe] = probe
    exec($tests, space)
    print($mark + json.dumps(calls) + $mark, flush=True)
_arpo_record()
"""
)
_ANSWER = (
    _CODEC
    + """
def _arpo_answer():
    import io, json, sys
    class _Sink(io.TextIOBase):
        def write(self, text):
            return len(text)
    out, sys.stdout = sys.stdout, _Sink()
    replies = []
    try:
        for call in json.loads($calls):
            args, kwargs = map(_arpo_decode, json.loads(call))
            try:
                replies.append(["value", _arpo_encode($function(*args, **kwargs))])
            except BaseException as error:
                replies.append(["error", type(error).__name__])
    finally:
        sys.stdout = out
    print($mark + json.dumps(replies) + $mark, flush=True)
_arpo_answer()
"""
)
_REPLAY = (
    _CODEC
    + """
def _arpo_replay():
    import json, random
    random.seed(0)
    known = {}
    for call, (kind, value) in json.loads($replies):
        known.setdefault(call, []).append((kind, value))
    class Unknown(BaseException):
        pass
    def probe(*args, **kwargs):
        call = json.dumps([_arpo_encode(args), _arpo_encode(kwargs)])
        if call not in known:
            raise Unknown(call)
        kind, value = known[call].pop(0) if len(known[call]) > 1 else known[call][0]
        if kind != "value":
            raise RuntimeError("the code raised " + str(value))
        return _arpo_decode(value)
    space = dict(globals())
    space[$probe] = probe
    try:
        exec($tests, space)
        said = ["passed", ""]
    except Unknown as call:
        said = ["asks", str(call)]
    except BaseException as error:
        said = ["failed", type(error).__name__]
    print($mark + json.dumps(said) + $mark, flush=True)
_arpo_replay()
"""
)


@dataclass(frozen=True, slots=True)
class Tests:
    """Tests as a program.

    Attributes:
        reference: source that defines ``function``, and whatever the tests use besides.
        function: the name under judgement.
        tests: source that raises where the function is wrong; it calls the function by the name ``probe``.
        calls: what :func:`record_calls` noted.
    """

    __test__ = False  # not a test case of pytest's

    reference: str
    function: str
    tests: str
    probe: str
    calls: tuple[str, ...] = ()


def record_calls(sandbox: Sandbox, tests: Tests, *, seconds: float = 10.0) -> tuple[str, ...]:
    """The arguments of every call that the tests make of the function, encoded.

    Raises:
        ConfigError: the reference does not pass its own tests, or a call's arguments are no plain data.
        ToolUnavailable, InfraError: the sandbox cannot run.
    """
    mark = _mark(tests.reference, tests.tests)
    harness = _fill(_RECORD, tests.function, probe=tests.probe, tests=tests.tests, mark=mark)
    said = _last(_run(sandbox, [tests.reference, harness], seconds), mark)
    if not isinstance(said, list) or not said:
        raise ConfigError(f"the reference solution of {tests.function} does not pass its own tests")
    return tuple(said)


def run_program_tests(sandbox: Sandbox, code: str, tests: Tests, *, seconds: float = 5.0) -> Verdict:
    """1 when the values that ``code`` returns satisfy the tests, else 0.

    Args:
        seconds: wall time for running the code, for all its calls together, and for the tests.

    Raises:
        ConfigError: no recorded calls.
        ToolUnavailable, InfraError: the sandbox cannot run; never for what the code did.
    """
    if not tests.calls:
        raise ConfigError("no recorded calls: a verdict over nothing would be 1")
    if not code.strip():
        return Verdict(0.0, "no code")
    if len(code) > MAX_CODE_CHARS:
        return Verdict(0.0, f"code of {len(code)} characters; at most {MAX_CODE_CHARS} are run")
    calls = list(tests.calls)
    for _ in range(_MAX_ROUNDS):
        replies = _answers(sandbox, code, tests.function, calls, seconds)
        if isinstance(replies, str):
            return Verdict(0.0, replies)
        said = _replay(sandbox, tests, list(zip(calls, replies, strict=True)), seconds)
        if said[0] == "passed":
            return Verdict(1.0, f"the tests passed ({len(calls)} calls)")
        if said[0] != "asks":
            errors = [str(name)[:60] for kind, name in replies if kind != "value"]
            return Verdict(0.0, f"a call raised {errors[0]}" if errors else f"the tests raised {said[1][:60]}")
        calls.append(said[1])  # values unlike the reference's led the tests to another call: ask for it too
    return Verdict(0.0, f"the tests asked for more than {_MAX_ROUNDS} further calls")


def _answers(
    sandbox: Sandbox, code: str, function: str, calls: Sequence[str], seconds: float
) -> list[tuple[str, Any]] | str:
    """What the code returns for each call, as (``value`` or ``error``, value or name); or why there is nothing."""
    mark = _mark(function, code)
    ran = _run(sandbox, [code, _fill(_ANSWER, function, calls=json.dumps(calls), mark=mark)], seconds)
    if len(ran) == 1:
        return f"the code does not run ({ran[0].status}): {ran[0].output.strip()[-200:]}"
    if ran[1].status in ("timeout", "killed"):
        return f"the tests were stopped ({ran[1].status})"
    replies = _last(ran, mark)
    if not (
        isinstance(replies, list)
        and len(replies) == len(calls)
        and all(isinstance(reply, list) and len(reply) == 2 and reply[0] in ("value", "error") for reply in replies)
    ):
        return "the tests gave no readable reply"
    return [(kind, value) for kind, value in replies]


def _replay(
    sandbox: Sandbox, tests: Tests, answered: Sequence[tuple[str, tuple[str, Any]]], seconds: float
) -> tuple[str, str]:
    """``("passed", "")``, ``("failed", error)``, or ``("asks", call)`` for a call that has no answer yet."""
    mark, replies = _mark(tests.function, tests.tests), json.dumps(answered)
    harness = _fill(_REPLAY, tests.function, probe=tests.probe, tests=tests.tests, replies=replies, mark=mark)
    ran = _run(sandbox, [tests.reference, harness], seconds)
    said = _last(ran, mark)
    if isinstance(said, list) and len(said) == 2:
        return str(said[0]), str(said[1])
    return "failed", f"nothing readable ({ran[-1].status})"


def _fill(template: str, function: str, **values: str) -> str:
    """The harness with ``values`` as Python literals and the function's name."""
    quoted = {name: repr(value) for name, value in values.items()}
    return Template(template).substitute(quoted, function=function, quoted_function=repr(function))


def _mark(*parts: str) -> str:
    # It only delimits; it need not be secret, since whatever stands between must still hold the right values.
    return f"#{hashlib.sha256(chr(0).join(parts).encode('utf-8', 'replace')).hexdigest()[:24]}#"


def _run(sandbox: Sandbox, cells: Sequence[str], seconds: float) -> list[ExecResult]:
    """The results of the cells, in one fresh session, up to the first that fails."""
    session = sandbox.session(seed=0, limits=Limits(seconds=seconds, output_chars=_MAX_OUTPUT))
    results: list[ExecResult] = []
    try:
        for cell in cells:
            results.append(session.run(cell))
            if not results[-1].ok:
                break
    finally:
        session.close()
    return results


def _last(results: Sequence[ExecResult], mark: str) -> Any:
    """What the last cell printed between its marks, decoded; None when nothing is readable there."""
    parts = results[-1].output.split(mark)
    if len(parts) != 3:
        return None
    try:
        return json.loads(parts[1])
    except (ValueError, RecursionError):
        return None
