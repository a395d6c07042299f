"""A text space that holds any Unicode string.

``gymnasium.spaces.Text`` refuses blanks and accents by default, and its shared-memory path in
``AsyncVectorEnv`` silently returns "000…". A fresh class avoids both: unknown spaces take the pickling path.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces

# Ranges that samples are drawn from: printable ASCII, accented Latin, Greek, CJK, emoji.
_RANGES = ((0x20, 0x7F), (0xC0, 0x180), (0x391, 0x3CA), (0x4E00, 0x4F00), (0x1F600, 0x1F640))


class UnicodeText(spaces.Space[str]):
    """All strings of at most ``max_length`` code points (any length when None).

    ``sample`` draws short printable strings over several scripts; it serves checkers, not exploration.
    """

    def __init__(self, max_length: int | None = None, seed: int | np.random.Generator | None = None) -> None:
        if max_length is not None and max_length < 0:
            raise ValueError(f"max_length must be >= 0 or None, got {max_length}")
        self.max_length = max_length
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText.sample takes neither mask nor probability")
        limit = 24 if self.max_length is None else min(self.max_length, 24)
        n = int(self.np_random.integers(0, limit + 1))
        chars = []
        for _ in range(n):
            low, high = _RANGES[int(self.np_random.integers(len(_RANGES)))]
            chars.append(chr(int(self.np_random.integers(low, high))))
        return "".join(chars)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and (self.max_length is None or len(x) <= self.max_length)

    def to_jsonable(self, sample_n: Iterable[str]) -> list[Any]:
        return list(sample_n)

    def from_jsonable(self, sample_n: list[Any]) -> list[str]:
        return [str(s) for s in sample_n]

    def __repr__(self) -> str:
        return f"UnicodeText(max_length={self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    __hash__ = None  # type: ignore[assignment]
