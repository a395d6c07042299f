r"""One answer or several: what parts a cleaned answer at its outermost level.

Math-Verify reads one side of "5 \approx 8" and one case of "5 for x > 0, 8 otherwise", and so would pass either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from arpo_env.rewards.latex import flatten
from arpo_env.rewards.literals import NUMBER_WORDS
from arpo_env.rewards.units import FRACTIONS, SCALES

#: What stands between the sides of an equation or an approximation; not the = of "<=", ">=", "!=", ":=".
_SIGN = re.compile(r"(?<![<>!:])=|\\(?:approx|simeq|doteq)(?![a-zA-Z])")
#: What joins several answers; what sets one under a condition, or doubts it.
_JOINS = {
    "list": re.compile(r"\\(?:lor|land|vee|wedge)(?![a-zA-Z])|[∨∧]|(?<![\\a-zA-Z])or(?![a-zA-Z])"),
    "case": re.compile(
        r"\\(?:iff|implies|impliedby|[a-zA-Z]*[rR]ightarrow)(?![a-zA-Z])|[⇔⇒↔→]"
        r"|(?<![\\a-zA-Z])(?:but|not|either|maybe|perhaps|possibly|unless|except|otherwise|else)(?![a-zA-Z])"
    ),
}
#: These join only where mathematics follows: "5 for x > 0" is a case, "18 dollars for the week" is none.
_CONDITIONS = "if|iff|for|when|where|while"
_JOINS_BEFORE_MATHS = {
    "list": re.compile(r"(?<![\\a-zA-Z])and(?![a-zA-Z])"),
    "case": re.compile(rf"(?<![\\a-zA-Z])(?:{_CONDITIONS})(?![a-zA-Z])"),
}


def _number_words(words: Iterable[str]) -> str:
    """A pattern for number words that stand for a value, as in "or six"; not "one week", not "six-packs"."""
    one_of = "|".join(words)
    word = rf"\b(?:{one_of})(?:-(?:{one_of}))?\b(?!-)"
    counts_things = rf"\s+(?!(?:and|or|but|is|else|otherwise|{_CONDITIONS})\b)[a-z]{{2,}}"
    return rf"(?i:(?:[,;]|\b(?:or|and)\b)\s*{word}|{word}(?!{counts_things}))"


#: A number inside ``\text{…}``, in digits or as a word.
TEXT_NUMBER = re.compile(rf"\\text\{{[^{{}}]*(?:\d|{_number_words(NUMBER_WORDS)})")
#: Stands for a group in braces.
_HOLE = "□"
#: A digit, a relation, a command, a group, a letter (but for the article "a"), a number word.
_MATHS = re.compile(
    r"[\d<>=]|\\[a-zA-Z{]|[^\x00-\x7f’“”]"
    r"|(?<![\w'’])(?!a\s+(?!and\b|or\b|is\b|are\b)[a-z]{2})[a-zA-Z](?!\w)|"
    + _number_words([*NUMBER_WORDS, *SCALES, *sorted(FRACTIONS)])
)
#: "for k in Z", "for all integers k" at the end say what a variable of the answer ranges over.
_RANGE = re.compile(
    r"(?<![\\a-zA-Z])(?:for|where)\s+(?:(?:all|any|every|each|some)\s+)?"
    r"(?:integers?\s+[a-zA-Z]|[a-zA-Z]\s*\\in\s*(?:\\mathbb\s*\{?\s*)?[NZQRCℕℤℚℝℂ]\s*\}?(?:\^\{?[+*]\}?)?)$"
)
_GROUP = re.compile(r"(?<!\\)\{[^{}]*\}")
_BRACKETS = re.compile(r"[(\[][^()\[\]]*[)\]]")


def split_sides(latex: str) -> tuple[list[str], list[str]]:
    r"""The sides of a chain of equations and approximations, and the signs between them ("=" or a command).

    Only signs outside braces count, not the k=1 of a sum.

    >>> split_sides(r"x = \frac{10}{3} \approx 3.33")
    (['x', '\\frac{10}{3}', '3.33'], ['=', '\\approx'])
    """
    sides, signs, depth, start, at = list[str](), list[str](), 0, 0, 0
    for sign in _SIGN.finditer(latex):
        depth += latex.count("{", at, sign.start()) - latex.count("}", at, sign.start())
        at = sign.start()
        if depth == 0:
            sides.append(latex[start:at].strip())
            signs.append(sign[0])
            start = sign.end()
    return [*sides, latex[start:].strip()], signs


def joins(latex: str) -> set[str]:
    r"""Which joins stand outside braces, in ``\text{…}`` or bare: "list" (or, and), "case" (if, for, otherwise …).

    >>> joins(r"5 \text{ or six}"), joins(r"x^2 \iff x = 1"), joins(r"\lim_{x \rightarrow 0} x")
    ({'list'}, {'case'}, set())
    >>> joins(r"5 \text{ for } x > 0"), joins(r"18 \text{ dollars for the week}")
    ({'case'}, set())
    """
    top = _outermost(latex)
    found = {kind for kind, join in _JOINS.items() if join.search(top)}
    for kind, join in _JOINS_BEFORE_MATHS.items():
        word = join.search(top)
        if word and _MATHS.search(top, word.end()):
            found.add(kind)
    return found


def without_range(latex: str) -> str:
    r"""``latex`` without what its variable ranges over ("for k in Z" at its end), which is no case.

    >>> without_range(r"2k \text{ for } k \in \mathbb{Z}"), without_range(r"2k \text{ for } k > 0")
    ('2k', '2k \\text{ for } k > 0')
    """
    flat = flatten(latex)
    said = _RANGE.search(flat)
    return flat[: said.start()].rstrip(" ,") if said else latex


def is_list(latex: str) -> bool:
    r"""Whether several values are meant: commas outside brackets or in an equation, a set, a union, ``\pm``."""
    top = _outermost(latex)
    while "=" not in top and top != (bare := _BRACKETS.sub("", top)):
        top = bare
    return bool(re.search(r"[,;]|\\(?:pm|mp|cup|\{)", top))


def _outermost(latex: str) -> str:
    r"""``latex`` with a hole for each group in braces, but for the words of ``\text{…}`` and its kin."""
    text = flatten(re.sub(r"\\text[a-z]*\s*\{", r"\\text{", latex))
    while text != (bare := _GROUP.sub(_HOLE, text)):
        text = bare
    return text
