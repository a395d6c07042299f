"""The one small interface behind every search backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, overload, runtime_checkable

from arpo_env.shared import Shared


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


class SharedBackend(Shared):
    """A backend whose every copy and clone is itself: forks of an environment share its index and its cache."""

    def clone(self) -> Self:
        return self

    def __copy__(self) -> Self:
        return self


class PageIndex(SharedBackend, ABC):
    """A backend over pages that it numbers: what derives from it says how they rank."""

    #: The pages, in index order.
    pages: Sequence[Page]

    def __len__(self) -> int:
        return len(self.pages)

    @abstractmethod
    def rank(self, query: str, k: int) -> list[tuple[int, float]]:
        """(page number, score) of the ``k`` best pages, best first, ties in page order.

        Raises:
            ConfigError: ``k`` < 1.
        """

    def search(self, query: str, k: int) -> list[Hit]:
        """The ``k`` best pages as hits.

        Raises:
            ConfigError: ``k`` < 1.
        """
        ranked = [(self.pages[number], score) for number, score in self.rank(query, k)]
        return [Hit(page.title, page.url, page.text, score) for page, score in ranked]


class PageSequence(Sequence[Page], ABC):
    """Pages made or read one at a time: indices from the end, slices and bounds over :meth:`page_at`."""

    @abstractmethod
    def page_at(self, number: int) -> Page:
        """The page ``number``, which lies in 0 … ``len(self)`` − 1."""

    @overload
    def __getitem__(self, index: int) -> Page: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Page]: ...
    def __getitem__(self, index: int | slice) -> Page | Sequence[Page]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"page {index} of {len(self)}")
        return self.page_at(number)
