"""BM25 over a local corpus: the offline default of deep search.

Scores and search are in :mod:`.postings`, files in :mod:`.storage`. What is decided here:

* A title counts ``title_weight`` times, and once more as a whole: a query that *is* a title finds its page
  before longer titles that contain it.
* Ties fall by page order, on every machine.
* An index on disk is memory-mapped, terms and pages included, so that opening a million pages costs nothing and
  processes share the memory; :meth:`BM25Index.build` with a ``folder`` streams the pages there.

After the build nothing is written any more: any number of threads may search, and a copy is the index itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from arpo_env.errors import ConfigError
from arpo_env.search.base import Page, PageIndex
from arpo_env.search.corpus import page_line
from arpo_env.search.postings import Postings, PostingsBuilder
from arpo_env.search.storage import (
    MANIFEST,
    BlobWriter,
    StoredPages,
    StoredTerms,
    partial_folder,
    publish,
    save_pages,
    save_terms,
)
from arpo_env.search.text import terms

#: Of the files.
FORMAT_VERSION = 2
#: Of the ranking, part of every fingerprint: answers recorded from another ranking are another corpus's.
_RANKING_VERSION = 1


class BM25Index(PageIndex):
    """A read-only BM25 index; a :class:`~arpo_env.search.base.SearchBackend`.

    Make one with :meth:`build` or :meth:`load`.
    """

    deterministic = True

    def __init__(
        self,
        pages: Sequence[Page],
        vocabulary: Mapping[str, int] | StoredTerms,
        postings: Postings,
        parameters: Mapping[str, Any],
        fingerprint: str,
    ) -> None:
        self.pages = pages
        self._vocabulary = vocabulary
        self._postings = postings
        self.parameters = dict(parameters)
        #: SHA-256 of the corpus and the parameters: equal indexes have equal fingerprints (cache keys).
        self.fingerprint = fingerprint

    @classmethod
    def build(
        cls,
        pages: Iterable[Page],
        folder: str | Path | None = None,
        *,
        k1: float = 1.5,
        b: float = 0.75,
        title_weight: int = 3,
    ) -> BM25Index:
        """Index ``pages``.

        With a ``folder``, pages are streamed there (memory holds the vocabulary, a few numbers a page and one block)
        and the mapped index is given back; what the folder held before stays until the new index is complete.
        Without, the index is in memory; a Sequence is kept as it is (it may render its pages lazily), else a list
        is made.

        Raises:
            ConfigError: no pages, or pages without a single term, or parameters out of range, or ``folder`` holds
                something else.
        """
        if not (k1 > 0 and 0 <= b <= 1 and title_weight >= 1):
            raise ConfigError(f"need k1 > 0, 0 <= b <= 1, title_weight >= 1; got {k1=}, {b=}, {title_weight=}")
        parameters = {"k1": k1, "b": b, "title_weight": title_weight}
        if folder is None:
            kept: Sequence[Page] = pages if isinstance(pages, Sequence) else list(pages)
            vocabulary, postings, fingerprint = _index(kept, parameters, None)
            return cls(kept, vocabulary, postings, parameters, fingerprint)
        folder = Path(folder)
        with partial_folder(folder) as scratch:
            vocabulary, postings, fingerprint = _index(pages, parameters, scratch)
            save_terms(vocabulary, scratch)
            publish(scratch, folder, _manifest(postings.pages, parameters, fingerprint))
        return cls.load(folder)

    def rank(self, query: str, k: int) -> list[tuple[int, float]]:
        """(page number, BM25 score) of the ``k`` best pages, best first."""
        if k < 1:
            raise ConfigError(f"k must be >= 1, got {k}")
        words = terms(query)
        ids = (self._vocabulary.get(word) for word in (*words, _whole(words)))
        return self._postings.top([i for i in ids if i is not None], k)

    # ------------------------------------------------------------------ on disk

    def save(self, folder: str | Path) -> None:
        """Write the index into ``folder``; readers see the old one or the new one, never a mixture.

        Raises:
            ConfigError: ``folder`` exists and holds something else.
        """
        folder = Path(folder)
        with partial_folder(folder) as scratch:
            self._postings.save(scratch)
            save_terms(self._vocabulary, scratch)
            save_pages(self.pages, scratch)
            publish(scratch, folder, _manifest(len(self), self.parameters, self.fingerprint))

    @classmethod
    def load(cls, folder: str | Path) -> BM25Index:
        """Open a saved index, memory-mapped.

        Raises:
            ConfigError: there is none, it is damaged, or another release wrote it.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(
                f"no search index in {folder}; write one with BM25Index.build(pages, folder) or 'arpo corpus build'"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{folder / MANIFEST} is damaged ({error}); build the index again") from None
        if manifest.get("version") != FORMAT_VERSION:
            raise ConfigError(
                f"{folder} holds index format {manifest.get('version')!r}; this release reads {FORMAT_VERSION}; "
                "build the index again"
            )
        data = folder / manifest["folder"]
        try:
            pages = StoredPages(data)
            postings = Postings.load(data, len(pages))
            vocabulary = StoredTerms(data)
            if len(pages) != manifest["pages"] or len(vocabulary) != postings.terms:
                raise ValueError("its parts do not fit together")
        except (OSError, ValueError, EOFError) as error:
            raise ConfigError(f"the search index in {folder} is damaged ({error}); build it again") from None
        parameters = {key: manifest[key] for key in ("k1", "b", "title_weight")}
        return cls(pages, vocabulary, postings, parameters, manifest["fingerprint"])


def _whole(words: list[str]) -> str:
    """The term that stands for a whole title; ``=`` keeps it apart from any single word."""
    return "=" + " ".join(words)


def _manifest(pages: int, parameters: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    return {"version": FORMAT_VERSION, "fingerprint": fingerprint, "pages": pages, **parameters}


def _index(
    pages: Iterable[Page], parameters: Mapping[str, Any], folder: Path | None
) -> tuple[dict[str, int], Postings, str]:
    """(vocabulary, postings, fingerprint) of ``pages``, which are written to ``folder`` on the way."""
    title_weight: int = parameters["title_weight"]
    digest = hashlib.sha256(json.dumps([_RANKING_VERSION, parameters]).encode())
    vocabulary: dict[str, int] = {}
    builder = PostingsBuilder(folder)
    count = 0
    with ExitStack() as stack:
        rows = None if folder is None else stack.enter_context(BlobWriter(folder, StoredPages.NAME))
        for page in pages:
            line = page_line(page)
            digest.update(line)
            if rows is not None:
                rows.append(line)
            title = terms(page.title)
            words = [*title, _whole(title)] * title_weight + terms(page.text) if title else terms(page.text)
            builder.add([vocabulary.setdefault(word, len(vocabulary)) for word in words])
            count += 1
    if not vocabulary:
        raise ConfigError(f"nothing to index: {count} pages without a single word")
    return vocabulary, builder.finish(parameters["k1"], parameters["b"]), digest.hexdigest()
