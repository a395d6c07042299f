"""The one small interface behind every search backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Page:
    """One document of a corpus."""

    id: str
    title: str
    text: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result; ``score`` grows with relevance."""

    title: str
    url: str
    snippet: str
    score: float


@runtime_checkable
class SearchBackend(Protocol):
    """``search`` is thread-safe and deterministic unless ``deterministic`` is False (the live web)."""

    deterministic: bool

    def search(self, query: str, k: int) -> list[Hit]:
        """The ``k`` best hits, best first; an empty list when nothing matches.

        Raises:
            InfraError: the backend is down or throttled (which is not "nothing found").
        """
        ...
