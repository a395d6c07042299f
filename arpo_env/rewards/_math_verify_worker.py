"""The child process that runs Math-Verify; started by ``math_verify_pool.py``, never imported.

Math-Verify cannot be bounded from inside: its own time-out needs SIGALRM on the main thread, and SymPy can sit in one
C call (10**10**10) with the interpreter locked. Here the kernel does it (:mod:`arpo_env.workers`).
"""

from __future__ import annotations

from typing import Any

from arpo_env.workers import serve


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


def _handle(request: dict[str, Any]) -> dict[str, Any]:
    return {"equal": _judge(request["gold"], request["answer"])}


if __name__ == "__main__":
    import math_verify  # noqa: F401  (the slow import, before the first clock starts)

    serve(_handle)
