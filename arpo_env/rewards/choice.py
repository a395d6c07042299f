"""Multiple choice: compare the letter of an option, however it is dressed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from arpo_env.rewards.base import Verdict
from arpo_env.rewards.qa import check_golds, exact_match, normalise

# "B", "(b)", "B.", "B) 42", "Option B: 42", "\text{(B)}"; not "Bees", not "B and C".
# Quantifiers that give nothing back: those that may share a run of blanks would take quadratic time over it.
_LETTER = re.compile(
    r"\s*+(?:\\(?:text|textbf|mathrm|mathbf)\s*+\{\s*+)?+(?:(?:option|choice|answer)\s*+(?::\s*+)?+)?+"
    r"(?:\(\s*+([a-z])\s*+\)|([a-z])(?=\s*+(?:[).:}]|$)))(?P<rest>.*)$",
    re.IGNORECASE | re.DOTALL,
)

# A second option after the first: "… or C", "B C", "B, C", "B/C".
_SECOND = re.compile(r"\b(?:or|and)\b\W*[a-z]\b\W*$|^\W*[a-z]\b\W*$|[,/]\s*\(?[a-z]\b\)?", re.IGNORECASE)

#: Longer answers are refused unread.
MAX_CHARS = 5000


def option_letter(text: str) -> str | None:
    """The option a text names (upper case), or None when it names none or more than one.

    >>> option_letter("(b) 42"), option_letter("Option C"), option_letter("Bees"), option_letter("B) or C)")
    ('B', 'C', None, None)
    """
    found = _LETTER.match(text)
    if found is None:
        return None
    if _SECOND.search(found["rest"][:200]):
        return None
    return (found[1] or found[2]).upper()


def choice_equal(answer: str, golds: Sequence[str]) -> Verdict:
    """1 when the answer names the gold option; a gold that is no letter is compared as text.

    Raises:
        ConfigError: no golds, or a bare string in their place.
    """
    check_golds(golds)
    if len(answer) > max(MAX_CHARS, 4 * max(map(len, golds))):
        return Verdict(0.0, f"answer of {len(answer)} characters is too long")
    if exact_match(answer, golds):
        return Verdict(1.0, "same text")
    letter = option_letter(answer)
    if letter is None:
        return Verdict(0.0, f"no single option named in {normalise(answer)[:60]!r}")
    right = any(letter == option_letter(gold) for gold in golds)
    return Verdict(float(right), f"option {letter}")
