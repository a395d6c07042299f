"""Does a training question stand in an evaluation set? Exact and near-duplicate match over normalised tokens.

A text becomes lower-case tokens: words, digits, LaTeX commands, operators; spacing, articles, sentence punctuation and
LaTeX delimiters do not count. Two texts match

* ``exact``: the same tokens;
* ``near``: the Jaccard similarity of their sets of 5-token shingles is at least 0.75, or at least 0.9 of the evaluation
  question's shingles stand in the training text (a question wrapped in other words).

Texts of fewer than 10 tokens match exactly or not at all: "Who wrote X?" and "Who wrote Y?" share most of their words.
The threshold is set by the published samples: questions of 2WikiMultiHopQA made from one template reach 0.70.
Every pair that shares a shingle is compared, through an inverted index: nothing is sampled, so nothing is missed by
chance. A problem with one number changed counts as near.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

SHINGLE = 5
NEAR = 0.75
CONTAINED = 0.9
#: Shorter texts are compared exactly only.
MIN_TOKENS = 10

_NOISE = re.compile(r"\\(?:left|right|displaystyle|text|mathrm|mathbf|quad|qquad|[dt](?=frac)|[,;:! ()\[\]])|[${}~]")
_ARTICLES = frozenset(("a", "an", "the"))
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_CJK}]|\d+|[^\W\d_{_CJK}]+|[-+*/^=<>|%√≤≥≠±×÷¬∧∨→↔]|(?<=[\d)])!")


def tokens(text: str) -> list[str]:
    r"""What texts are compared by.

    >>> tokens(r"Find $\dfrac{1}{2} + x$, please.") == tokens(r"find \frac 12+x please")
    False
    >>> tokens(r"Find $\dfrac{1}{2} + x$, please.") == tokens(r"find \frac{1} {2}+x please!")
    True
    """
    found = _TOKEN.findall(_NOISE.sub(" ", unicodedata.normalize("NFKC", text).casefold().replace("−", "-")))
    return [token for token in found if token not in _ARTICLES]


@dataclass(frozen=True, slots=True)
class Overlap:
    """One training text that stands in an evaluation set, and where. ``similarity`` in [0, 1]; 1 when exact."""

    suite: str
    question: str
    kind: Literal["exact", "near"]
    similarity: float

    def __str__(self) -> str:
        how = "the same as" if self.kind == "exact" else f"{self.similarity:.2f} like"
        return f"{how} {self.suite}: {self.question[:100]!r}"


class OverlapIndex:
    """Evaluation questions, indexed once, to be asked about many training texts.

    Args:
        questions: (suite, question) pairs.
    """

    def __init__(self, questions: Iterable[tuple[str, str]]) -> None:
        self._questions: list[tuple[str, str]] = []
        self._exact: dict[tuple[str, ...], int] = {}
        self._shingles: list[int] = []
        self._holders: defaultdict[int, list[int]] = defaultdict(list)
        for number, (suite, question) in enumerate(questions):
            self._questions.append((suite, question))
            words = tokens(question)
            self._exact.setdefault(tuple(words), number)
            shingles = _shingles(words)
            self._shingles.append(len(shingles))
            for shingle in shingles:
                self._holders[shingle].append(number)
        #: The suites there are questions of, in order.
        self.suites = tuple(dict.fromkeys(suite for suite, _ in self._questions))

    def __len__(self) -> int:
        return len(self._questions)

    def find(self, text: str) -> Overlap | None:
        """The evaluation question that ``text`` repeats, the most similar one; None when there is none."""
        words = tokens(text)
        number = self._exact.get(tuple(words)) if words else None
        if number is not None:
            return Overlap(*self._questions[number], "exact", 1.0)
        shingles = _shingles(words)
        shared = Counter(number for shingle in shingles for number in self._holders.get(shingle, ()))
        best, found = 0.0, None
        for number, count in shared.items():
            jaccard = count / (len(shingles) + self._shingles[number] - count)
            contained = count / self._shingles[number]
            likeness = max(jaccard, contained if contained >= CONTAINED else 0.0)
            if likeness >= NEAR and likeness > best:
                best, found = likeness, number
        return None if found is None else Overlap(*self._questions[found], "near", best)


def _shingles(words: list[str]) -> set[int]:
    if len(words) < MIN_TOKENS:
        return set()
    return {hash(tuple(words[i : i + SHINGLE])) for i in range(len(words) - SHINGLE + 1)}
