r"""The metric of the authors' released code, kept for comparison with published numbers only.

Never train on it: it is the word F1 of SQuAD used for *every* task, mathematics included. All ASCII
punctuation is deleted and the articles with it, so that (measured on the released files)::

    5 vs -5 -> 1      15 vs 1.5 -> 1      0.5 vs \frac{1}{2} -> 0      A vs A -> 0

``arpo_env.rewards.math`` and ``arpo_env.rewards.qa`` are the verifiers to use.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_DELETE = str.maketrans("", "", string.punctuation)
_CLOSED = ("yes", "no", "noanswer")


def _words(text: str) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_DELETE)).split()


def _one(answer: str, gold: str) -> float:
    got, want = _words(answer), _words(gold)
    # HotpotQA's rule: a closed answer is right or wrong, never partly right.
    if got != want and (" ".join(got) in _CLOSED or " ".join(want) in _CLOSED):
        return 0.0
    common = sum((Counter(got) & Counter(want)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(got), common / len(want)
    return 2 * precision * recall / (precision + recall)


def paper_f1(answer: str, golds: str | Sequence[str]) -> float:
    """The best word F1 of ``answer`` against any gold, in [0, 1], as the released reward computes it."""
    return max((_one(answer, gold) for gold in ([golds] if isinstance(golds, str) else golds)), default=0.0)
