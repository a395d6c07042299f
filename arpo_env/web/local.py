"""A local corpus, read page by page: browsing without a network, for training and for tests."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from arpo_env.errors import ConfigError
from arpo_env.search.base import Page
from arpo_env.shared import Shared
from arpo_env.web.base import Refusal


class LocalPages(Shared):
    """The pages of a corpus by URL, and by title where there is none (or none is remembered).

    Of pages with the same URL or title the first one counts. A table of hashes is made at the first page (16 bytes an
    entry, two entries a page), so that a corpus of millions stays in its memory-mapped file.

    Args:
        pages: the corpus, e.g. ``BM25Index.load(folder).pages``.
        fingerprint: names it for the cassette.
    """

    deterministic = True

    def __init__(self, pages: Sequence[Page], *, fingerprint: str = "local") -> None:
        self.fingerprint = fingerprint
        self._pages = pages
        self._table: tuple[NDArray[np.uint64], NDArray[np.int64]] | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, backend: Any) -> Self:
        """The pages that a search backend was built from.

        Raises:
            ConfigError: it does not keep them (a live engine, a retriever behind HTTP).
        """
        while not hasattr(backend, "pages") and getattr(backend, "backend", None) is not None:
            backend = backend.backend  # behind a cache
        pages = getattr(backend, "pages", None)
        if not isinstance(pages, Sequence):
            raise ConfigError(
                f"the search backend {type(backend).__name__} has no pages to browse; say where they come from: "
                "browse=LivePages() for the live web, browse=LocalPages(pages) for a corpus"
            )
        return cls(pages, fingerprint=str(getattr(backend, "fingerprint", "local")))

    def page(self, address: str) -> Page:
        """
        Raises:
            Refusal: no page has that URL or title.
        """
        keys, places = self._index()
        wanted = _tidy(address)
        key = _hash(wanted)
        for at in range(int(np.searchsorted(keys, key)), len(keys)):
            if keys[at] != key:
                break
            page = self._pages[int(places[at])]
            if wanted in _names(page):
                return page
        raise Refusal("there is no such page")

    def _index(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        with self._lock:
            if self._table is None:
                entries = [(_hash(name), place) for place, page in enumerate(self._pages) for name in _names(page)]
                keys = np.array([key for key, _ in entries], np.uint64)
                places = np.array([place for _, place in entries], np.int64)
                order = np.lexsort((places, keys))
                self._table = keys[order], places[order]
            return self._table


def _tidy(address: str) -> str:
    """What an address is compared by: caseless, without a fragment or a closing slash."""
    text = " ".join(address.split()).casefold()
    return text.partition("#")[0].rstrip("/") if "://" in text else text


def _names(page: Page) -> list[str]:
    return [_tidy(name) for name in (page.url, page.title) if name.strip()]


def _hash(text: str) -> np.uint64:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))
