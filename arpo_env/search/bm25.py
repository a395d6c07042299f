"""BM25 over a local corpus: the offline default of deep search.

The index is built by `bm25s <https://github.com/xhluca/bm25s>`_, which scores every (term, page) pair once, at
build time (Lucene's variant: idf = ln(1 + (N - df + 0.5) / (df + 0.5)), times tf / (tf + k1 * (1 - b + b * len /
avglen))). What is added here, and why:

* Ranking is our own ten lines over bm25s's arrays, because ties must fall by page order on every machine.
* A title counts ``title_weight`` times, and once more as a whole: a query that *is* a title finds its page
  before longer titles that contain it.
* An index on disk is memory-mapped, terms and pages included, so that opening a million pages costs nothing
  and processes share the memory. It is written whole beside the old one, then switched to by one ``rename``.

After the build nothing is written any more: any number of threads may search, and a copy is the index itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from arpo_env.errors import ConfigError
from arpo_env.search.base import Hit, Page
from arpo_env.search.corpus import page_line, parse_page
from arpo_env.search.text import terms

FORMAT_VERSION = 1
_MANIFEST = "index.json"


class BM25Index:
    """A read-only BM25 index; a :class:`~arpo_env.search.base.SearchBackend`.

    Make one with :meth:`build` or :meth:`load`.
    """

    deterministic = True

    def __init__(
        self,
        pages: Sequence[Page],
        vocabulary: Mapping[str, int] | StoredTerms,
        postings: _Postings,
        parameters: Mapping[str, Any],
        fingerprint: str,
    ) -> None:
        self._pages = pages
        self._vocabulary = vocabulary
        self._postings = postings
        self.parameters = dict(parameters)
        #: SHA-256 of the corpus and the parameters: equal indexes have equal fingerprints (cache keys).
        self.fingerprint = fingerprint

    @classmethod
    def build(cls, pages: Iterable[Page], *, k1: float = 1.5, b: float = 0.75, title_weight: int = 3) -> BM25Index:
        """Index ``pages``; a Sequence is kept as it is (it may render its pages lazily), else a list is made.

        Raises:
            ConfigError: no pages, or pages without a single term, or parameters out of range.
        """
        import bm25s  # here, because it costs a quarter of a second that `import arpo_env` need not

        if not (k1 > 0 and 0 <= b <= 1 and title_weight >= 1):
            raise ConfigError(f"need k1 > 0, 0 <= b <= 1, title_weight >= 1; got {k1=}, {b=}, {title_weight=}")
        kept: Sequence[Page] = pages if isinstance(pages, Sequence) else list(pages)
        parameters = {"k1": k1, "b": b, "title_weight": title_weight}
        digest = hashlib.sha256(json.dumps([FORMAT_VERSION, parameters]).encode())
        vocabulary: dict[str, int] = {}
        documents: list[array[int]] = []
        for page in kept:
            digest.update(page_line(page))
            title = terms(page.title)
            words = [*title, _whole(title)] * title_weight + terms(page.text) if title else terms(page.text)
            documents.append(array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in words]))
        if not vocabulary:
            raise ConfigError(f"nothing to index: {len(kept)} pages without a single word")
        model = bm25s.BM25(k1=k1, b=b, method="lucene", backend="numpy", csc_backend="numpy")
        matrix = model.build_index_from_ids(
            unique_token_ids=list(range(len(vocabulary))), corpus_token_ids=documents, show_progress=False
        )
        postings = _Postings(matrix["data"], matrix["indices"], matrix["indptr"], len(kept))
        return cls(kept, vocabulary, postings, parameters, digest.hexdigest())

    @property
    def pages(self) -> Sequence[Page]:
        """The pages, in index order."""
        return self._pages

    def __len__(self) -> int:
        return len(self._pages)

    def search(self, query: str, k: int) -> list[Hit]:
        """The ``k`` best pages that share a term with ``query``; ties in page order.

        Raises:
            ConfigError: ``k`` < 1.
        """
        return [
            Hit(page.title, page.url, page.text, score)
            for number, score in self.rank(query, k)
            for page in (self._pages[number],)
        ]

    def rank(self, query: str, k: int) -> list[tuple[int, float]]:
        """(page number, BM25 score) of the ``k`` best pages, best first."""
        if k < 1:
            raise ConfigError(f"k must be >= 1, got {k}")
        words = terms(query)
        ids = (self._vocabulary.get(word) for word in (*words, _whole(words)))
        return self._postings.top([i for i in ids if i is not None], k)

    def clone(self) -> Self:
        """The index itself: read-only, so forks of an environment share it."""
        return self

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    # ------------------------------------------------------------------ on disk

    def save(self, folder: str | Path) -> None:
        """Write the index into ``folder``; readers see the old one or the new one, never a mixture.

        Raises:
            ConfigError: ``folder`` exists and holds something else.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()) and not (folder / _MANIFEST).is_file():
            raise ConfigError(f"{folder} is not empty and holds no index; name a new or empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / self.fingerprint[:16]
        if not target.is_dir():
            partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder))
            try:
                self._postings.save(partial)
                _save_terms(self._vocabulary, partial)
                _save_pages(self._pages, partial)
                # Another writer may have been first: its content is the same, since the name is a fingerprint.
                if not target.is_dir():
                    partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        manifest = {"version": FORMAT_VERSION, "folder": target.name, "fingerprint": self.fingerprint}
        manifest |= {"pages": len(self), **self.parameters}
        partial_manifest = folder / f"{_MANIFEST}.{os.getpid()}.partial"
        partial_manifest.write_text(json.dumps(manifest, indent=1) + "\n")
        partial_manifest.replace(folder / _MANIFEST)

    @classmethod
    def load(cls, folder: str | Path) -> BM25Index:
        """Open a saved index, memory-mapped.

        Raises:
            ConfigError: there is none, it is damaged, or another release wrote it.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / _MANIFEST).read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"no search index in {folder}; write one with BM25Index.build(pages).save(folder)"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{folder / _MANIFEST} is damaged ({error}); build the index again") from None
        if manifest.get("version") != FORMAT_VERSION:
            raise ConfigError(
                f"{folder} holds index format {manifest.get('version')!r}; this release reads {FORMAT_VERSION}; "
                "build the index again"
            )
        data = folder / manifest["folder"]
        try:
            pages = StoredPages(data)
            postings = _Postings.load(data, len(pages))
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


class _Postings:
    """bm25s's score matrix by columns: term t has ``scores[starts[t]:starts[t+1]]`` on ``docs[…]``.

    Shapes: scores float32 (nnz,), docs int32 (nnz,), starts int64 (terms + 1,).
    """

    def __init__(
        self, scores: NDArray[np.float32], docs: NDArray[np.int32], starts: NDArray[np.int64], pages: int
    ) -> None:
        if len(scores) != len(docs) or not len(starts) or starts[-1] != len(scores):
            raise ValueError("the score matrix is cut short")
        for part in (scores, docs, starts):
            part.setflags(write=False)
        self._scores, self._docs, self._starts, self._pages = scores, docs, starts, pages

    @property
    def terms(self) -> int:
        return len(self._starts) - 1

    def top(self, term_ids: Sequence[int], k: int) -> list[tuple[int, float]]:
        # A page stands at most once in a term's postings, so fancy-indexed += adds every score. Summing in float64
        # keeps equal pages equal whatever the order of the query's words.
        total = np.zeros(self._pages)
        for term in term_ids:
            start, end = int(self._starts[term]), int(self._starts[term + 1])
            total[self._docs[start:end]] += self._scores[start:end]
        found = np.flatnonzero(total)
        values = total[found]
        if len(found) > k:
            # Everything that ties with the k-th stays in until page order has decided.
            inside = values >= np.partition(values, len(values) - k)[len(values) - k]
            found, values = found[inside], values[inside]
        order = np.lexsort((found, -values))[:k]
        return [(int(found[i]), float(values[i])) for i in order]

    def save(self, folder: Path) -> None:
        for name, part in (("scores", self._scores), ("docs", self._docs), ("starts", self._starts)):
            np.save(folder / f"{name}.npy", part)

    @classmethod
    def load(cls, folder: Path, pages: int) -> _Postings:
        scores, docs, starts = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("scores", "docs", "starts"))
        return cls(scores, docs, starts, pages)


class _Blob:
    """Byte strings end to end in one mapped file, found by their offsets."""

    def __init__(self, folder: Path, name: str) -> None:
        self._offsets = np.load(folder / f"{name}.offsets.npy", mmap_mode="r")
        path = folder / f"{name}.bin"
        if path.stat().st_size != self._offsets[-1]:
            raise ValueError(f"{path.name} is cut short")
        self._bytes = np.memmap(path, np.uint8, "r") if self._offsets[-1] else np.zeros(0, np.uint8)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> bytes:
        return bytes(self._bytes[self._offsets[number] : self._offsets[number + 1]])

    @staticmethod
    def write(items: Iterable[bytes], folder: Path, name: str) -> None:
        offsets = array("q", [0])
        with (folder / f"{name}.bin").open("wb") as file:
            for item in items:
                file.write(item)
                offsets.append(offsets[-1] + len(item))
        np.save(folder / f"{name}.offsets.npy", np.frombuffer(offsets, np.int64))


class StoredPages(Sequence[Page]):
    """The pages of a saved index, read from the mapped file one at a time."""

    def __init__(self, folder: Path) -> None:
        self._rows = _Blob(folder, "pages")

    def __len__(self) -> int:
        return len(self._rows)

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
        return parse_page(self._rows[number], f"stored page {number}")


class StoredTerms:
    """The vocabulary of a saved index: terms sorted as bytes, looked up by bisection, ids beside them."""

    def __init__(self, folder: Path) -> None:
        self._terms = _Blob(folder, "terms")
        self._ids = np.load(folder / "terms.ids.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, term: str) -> int | None:
        key = term.encode()
        place = bisect_left(self._terms, key)
        found = place < len(self) and self._terms[place] == key
        return int(self._ids[place]) if found else None

    def items(self) -> Iterable[tuple[str, int]]:
        return ((self._terms[i].decode(), int(self._ids[i])) for i in range(len(self)))


def _save_terms(vocabulary: Mapping[str, int] | StoredTerms, folder: Path) -> None:
    rows = sorted((term.encode(), number) for term, number in vocabulary.items())
    _Blob.write((term for term, _ in rows), folder, "terms")
    np.save(folder / "terms.ids.npy", np.array([number for _, number in rows], np.int32))


def _save_pages(pages: Sequence[Page], folder: Path) -> None:
    _Blob.write(map(page_line, pages), folder, "pages")
