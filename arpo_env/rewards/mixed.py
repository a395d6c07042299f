"""Short answers of any kind, as GAIA, HLE and xbench have them: a name, a number, a list, or mathematics.

The gold says which rule applies (the idea of GAIA's own scorer, over this package's normaliser and literals):

* equal text, by the QA normaliser, is right whatever the kind;
* a gold that is a number is met by an equal number (units, percent, thousands separators as in ``math.py``);
* a gold with commas or semicolons is a list, met element by element in its order;
* a gold written in LaTeX, or as an equation or expression, is decided by the mathematics verifier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from arpo_env.rewards.base import Verdict
from arpo_env.rewards.literals import numbers_equal, parse_number
from arpo_env.rewards.math import math_equal
from arpo_env.rewards.qa import exact_match

_MATHS = re.compile(r"\\[a-zA-Z]+|[\^_=]|\d\s*[*/+]\s*\w")
_SEPARATOR = re.compile(r"\s*[;,，；、]\s*")
#: Digits with thousands separators, which are no list.
_THOUSANDS = re.compile(r"[^\d,]*\d{1,3}(?:,\d{3})+(?:\.\d+)?[^\d,]*")
#: Longer answers are refused unread.
MAX_CHARS = 5000


def mixed_equal(answer: str, golds: Sequence[str]) -> Verdict:
    """1 when ``answer`` meets any gold by the rule of its kind, else 0.

    Raises:
        ConfigError: no golds, or a bare string in their place.
    """
    if len(answer) > max(MAX_CHARS, 4 * max(map(len, golds), default=0)):
        return Verdict(0.0, f"answer of {len(answer)} characters is too long")
    if exact_match(answer, golds):
        return Verdict(1.0, "same text")
    if not answer.strip():
        return Verdict(0.0, "empty answer")
    for gold in golds:
        reason = _meets(answer, gold)
        if reason is not None:
            return Verdict(1.0, reason)
    return Verdict(0.0, "no accepted answer matches")


def _meets(answer: str, gold: str) -> str | None:
    """Why ``answer`` meets ``gold``; None when it does not."""
    want = parse_number(gold)
    if want is not None:
        got = parse_number(answer)
        return "equal number" if got is not None and numbers_equal(got, want)[0] else None
    parts = _SEPARATOR.split(gold.strip())
    if len(parts) > 1 and all(parts) and not _MATHS.search(gold) and not _THOUSANDS.fullmatch(gold):
        given = _SEPARATOR.split(answer.strip())
        if len(given) == len(parts) and all(map(_element, given, parts)):
            return "equal list"
        return None
    if _MATHS.search(gold) and math_equal(answer, gold).score == 1.0:
        return "equal as mathematics"
    return None


def _element(answer: str, gold: str) -> bool:
    return exact_match(answer, [gold]) or _meets(answer, gold) is not None
