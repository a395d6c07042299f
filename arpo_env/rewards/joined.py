r"""One answer or several: what parts a cleaned answer at its outermost level.

Math-Verify reads one side of "5 \approx 8" and one case of "5 for x > 0, 8 otherwise", and so would pass either.
"""

from __future__ import annotations

import re

from arpo_env.rewards.latex import flatten

#: What stands between the sides of an equation or an approximation; not the = of "<=", ">=", "!=", ":=".
_SIGN = re.compile(r"(?<![<>!:])=|\\(?:approx|simeq|doteq)(?![a-zA-Z])")
#: What joins several answers; what sets one under a condition, or doubts it.
_JOINS = {
    "list": re.compile(r"\\(?:lor|land|vee|wedge)(?![a-zA-Z])|[∨∧]|(?<![\\a-zA-Z])(?:or|and)(?![a-zA-Z])"),
    "case": re.compile(
        r"\\(?:iff|implies|impliedby|[a-zA-Z]*[rR]ightarrow)(?![a-zA-Z])|[⇔⇒↔→]"
        r"|(?<![\\a-zA-Z])(?:but|not|either|maybe|perhaps|possibly|if|iff|for|when|where|while|unless|except|otherwise"
        r"|else)(?![a-zA-Z])"
    ),
}
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
    """
    top = _outermost(latex)
    return {kind for kind, join in _JOINS.items() if join.search(top)}


def is_list(latex: str) -> bool:
    r"""Whether several values are meant: commas outside brackets or in an equation, a set, a union, ``\pm``."""
    top = _outermost(latex)
    while "=" not in top and top != (bare := _BRACKETS.sub("", top)):
        top = bare
    return bool(re.search(r"[,;]|\\(?:pm|mp|cup|\{)", top))


def _outermost(latex: str) -> str:
    r"""``latex`` without its groups in braces, but for the words of ``\text{…}`` and its kin."""
    text = flatten(re.sub(r"\\text[a-z]*\s*\{", r"\\text{", latex))
    while text != (bare := _GROUP.sub(" ", text)):
        text = bare
    return text
