"""Several backends as one: reciprocal rank fusion.

A hit scores the sum over backends of 1 / (60 + rank) (Cormack, Clarke and Büttcher, SIGIR 2009). Ranks, unlike
scores, can be added across retrievers as different as BM25 and inner products.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from arpo_env.errors import ConfigError
from arpo_env.search.base import Hit, Page, SearchBackend, SharedBackend

_CONSTANT = 60


class HybridBackend(SharedBackend):
    """Fuses the results of ``backends``; itself a :class:`~arpo_env.search.base.SearchBackend`.

    Args:
        backends: two or more, over the same pages; what they return is the same hit if title, URL and snippet are.
        depth: how many hits of each are fused (more, if more are asked for).

    Raises:
        ConfigError: fewer than two backends, or ``depth`` < 1.
    """

    def __init__(self, backends: Sequence[SearchBackend], *, depth: int = 100) -> None:
        if len(backends) < 2 or depth < 1:
            raise ConfigError(f"need two backends or more and depth >= 1; got {len(backends)} and {depth=}")
        self.backends, self._depth = tuple(backends), depth
        self.deterministic = all(backend.deterministic for backend in backends)
        parts = [str(getattr(backend, "fingerprint", type(backend).__name__)) for backend in backends]
        self.fingerprint = hashlib.sha256(f"hybrid {depth} {parts}".encode()).hexdigest()

    def search(self, query: str, k: int) -> list[Hit]:
        """The ``k`` best after fusion; ties fall to who came first in the first backend.

        Raises:
            InfraError: one of the backends failed: half an answer would be another answer.
        """
        if k < 1:
            raise ConfigError(f"k must be >= 1, got {k}")
        scores: dict[tuple[str, str, str], float] = {}
        for backend in self.backends:
            for rank, hit in enumerate(backend.search(query, max(k, self._depth)), 1):
                key = (hit.title, hit.url, hit.snippet)
                scores[key] = scores.get(key, 0.0) + 1 / (_CONSTANT + rank)
        best = sorted(scores.items(), key=lambda item: -item[1])[:k]  # stable: ties in order of appearance
        return [Hit(*key, score) for key, score in best]

    @property
    def pages(self) -> Sequence[Page]:
        """The pages that are searched, where one of the backends keeps them.

        Raises:
            AttributeError: none does.
        """
        for backend in self.backends:
            pages: Sequence[Page] | None = getattr(backend, "pages", None)
            if pages is not None:
                return pages
        raise AttributeError("none of the backends keeps its pages")
