r"""Clean the LaTeX of a final answer, so that equal answers become equal strings as often as possible.

Text in, text out: no mathematics is done here. :func:`clean` keeps ``\text{…}`` (Math-Verify reads it),
:func:`flatten` opens it.
"""

from __future__ import annotations

import re

_CHARACTERS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-",
    "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/",
    "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "√": r"\sqrt ", "±": r"\pm ",
    "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ",
    "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ",
    "²": "^2", "³": "^3", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "，": ",", "。": ".", "：": ":", "；": ";", "（": "(", "）": ")", "％": "%",
    "＋": "+", "＝": "=", "．": ".", "　": " ", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
}  # fmt: skip
_TRANSLATE = str.maketrans(_CHARACTERS)
# The look-behind: in a matrix, "\\\\ 0" is a new row and not an escaped blank.
_SPACING = re.compile(r"(?<!\\)\\(?:[;:,> ]|quad|qquad|thinspace|medspace|enspace|hspace\{[^{}]*\})(?![a-zA-Z])|~")
_NOTHING = re.compile(
    r"(?<!\\)\\(?:!|left(?![a-z])|right(?![a-z])|[bB]igg?[lrm]?(?![a-zA-Z])|displaystyle|textstyle|limits|"
    r"boldsymbol|\(|\)|\[|\])"
)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\[", r"\]"), (r"\(", r"\)"), ("**", "**"), ("`", "`"))
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mathit|operatorname|mbox|emph)\s*\{([^{}]*)\}")
_FRAC = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_BARE_FRAC = re.compile(r"\\frac\s*(?:(\d)|\{([^{}]*)\})\s*(?:(\d)|\{([^{}]*)\})")
#: The sign √ reaches over a whole number or a bracket, where LaTeX's bare ``\\sqrt`` takes one digit.
_ROOT_SIGN = re.compile(r"√\s*(?:(\d+(?:\.\d+)?)|\(([^()]*)\))")
_BARE_SQRT = re.compile(r"\\sqrt\s*(\d)")


def _strip_pairs(text: str) -> str:
    """Take off delimiters that enclose the whole text, ``\\boxed{…}`` included, a few layers deep."""
    for _ in range(4):
        text = text.strip()
        before = text
        for left, right in _DELIMITERS:
            if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right):
                inner = text[len(left) : -len(right)]
                if left not in inner:
                    text = inner.strip()
        box = re.match(r"\\f?boxed\s*\{", text)
        if box and text.endswith("}") and balanced(text[box.end() : -1]):
            text = text[box.end() : -1]
        if text == before:
            return text
    return text


def balanced(text: str) -> bool:
    """Whether the braces of ``text`` match (``\\{`` and ``\\}`` are characters, not braces)."""
    depth = 0
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth < 0:
                return False
    return depth == 0


def clean(text: str) -> str:
    r"""One spelling for what LaTeX spells in many ways: delimiters, spacing, sizes, ``\dfrac``, Unicode signs.

    >>> clean(r"$\left( 3,\; \dfrac12 \right)$.")
    '( 3, \\frac{1}{2} )'
    """
    text = _ROOT_SIGN.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = _strip_pairs(text.translate(_TRANSLATE).strip().rstrip(".,;").strip())
    text = text.replace("{,}", ",").replace(r"\%", "%")
    text = _NOTHING.sub("", _SPACING.sub(" ", text))
    text = _FRAC.sub(r"\\frac", text)
    text = _BARE_FRAC.sub(lambda m: rf"\frac{{{(m[1] or m[2] or '').strip()}}}{{{(m[3] or m[4] or '').strip()}}}", text)
    text = _BARE_SQRT.sub(r"\\sqrt{\1}", text)
    text = re.sub(r"\^\s*\{?\s*(?:\\circ|\\degree)\s*\}?", r"^\\circ", text).replace(r"\degree", r"^\circ")
    return " ".join(text.split()).rstrip(".,;").strip()


def flatten(cleaned: str) -> str:
    r"""``cleaned`` with ``\text{…}`` and the like opened and blanks collapsed."""
    for _ in range(3):
        cleaned, found = _TEXT.subn(r" \1 ", cleaned)
        if not found:
            break
    return " ".join(cleaned.split()).rstrip(".,;").strip()
