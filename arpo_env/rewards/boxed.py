r"""Find the policy's final answer: the last ``\boxed{…}`` of a text.

A module of its own because the tag protocol needs it without needing any verifier.
"""

from __future__ import annotations

import re

#: A box; or one without braces around all of a number, a letter or a command: "\boxed 3", as in solutions of MATH.
_OPEN = re.compile(r"\\boxed(?:\s*\{|\s+(-?\d+(?:\.\d+)?|[A-Za-z]|\\[a-zA-Z]+)(?![\w{(^/*+-]|[,.]\d|\\[a-zA-Z]))")


def extract_boxed(text: str) -> str | None:
    r"""What the last ``\boxed{…}`` holds, stripped; None when there is none or the last one never closes.

    Braces nest, and ``\{``, ``\}`` are characters, not braces. An unclosed last box counts as no answer even
    when an earlier one is complete: the policy had begun to replace that one. Linear in the text's length.
    ``\boxed 3`` and ``\boxed \pi`` need no braces: TeX boxes one token then.

    >>> extract_boxed(r"so \boxed{1}, or rather \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    >>> extract_boxed(r"\boxed{1} no: \boxed{2") is None
    True
    """
    boxes = list(_OPEN.finditer(text))
    if not boxes:
        return None
    last = boxes[-1]
    if last[1]:
        return last[1]
    depth = 1
    i = start = last.end()
    while i < len(text):
        char = text[i]
        if char == "\\":
            i += 2
            continue
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return text[start:i].strip()
        i += 1
    return None
