"""The child process that runs Math-Verify; started by ``math_verify_pool.py``, never imported.

Math-Verify cannot be bounded from inside: its own time-out needs SIGALRM on the main thread, and SymPy can sit in one
C call (10**10**10) with the interpreter locked. Here the kernel does it (:mod:`arpo_env.workers`).
"""

from __future__ import annotations

from typing import Any

from arpo_env.workers import serve


def _difference(gold: Any, answer: Any) -> tuple[Any, Any] | None:
    """How far two numbers are apart, and the size of the larger one; None where one is no number."""
    try:
        if not (gold.is_number and answer.is_number):
            return None
        return abs((gold - answer).evalf(30)), max(abs(gold.evalf(30)), abs(answer.evalf(30)))
    except (AttributeError, TypeError, ValueError):
        return None


def _judge(gold: str, answer: str, rounding: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Rational  # type: ignore[import-untyped,unused-ignore]
    from sympy.core.random import seed  # type: ignore[import-untyped,unused-ignore]

    # SymPy decides some equalities by random points; its generator is its own and would be seeded by the clock.
    seed(0)
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    parsed = [parse(rf"\boxed{{{text}}}", config, parsing_timeout=None, raise_on_error=True) for text in (gold, answer)]
    if not all(parsed):
        return False
    if rounding != "0" and (apart := _difference(parsed[0][0], parsed[1][0])) is not None:
        return bool(apart[0] <= Rational(rounding))
    if not verify(*parsed, timeout_seconds=None, raise_on_error=True):
        return False
    apart = _difference(parsed[0][0], parsed[1][0])
    # Math-Verify rounds to six places, so that 1e-7 equals 0; demand six *significant* digits as well.
    return apart is None or bool(apart[0] <= 1e-6 * apart[1])


def _handle(request: dict[str, Any]) -> dict[str, Any]:
    return {"equal": _judge(request["gold"], request["answer"], request["rounding"])}


if __name__ == "__main__":
    import math_verify  # noqa: F401  (the slow import, before the first clock starts)

    serve(_handle)
