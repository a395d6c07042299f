r"""Find the policy's final answer: the last ``\boxed{…}`` of a text.

A module of its own because the tag protocol needs it without needing any verifier.
"""

from __future__ import annotations

import re

_OPEN = re.compile(r"\\boxed\s*\{")


def extract_boxed(text: str) -> str | None:
    r"""What the last ``\boxed{…}`` holds, stripped; None when there is none or the last one never closes.

    Braces nest, and ``\{``, ``\}`` are characters, not braces. An unclosed last box counts as no answer even
    when an earlier one is complete: the policy had begun to replace that one. Linear in the text's length.

    >>> extract_boxed(r"so \boxed{1}, or rather \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    >>> extract_boxed(r"\boxed{1} no: \boxed{2") is None
    True
    """
    starts = [match.end() for match in _OPEN.finditer(text)]
    if not starts:
        return None
    depth = 1
    i = starts[-1]
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
                return text[starts[-1] : i].strip()
        i += 1
    return None
