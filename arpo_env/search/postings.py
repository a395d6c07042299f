"""BM25's inverted index: built in one pass over the pages, searched exactly without looking at every page.

Scores are worked out at build time (Lucene's BM25, as in bm25s, whose numbers the tests compare with)::

    score(t, d) = ln(1 + (N - df + 0.5) / (df + 0.5)) · tf / (tf + k1 · (1 - b + b · len / avglen))

*Building* holds one block of tokens, a few numbers a page and a few a term; blocks go to a scratch folder as soon
as they are full, so that memory does not grow with the text. *Searching* is term at a time with MaxScore (Turtle
and Flood, 1995): once the k-th best page is better than anything the remaining terms could add up to, no new page
can come in, and the long lists of common words are only looked up for the pages that are in already.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Tokens held before a block is put away: 64 MiB of keys.
BLOCK = 1 << 22

_FILES = ("scores", "docs", "starts", "peaks")
_Block = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]


class Postings:
    """The score matrix by columns: term t has ``scores[starts[t]:starts[t+1]]`` on the pages ``docs[…]``.

    Args:
        scores: float32 (nnz,), all positive.
        docs: int32 (nnz,), page numbers, rising within a term.
        starts: int64 (terms + 1,).
        peaks: float32 (terms,), the highest score of each term.
        pages: how many pages there are.

    Raises:
        ValueError: the parts do not fit together.
    """

    def __init__(
        self,
        scores: NDArray[np.float32],
        docs: NDArray[np.int32],
        starts: NDArray[np.int64],
        peaks: NDArray[np.float32],
        pages: int,
    ) -> None:
        if not len(starts) or not len(scores) == len(docs) == starts[-1] or len(peaks) != len(starts) - 1:
            raise ValueError("the score matrix is cut short")
        for part in (scores, docs, starts, peaks):
            part.setflags(write=False)
        self.scores, self.docs, self.starts, self.peaks, self.pages = scores, docs, starts, peaks, pages

    @property
    def terms(self) -> int:
        return len(self.starts) - 1

    def top(self, term_ids: Sequence[int], k: int) -> list[tuple[int, float]]:
        """(page, score) of the ``k`` best pages with any of the terms, best first, ties in page order.

        A term that is named twice counts twice. Sums are in float64, where adding a handful of float32 scores is
        exact but for the last bits, and in an order that does not depend on the query's: equal pages stay equal.
        """
        ids, counts = np.unique(np.asarray(term_ids, np.int64), return_counts=True)
        bounds = self.peaks[ids] * counts.astype(np.float64)
        order = np.argsort(-bounds, kind="stable")
        ids, counts, bounds = ids[order], counts[order], bounds[order]
        # rest[i]: what the terms from i on can add to one page, with room for rounding.
        rest = np.append(np.cumsum(bounds[::-1])[::-1], 0.0) * (1 + 1e-9)

        total = np.zeros(self.pages)  # untouched memory costs nothing: the system hands out zeros page by page
        touched: list[NDArray[np.int32]] = []
        met = 0
        for place, (term, count) in enumerate(zip(ids.tolist(), counts.tolist(), strict=True)):
            start, end = int(self.starts[term]), int(self.starts[term + 1])
            # Asking for the k-th best costs as much as adding a list, so only a long one is worth it.
            if k <= met < end - start:
                found = self._union(touched, met)
                values = total[found]
                floor = np.partition(values, len(values) - k)[len(values) - k] if len(values) >= k else 0.0
                if rest[place] < floor:
                    inside = values + rest[place] >= floor
                    return self._finish(found[inside], values[inside], ids, counts, rest, place, k)
                touched, met = [found], len(found)
            docs = self.docs[start:end]
            # A page stands at most once in a term's list, so fancy-indexed += adds every score.
            total[docs] += np.multiply(self.scores[start:end], count, dtype=np.float64)
            touched.append(docs)
            met += end - start
        found = self._union(touched, met)
        return _best(found, total[found], k)

    def _union(self, touched: list[NDArray[np.int32]], met: int) -> NDArray[np.int32]:
        """The pages of some lists, each once, rising."""
        if not touched:
            return np.zeros(0, np.int32)
        if len(touched) == 1:
            return touched[0]
        if met < self.pages // 8:
            return np.unique(np.concatenate(touched))
        marks = np.zeros(self.pages, np.bool_)
        for docs in touched:
            marks[docs] = True
        return np.flatnonzero(marks).astype(np.int32)

    def _finish(
        self,
        found: NDArray[np.int32],
        values: NDArray[np.float64],
        ids: NDArray[np.int64],
        counts: NDArray[np.int64],
        rest: NDArray[np.float64],
        place: int,
        k: int,
    ) -> list[tuple[int, float]]:
        """Add the terms from ``place`` on to the pages that are in already."""
        for i in range(place, len(ids)):
            start, end = int(self.starts[ids[i]]), int(self.starts[ids[i] + 1])
            docs = self.docs[start:end]
            where = np.searchsorted(docs, found)
            where[where == len(docs)] = 0
            hit = docs[where] == found
            values[hit] += np.multiply(self.scores[start:end][where[hit]], counts[i], dtype=np.float64)
            if len(found) > k:
                floor = np.partition(values, len(values) - k)[len(values) - k]
                inside = values + rest[i + 1] >= floor
                found, values = found[inside], values[inside]
        return _best(found, values, k)

    def save(self, folder: Path) -> None:
        """Write the parts into ``folder``."""
        for name in _FILES:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, pages: int) -> Postings:
        """Map the parts in ``folder``.

        Raises:
            ValueError, OSError, EOFError: they are missing or damaged.
        """
        scores, docs, starts, peaks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in _FILES)
        return cls(scores, docs, starts, peaks, pages)


def _best(found: NDArray[np.int32], values: NDArray[np.float64], k: int) -> list[tuple[int, float]]:
    if len(found) > k:
        # Everything that ties with the k-th stays in until page order has decided.
        inside = values >= np.partition(values, len(values) - k)[len(values) - k]
        found, values = found[inside], values[inside]
    order = np.lexsort((found, -values))[:k]
    return [(int(found[i]), float(values[i])) for i in order]


class PostingsBuilder:
    """Takes documents one after the other, then gives their :class:`Postings`.

    Args:
        folder: where blocks and the result are kept; None keeps them in memory.
        block: tokens a block.
    """

    def __init__(self, folder: Path | None, *, block: int = BLOCK) -> None:
        self._folder, self._block = folder, block
        self._tokens = array("i")
        self._lengths = array("i")
        self._first = 0  # the first document of the block under way
        self._frequencies = np.zeros(0, np.int64)
        self._blocks: list[_Block | Path] = []

    def add(self, term_ids: Sequence[int]) -> None:
        """The next document, as the ids of its terms in any order."""
        self._tokens.extend(term_ids)
        self._lengths.append(len(term_ids))
        if len(self._tokens) >= self._block:
            self._flush()

    def finish(self, k1: float, b: float) -> Postings:
        """Score everything; the builder is empty afterwards.

        Raises:
            ValueError: there is not one term.
        """
        self._flush()
        if not len(self._frequencies):
            raise ValueError("no terms")
        lengths = np.frombuffer(self._lengths, np.int32)
        # The order of these operations is bm25s's, so that the numbers are the same to the last bit.
        norms = k1 * (1 - b + b * lengths / lengths.mean())
        idf = _idf(self._frequencies, len(lengths))
        starts = np.concatenate([[0], np.cumsum(self._frequencies)])
        scores = self._array("scores", np.float32, int(starts[-1]))
        docs = self._array("docs", np.int32, int(starts[-1]))
        cursor = starts[:-1].copy()
        for terms, pages, counts in self._read_blocks():
            # Blocks come in page order, so each term's list grows at its end; within a block a term is one run.
            runs = np.flatnonzero(np.concatenate([[True], terms[1:] != terms[:-1]]))
            sizes = np.diff(np.append(runs, len(terms)))
            places = np.arange(len(terms)) + np.repeat(cursor[terms[runs]] - runs, sizes)
            scores[places] = idf[terms] * (counts / (norms[pages] + counts))
            docs[places] = pages
            cursor[terms[runs]] += sizes
        peaks = np.maximum.reduceat(scores, starts[:-1])
        if self._folder is not None:
            np.save(self._folder / "starts.npy", starts)
            np.save(self._folder / "peaks.npy", peaks)
        return Postings(scores, docs, starts, peaks, len(lengths))

    def _flush(self) -> None:
        """Put the block away as (term, page, count) rows sorted by term, then page."""
        pages = len(self._lengths)
        lengths = np.frombuffer(self._lengths, np.int32)[self._first :]
        owners = np.repeat(np.arange(self._first, pages, dtype=np.int64), lengths)
        keys, counts = np.unique(
            np.frombuffer(self._tokens, np.int32).astype(np.int64) << 32 | owners, return_counts=True
        )
        terms, docs = (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32)
        self._tokens, self._first = array("i"), pages
        if not len(terms):
            return
        found = np.bincount(terms, minlength=len(self._frequencies))
        found[: len(self._frequencies)] += self._frequencies
        self._frequencies = found
        block = (terms, docs, counts.astype(np.int32))
        if self._folder is None:
            self._blocks.append(block)
        else:
            path = self._folder / f"block-{len(self._blocks)}.npy"
            np.save(path, np.stack(block))
            self._blocks.append(path)

    def _read_blocks(self) -> Iterator[_Block]:
        for block in self._blocks:
            if isinstance(block, Path):
                terms, docs, counts = np.load(block)
                block.unlink()
                yield terms, docs, counts
            else:
                yield block
        self._blocks.clear()

    def _array(self, name: str, kind: Any, size: int) -> NDArray[Any]:
        if self._folder is None:
            return np.empty(size, kind)
        path = self._folder / f"{name}.npy"
        return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(size,))


def _idf(frequencies: NDArray[np.int64], pages: int) -> NDArray[np.float32]:
    values, inverse = np.unique(frequencies, return_inverse=True)
    return np.array([math.log(1 + (pages - n + 0.5) / (n + 0.5)) for n in values.tolist()], np.float32)[inverse]
