"""What a template of the code family gives, and how it draws its random values."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Problem:
    """One function to write.

    ``solution`` and each of ``flaws`` are full definitions of ``function``; ``inputs`` are argument lists
    (JSON values), the first of which is shown in the question.
    """

    function: str
    signature: str
    task: str
    solution: str
    flaws: tuple[str, ...]
    inputs: tuple[tuple[Any, ...], ...]


class Draw:
    """Random JSON values from one generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return int(self.rng.integers(low, high + 1))

    def pick(self, items: str) -> str:
        """One character of ``items``."""
        return items[self.between(0, len(items) - 1)]

    def ints(self, low: int, high: int, least: int = 0, most: int = 12) -> list[int]:
        """``least`` to ``most`` integers in [low, high]."""
        return [self.between(low, high) for _ in range(self.between(least, most))]

    def word(self, least: int = 1, most: int = 8, letters: str = "abcdefghijklmnopqrstuvwxyz") -> str:
        """``least`` to ``most`` characters of ``letters``."""
        return "".join(self.pick(letters) for _ in range(self.between(least, most)))

    def text(self, least: int = 1, most: int = 7) -> str:
        """``least`` to ``most`` words."""
        return " ".join(self.word() for _ in range(self.between(least, most)))

    def letters(self, count: int) -> str:
        """``count`` distinct letters, sorted."""
        chosen = self.rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=count, replace=False)
        return "".join(sorted(str(letter) for letter in chosen))


def code(source: str) -> str:
    """A function's text without the indentation it has in its template."""
    return textwrap.dedent(source).strip()


def wrong(source: str, *changes: tuple[str, str]) -> tuple[str, ...]:
    """One flawed variant of ``source`` for each (old, new) replacement.

    Raises:
        ValueError: a replacement changes nothing, so the template has drifted from its flaws.
    """
    variants = tuple(source.replace(old, new) for old, new in changes)
    if source in variants:
        raise ValueError(f"a flaw of this template changes nothing:\n{source}")
    return variants


def ordinal(n: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``4th`` …"""
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"
