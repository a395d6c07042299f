"""Keep the questions of a generated family's splits apart for certain, not only with high probability.

Streams of different splits never overlap, but two streams may draw the same small question. So the question
itself decides which split it belongs to (by a checksum of its text), and a draw is repeated until it falls
into the split asked for: no question of ``test`` is ever met in ``train``, under any seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from arpo_env.errors import ConfigError

T = TypeVar("T")

#: Of 20 questions one belongs to ``test``, one to ``validation``, the rest to ``train``.
_SHARES = 20
_MAX_DRAWS = 5000


def split_of(question: str) -> str:
    """The one split that ``question`` belongs to."""
    share = zlib.crc32(question.encode()) % _SHARES
    return {0: "test", 1: "validation"}.get(share, "train")


def draw_in_split(
    rng: np.random.Generator, split: str, draw: Callable[[np.random.Generator], T], question: Callable[[T], str]
) -> T:
    """Call ``draw`` until the question of what it gives belongs to ``split``.

    Raises:
        ConfigError: 5,000 draws gave none, so the family has too few questions.
    """
    for _ in range(_MAX_DRAWS):
        item = draw(rng)
        if split_of(question(item)) == split:
            return item
    raise ConfigError(f"no question for split {split!r} in {_MAX_DRAWS} draws; the family has too few questions")
