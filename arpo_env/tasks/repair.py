r"""What files of questions come damaged with, what of it is repaired, and what is not.

The published training sets were written with ``"\boxed"`` in a plain Python string, which turned ``\b`` into a
backspace and ``\f`` into a form feed in all 11,454 prompts. A control character in front of the rest of a LaTeX command
says what stood there; anything else is a fault that nothing explains.
"""

from __future__ import annotations

import re
from collections import Counter

#: Control characters that Python makes of a backslash and a letter, and commands that begin with that letter.
_ESCAPES = {"\x07": "a", "\x08": "b", "\x0b": "v", "\x0c": "f"}
_COMMANDS = {
    "a": "alpha|angle|approx|arccos|arcsin|arctan|ast|array",
    "b": "boxed|beta|bar|begin|binom|bmod|big|Big|bigl|bigr|bullet|boldsymbol|backslash|bot",
    "v": "vec|vert|varphi|vdots|varepsilon|vee|varnothing",
    "f": "frac|forall|footnotesize|flat",
}
_DAMAGED = re.compile(
    "|".join(rf"{char}(?=(?:{'|'.join(c[1:] for c in _COMMANDS[letter].split('|'))})(?![a-zA-Z]))"
             for char, letter in _ESCAPES.items())
)  # fmt: skip
_OPTION = re.compile(r"\(?([A-J])\)?\s*[:.)]\s*(\S.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\ufffd")


def mend(text: str, repaired: Counter[str]) -> str:
    r"""``text`` with its damaged LaTeX commands restored, each counted by name in ``repaired``.

    >>> found = Counter()
    >>> mend("\x08oxed{\x0crac{1}{2}}", found), dict(found)
    ('\\boxed{\\frac{1}{2}}', {'\\boxed': 1, '\\frac': 1})
    """

    def restored(match: re.Match[str]) -> str:
        command = re.match(r"[a-zA-Z]+", text[match.end() :])
        repaired[f"\\{_ESCAPES[match[0]]}{command[0] if command else ''}"] += 1
        return "\\" + _ESCAPES[match[0]]

    return _DAMAGED.sub(restored, text)


def control_character(text: str) -> str | None:
    """The first control or replacement character of ``text``; tabs and line breaks are none."""
    found = _CONTROL.search(text)
    return found[0] if found else None


def spelled_option(gold: str, question: str) -> tuple[str, ...]:
    r"""``(letter, text)`` of a gold that is an option copied with its letter, when the question lists such options.

    "A: 1-i" is met by neither "A" nor "1-i", the only two answers anyone gives. Without the list nothing is taken
    apart: "E. H. Shepard" is a name.

    >>> spelled_option("B: 1-i", "Which?\nA: 1\nB: $1-i$"), spelled_option("E. H. Shepard", "Who drew it?")
    (('B', '1-i'), ())
    """
    found = _OPTION.fullmatch(gold.strip())
    if found is None:
        return ()
    listed = {letter for letter in {"A", "B", found[1]} if re.search(rf"(?m)^\s*\(?{letter}\)?\s*[:.)]", question)}
    return (found[1], found[2].strip()) if listed == {"A", "B", found[1]} else ()


def corrupt(gold: str) -> str | None:
    """Why a gold cannot be an answer, if so: brackets that never close (a cut "(37") are certain damage."""
    if gold.count("{") - gold.count("\\{") != gold.count("}") - gold.count("\\}"):
        return "unbalanced braces"
    if gold[:1] in "([" and not re.search(r"[)\]]", gold):
        return "a bracket that never closes"
    return None
