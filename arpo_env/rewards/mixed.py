"""Short answers of any kind, as GAIA, HLE and xbench have them: a name, a number, a list, or mathematics.

The gold says which rule applies (the idea of GAIA's own scorer, over this package's normaliser and literals):

* a gold that is a number is met by an equal number (units, percent, thousands separators as in ``math.py``);
* a gold with commas or semicolons is a list, met element by element in its order;
* a gold that is an expression (LaTeX, or operators and no words) is met by the same text but for blanks, or decided by
  the mathematics verifier; logic, dates, ranges and ratios by their text alone;
* any other gold is prose, met by equal text by the QA normaliser.

Only prose goes through that normaliser: it deletes operators and brackets, which would make n(n-1)/2 of n(n+1)/2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from arpo_env.errors import ConfigError
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.latex import clean, flatten
from arpo_env.rewards.literals import numbers_equal, parse_number
from arpo_env.rewards.math import math_equal
from arpo_env.rewards.qa import exact_match

#: Mathematics, whatever else stands there.
_LATEX = re.compile(r"\\[a-zA-Z]+|[\^_=]")
#: Signs that are operators where no word stands: of + - * / : only those beside a digit, a single letter or a bracket.
_OPERAND = r"(?:\d|(?<![^\W\d_])[^\W\d_](?![^\W\d_])|[()\[\]])"
_NAMES = "sin|cos|tan|cot|sec|csc|log|ln|exp"
_OPERATOR = re.compile(
    r"[<>|√∛¬∧∨⊕⊻→←↔⇒⇐⇔⊢∀∃≡≈≠≤≥±∓×÷∞∈∉⊂⊆∪∩∅∑∏∫∂∇²³]|(?<![^\W\d_]{2})!"
    rf"|{_OPERAND}\s*[-−+*/]\s*[\w(\[\\√-]|[\w)\]]\s*[-−+*/]\s*{_OPERAND}|^\s*[-−+]\s*[^\W\d_(]"
    rf"|\b(?:{_NAMES})\b"
    r"|\d\s*:\s*\d(?![\d:]*\s*[ap]\.?m)",
    re.IGNORECASE,
)
_BARE_FUNCTION = re.compile(rf"(?<![\\a-zA-Z])({_NAMES})(?![a-zA-Z])")
#: A word that makes a text prose: three Latin letters or one of another script (not Greek); not what expressions hold.
_FUNCTIONS = f"{_NAMES}|max|min|mod|gcd|lcm|det|sqrt|and|not|xor|nor|nand|iff|then|true|false"
_WORD = re.compile(
    rf"(?<![^\W\d_])(?!(?:{_FUNCTIONS})(?![^\W\d_]))[a-zA-ZÀ-ÖØ-öø-ɏ]{{3}}|[\u0400-\u1eff\u3040-\ud7ff]", re.IGNORECASE
)
#: What arithmetic or algebra would misread: logic; dates, scores and ranges of digits; names such as F-16.
_TEXT_ONLY = re.compile(
    r"[¬∧∨⊕⊻→←↔⇒⇐⇔⊢∀∃]|^\s*\d+(?:\s*[-−–:]\s*\d+)+\s*$|^\s*\d+(?:/\d+){2,}\s*$|^\s*[A-Z][A-Z\d]*(?:-[A-Z\d]+)+\s*$"
)
_SEPARATOR = re.compile(r"\s*[;,，；、]\s*")
#: Digits with thousands separators, which are no list.
_THOUSANDS = re.compile(r"[^\d,]*\d{1,3}(?:,\d{3})+(?:\.\d+)?[^\d,]*")
#: Longer answers are refused unread.
MAX_CHARS = 5000


def mixed_equal(answer: str, golds: Sequence[str]) -> Verdict:
    """1 when ``answer`` meets any gold by the rule of its kind, else 0.

    Raises:
        ConfigError: no golds, or a bare string in their place.
        ToolUnavailable: a gold is an expression and Math-Verify is not installed.
    """
    if isinstance(golds, str) or not golds:
        raise ConfigError(f"golds must be a non-empty sequence of answers, got {golds!r}; pass [gold]")
    if len(answer) > max(MAX_CHARS, 4 * max(map(len, golds))):
        return Verdict(0.0, f"answer of {len(answer)} characters is too long")
    if not answer.strip():
        return Verdict(0.0, "empty answer")
    for gold in golds:
        reason = _meets(answer, gold)
        if reason is not None:
            return Verdict(1.0, reason)
    return Verdict(0.0, "no accepted answer matches")


def _meets(answer: str, gold: str) -> str | None:
    """Why ``answer`` meets ``gold``; None when it does not."""
    want, got = parse_number(gold), parse_number(answer)
    if want is not None and got is not None:
        return "equal number" if numbers_equal(got, want)[0] else None
    if want is None and _is_expression(gold):
        if _same_signs(answer, gold):
            return "same text"
        if _TEXT_ONLY.search(gold):
            return None
        # Math-Verify reads "log 2" as l times o times g times 2.
        one, other = (_BARE_FUNCTION.sub(r"\\\1", text) for text in (answer, gold))
        return "equal as mathematics" if math_equal(one, other).score == 1.0 else None
    parts = _SEPARATOR.split(gold.strip())
    if len(parts) > 1 and all(parts) and not _THOUSANDS.fullmatch(gold):
        given = _SEPARATOR.split(answer.strip())
        if len(given) == len(parts) and all(
            _meets(one, part) is not None for one, part in zip(given, parts, strict=True)
        ):
            return "equal list"
        if all(parse_number(part) is not None for part in parts):
            return None
    # "7 Samurai" is a number and a title; "x" is no title, and "-x" is not it.
    plain = _WORD.search(gold) or (want is None and not _is_expression(answer))
    return "same text" if plain and exact_match(answer, [gold]) else None


def _is_expression(text: str) -> bool:
    """Whether ``text`` is written in symbols: LaTeX, or operators and no words."""
    text = flatten(text)  # \\text{…} says nothing
    if _LATEX.search(text):
        return True
    if _WORD.search(text):
        return False
    parts = _SEPARATOR.split(text.strip())
    if not text or len(parts) == 1:
        return _OPERATOR.search(text) is not None
    bracketed = text.strip()[0] in "([{" and text.strip()[-1] in ")]}"  # a tuple, an interval, a set
    return bracketed or any(parse_number(part) is None and _is_expression(part) for part in parts)


def _same_signs(answer: str, gold: str) -> bool:
    """Whether both are the same text but for blanks; case counts in LaTeX, and where it tells two letters apart."""
    one, other = ("".join(flatten(clean(text)).split()) for text in (answer, gold))
    if "\\" not in gold and not any(char.swapcase() in other for char in other if char.isalpha()):
        one, other = one.casefold(), other.casefold()
    return bool(one) and one == other
