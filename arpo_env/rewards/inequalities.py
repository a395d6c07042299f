r"""An inequality in one variable, written as the interval it stands for: "2 < x \leq 5" is "(2, 5]"."""

from __future__ import annotations

import re

_RELATIONS = {"<": "<", r"\lt": "<", r"\leq": "<=", r"\le": "<=", r"\leqslant": "<=",
              ">": ">", r"\gt": ">", r"\geq": ">=", r"\ge": ">=", r"\geqslant": ">="}  # fmt: skip
_RELATION = re.compile(r"(\\leqslant|\\geqslant|\\leq|\\geq|\\le(?![a-z])|\\ge(?![a-z])|\\lt|\\gt|<|>)")
_VARIABLE = re.compile(r"[a-zA-Z]")
_OR = re.compile(r"\\text\{\s*or\s*\}|\bor\b|\\cup|\\lor")
_INTERVAL = re.compile(r"[(\[].*,.*[)\]]", re.DOTALL)


def is_interval(latex: str) -> bool:
    """Whether a cleaned text is an interval or a union of some."""
    return all(_INTERVAL.fullmatch(part.strip()) for part in latex.split(r"\cup"))


def as_interval(latex: str) -> str | None:
    r"""The interval, or union of intervals, that a cleaned inequality means; None when it is no such inequality.

    >>> as_interval(r"2 < x \leq 5"), as_interval("x < -2 or 2 < x"), as_interval("x = 3")
    ('(2,5]', '(-\\infty,-2) \\cup (2,\\infty)', None)
    """
    parts = [_one(part.strip()) for part in _OR.split(latex)]
    return None if None in parts else r" \cup ".join(filter(None, parts))


def _one(text: str) -> str | None:
    pieces = [piece.strip() for piece in _RELATION.split(text)]
    sides, relations = pieces[::2], [_RELATIONS[piece] for piece in pieces[1::2]]
    if len(relations) == 1:
        left, right = sides
        if _VARIABLE.fullmatch(right):  # "2 < x" is "x > 2"
            left, right, relations = right, left, [_turned(relations[0])]
        if not _VARIABLE.fullmatch(left) or not right:
            return None
        closed = "=" in relations[0]
        if relations[0][0] == "<":
            return rf"(-\infty,{right}{']' if closed else ')'}"
        return rf"{'[' if closed else '('}{right},\infty)"
    if len(relations) == 2 and _VARIABLE.fullmatch(sides[1]) and sides[0] and sides[2]:
        if relations[0][0] != relations[1][0]:
            return None
        if relations[0][0] == ">":
            sides, relations = sides[::-1], [_turned(relation) for relation in reversed(relations)]
        return f"{'[' if '=' in relations[0] else '('}{sides[0]},{sides[2]}{']' if '=' in relations[1] else ')'}"
    return None


def _turned(relation: str) -> str:
    return ("<" if relation[0] == ">" else ">") + relation[1:]
