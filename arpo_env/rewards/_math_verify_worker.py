"""The child process that runs Math-Verify; started by ``math_verify_pool.py``, never imported.

It is a script of its own because Math-Verify cannot be bounded from inside: its own time-out needs SIGALRM
on the main thread, and SymPy can sit in one C call (10**10**10) with the interpreter locked. Here the
kernel does it: ITIMER_PROF counts this process' *CPU* time, SIGPROF's default action ends it, and so neither
a busy machine nor a slow start can change a verdict. Address space is bounded by RLIMIT_AS.

Protocol: one JSON object a line on stdin ``{"gold": …, "answer": …}``, one a line on stdout
``{"equal": bool}`` or ``{"error": name}``; first of all ``{"ready": true}``. It ends when stdin does or when
the parent is gone.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import signal
import sys
from typing import Any


def _close_numbers(gold: Any, answer: Any) -> bool:
    """Math-Verify rounds to six places, so that 1e-7 equals 0; demand six *significant* digits as well."""
    try:
        if not (gold.is_number and answer.is_number):
            return True
        error = abs((gold - answer).evalf(30))
        size = max(abs(gold.evalf(30)), abs(answer.evalf(30)))
        return bool(error <= 1e-6 * size)
    except (AttributeError, TypeError, ValueError):
        return True


def _judge(gold: str, answer: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy.core.random import seed  # type: ignore[import-untyped,unused-ignore]

    # SymPy decides some equalities by random points; its generator is its own and would be seeded by the clock.
    seed(0)
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    parsed = [parse(rf"\boxed{{{text}}}", config, parsing_timeout=None, raise_on_error=True) for text in (gold, answer)]
    if not all(parsed):
        return False
    if not verify(*parsed, timeout_seconds=None, raise_on_error=True):
        return False
    return _close_numbers(parsed[0][0], parsed[1][0])


def main() -> None:
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The channel is a private copy of stdout, so that nothing a library prints can be taken for a reply.
    channel = os.dup(1)
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401  (the slow import, before the first clock starts)

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    os.write(channel, b'{"ready": true}\n')
    buffer = b""
    while True:
        while b"\n" not in buffer:
            if not select.select([0], [], [], 2.0)[0]:
                if os.getppid() != parent:
                    return
                continue
            chunk = os.read(0, 65536)
            if not chunk:
                return
            buffer += chunk
        line, _, buffer = buffer.partition(b"\n")
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            reply: dict[str, Any] = {"equal": _judge(request["gold"], request["answer"])}
        except Exception as error:
            reply = {"error": type(error).__name__}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(channel, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
