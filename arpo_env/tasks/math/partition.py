"""Keep the questions of a generated family's splits apart for certain, not only with high probability.

Streams of different splits never overlap, but two streams may draw the same small question. So what is asked
itself decides which split it belongs to (by a hash), and a draw is repeated until it falls into the split
asked for: nothing that ``test`` asks is ever met in ``train``, under any seed. The caller says what is asked: what
stays when the wording or a random example changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from arpo_env.errors import ConfigError

T = TypeVar("T")

#: Of 20 questions one belongs to ``test``, one to ``validation``, the rest to ``train``.
_SHARES = 20
_MAX_DRAWS = 5000


def split_of(asked: str) -> str:
    """The one split that what is ``asked`` belongs to."""
    # A real hash: CRC-32 is linear, and gave none of 98 functions of one template to test.
    share = int.from_bytes(hashlib.blake2b(asked.encode(), digest_size=8).digest()) % _SHARES
    return {0: "test", 1: "validation"}.get(share, "train")


def draw_in_split(
    rng: np.random.Generator, split: str, draw: Callable[[np.random.Generator], T], asked: Callable[[T], str]
) -> T:
    """Call ``draw`` until what it gives, named by ``asked``, belongs to ``split``.

    Raises:
        ConfigError: 5,000 draws gave none, so the family has too few questions.
    """
    for _ in range(_MAX_DRAWS):
        item = draw(rng)
        if split_of(asked(item)) == split:
            return item
    raise ConfigError(f"no question for split {split!r} in {_MAX_DRAWS} draws; the family has too few questions")
