"""Golds of real MATH500 and GSM8K rows, rewritten: other spellings are equal, other values are not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from arpo_env.rewards.literals import parse_number
from arpo_env.rewards.math import math_equal
from arpo_env.suites import suite

DATA = Path("/work/shared/data/benchmarks")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the published samples are not on this machine")
pytest.importorskip("math_verify")


def golds() -> list[str]:
    found: list[str] = []
    for name in ("MATH500", "GSM8K", "AIME24", "AIME25"):
        family = suite(name).family(DATA)
        found += [family.task(0, "test", n).answer for n in range(family.size("test") or 0)]
    return list(dict.fromkeys(found))


def spellings(gold: str) -> Iterator[str]:
    """The same answer, otherwise written."""
    yield rf"${gold}$"
    yield rf"\boxed{{{gold}}}"
    yield rf" \[ {gold} \] "
    yield gold.replace(r"\frac", r"\dfrac").replace(" ", r"\, ")
    yield f"{gold}."
    if gold.isdecimal():
        value = int(gold)
        yield from (f"+{value}", f"{value:,}", f"{value}.0", f"x = {value}", rf"\frac{{{2 * value}}}{{2}}")
        yield from (rf"{value}\text{{ apples}}", f"{value} units", f"{value - 1} + 1", rf"{2 * value} \div 2")
        yield from (rf"\$ {value}", f"{value}/1", "".join(chr(0xFF10 + int(digit)) for digit in str(value)))
    number = parse_number(gold)
    fraction = number.coefficient if number is not None and number.rational and number.unit is None else None
    if fraction is not None and number is not None and number.base is None and fraction.denominator > 1:
        yield from (str(fraction), rf"\tfrac{{{3 * fraction.numerator}}}{{{3 * fraction.denominator}}}")
        yield f"{float(fraction):.12f}"
        if fraction > 1:
            whole, rest = divmod(fraction, 1)
            yield rf"{whole}\frac{{{rest.numerator}}}{{{rest.denominator}}}"
    if match := re.fullmatch(r"(\d+)\s*\\sqrt\{?(\d+)\}?", gold):
        yield rf"\sqrt{{{int(match[1]) ** 2 * int(match[2])}}}"
        yield f"{match[1]}√{match[2]}"
    if match := re.fullmatch(r"(-?\d+) ([+-]) (\d+)i", gold):
        yield f"{match[2].replace('+', '')}{match[3]}i + {match[1]}"
    if re.fullmatch(r"-?\d+(, ?-?\d+)+", gold):
        parts = gold.split(",")
        yield ",".join(reversed(parts))
        yield rf"\{{{gold}\}}"
    if gold.startswith(r"\left("):
        yield gold.replace(r"\left", "").replace(r"\right", "")
        yield gold.replace(" ", "")


def others(gold: str) -> Iterator[str]:
    """Other answers, close by."""
    yield from (f"{gold} + 1", f"2({gold})+5", f"not {gold}", f"{gold} or 12345", "", "12345.678")
    number = parse_number(gold)
    if number is not None and number.rational and number.base is None and not number.percent:
        value = number.coefficient
        for other in (value + 1, value - 1, -value, value * 10, value / 10, value + Fraction(1, 7)):
            if other != value:
                yield str(other)


@pytest.mark.parametrize("forms", [pytest.param(spellings, id="equal"), pytest.param(others, id="other")])
def test_real_golds_rewritten(forms: object) -> None:
    assert callable(forms)
    want = 1.0 if forms is spellings else 0.0
    tried, wrong = 0, []
    for gold in golds():
        for answer in forms(gold):
            tried += 1
            verdict = math_equal(answer, gold)
            if verdict.score != want:
                wrong.append((gold, answer, verdict.reason))
    assert wrong == []
    assert tried > 600
