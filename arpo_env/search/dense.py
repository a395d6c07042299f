"""Dense retrieval: exact inner products with memory-mapped vectors, a block at a time.

Exact, because up to some millions of pages a scan costs no more than embedding the query, and an approximate
index would make results depend on how it was built. Vectors lie beside the BM25 index whose pages they belong to
(``OUT/dense/``); a build that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from arpo_env.errors import ConfigError
from arpo_env.search.base import Page, PageIndex
from arpo_env.search.embedding import Embedder, Vectors
from arpo_env.search.storage import MANIFEST, write_json

FORMAT_VERSION = 1
FOLDER = "dense"
#: Rows of a block of the scan: 6 MiB of float32 at 384 dimensions, about a core's cache.
_BLOCK_ROWS = 4096
_BATCH = 256
_DIGITS = 5


class DenseIndex(PageIndex):
    """A :class:`~arpo_env.search.base.SearchBackend` over pages and their vectors. Read-only, so copies are itself.

    Args:
        pages: the pages.
        vectors: float32 (pages, dimension), rows of length 1.
        embedder: what made them; it embeds the queries.
        corpus: fingerprint of the pages.

    Raises:
        ConfigError: the shapes do not fit.
    """

    deterministic = True

    def __init__(self, pages: Sequence[Page], vectors: Vectors, embedder: Embedder, corpus: str) -> None:
        if vectors.shape != (len(pages), embedder.dimension):
            raise ConfigError(
                f"vectors of shape {vectors.shape} do not fit {len(pages)} pages and {embedder.dimension} dimensions"
            )
        self.pages, self._vectors, self._embedder = pages, vectors, embedder
        self.fingerprint = hashlib.sha256(f"dense {corpus} {embedder.fingerprint}".encode()).hexdigest()

    @classmethod
    def build(
        cls,
        pages: Sequence[Page],
        embedder: Embedder,
        corpus: str,
        folder: str | Path | None = None,
        *,
        progress: Callable[[Iterable[Page]], Iterable[Page]] = iter,
    ) -> DenseIndex:
        """Embed ``pages`` (title and text), into ``folder`` if one is given; an interrupted build is taken up again.

        Vectors that are there already are kept, unless their file is cut short or too long.

        Raises:
            ConfigError: ``folder`` is a file.
        """
        if folder is None:
            parts = [embedder(batch) for batch in _batches(progress(pages))]
            vectors = np.concatenate(parts) if parts else np.zeros((0, embedder.dimension), np.float32)
            return cls(pages, vectors, embedder, corpus)
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file; an index is a folder")
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(f"{corpus} {embedder.fingerprint}".encode()).hexdigest()[:16]
        final, partial = folder / f"{name}.f32", folder / f"{name}.f32.partial"
        row = 4 * embedder.dimension
        # A file of another size is damaged (a full disk, a cut copy): it counts as absent, so that building mends it.
        if not final.is_file() or final.stat().st_size != len(pages) * row:
            done = min(partial.stat().st_size // row, len(pages)) if partial.is_file() else 0
            with partial.open("ab") as file:
                file.truncate(done * row)  # half a row is no row
                for batch in _batches(islice(progress(pages), done, None)):
                    file.write(embedder(batch).tobytes())
                    file.flush()
            partial.replace(final)
        manifest = {"version": FORMAT_VERSION, "file": final.name, "pages": len(pages), "corpus": corpus}
        manifest |= {"dimension": embedder.dimension, "embedder": embedder.fingerprint}
        write_json(manifest, folder / MANIFEST)
        return cls.load(folder, pages, embedder, corpus)

    @classmethod
    def load(cls, folder: str | Path, pages: Sequence[Page], embedder: Embedder, corpus: str) -> DenseIndex:
        """Map the vectors in ``folder``, which must be those of ``pages``, by ``embedder``.

        Raises:
            ConfigError: there are none, or others, or they are damaged.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"no vectors in {folder}; write them with 'arpo corpus embed {folder.parent}' or DenseIndex.build"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{folder / MANIFEST} is damaged ({error}); embed the corpus again") from None
        if manifest.get("version") != FORMAT_VERSION:
            raise ConfigError(
                f"{folder} holds vectors of format {manifest.get('version')!r}; this release reads {FORMAT_VERSION}"
            )
        for key, value in (("corpus", corpus), ("embedder", embedder.fingerprint), ("pages", len(pages))):
            if manifest[key] != value:
                raise ConfigError(
                    f"the vectors in {folder} were made for the {key} {manifest[key]!r}, not {value!r}; "
                    "embed the corpus again"
                )
        path, shape = folder / manifest["file"], (len(pages), embedder.dimension)
        if not path.is_file() or path.stat().st_size != 4 * shape[0] * shape[1]:
            raise ConfigError(f"the vectors in {folder} are damaged: {path.name} is missing or cut short; embed again")
        return cls(pages, np.memmap(path, np.float32, "r", shape=shape), embedder, corpus)

    def rank(self, query: str, k: int) -> list[tuple[int, float]]:
        """(page number, cosine to five digits) of the ``k`` best pages, best first, ties in page order."""
        if k < 1:
            raise ConfigError(f"k must be >= 1, got {k}")
        if not query.strip():
            return []
        vector = self._embedder([query])[0]
        scores = np.empty(len(self.pages), np.float32)
        for start in range(0, len(scores), _BLOCK_ROWS):
            end = start + _BLOCK_ROWS
            scores[start:end] = self._vectors[start:end] @ vector
        # A product's last digits depend on where its row stands in the block: equal pages are to stay equal.
        np.round(scores, _DIGITS, out=scores)
        found = np.arange(len(scores))
        if len(scores) > k:
            found = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
        order = found[np.lexsort((found, -scores[found]))[:k]]
        return [(int(i), float(scores[i])) for i in order]


def _batches(pages: Iterable[Page]) -> Iterable[list[str]]:
    source = iter(pages)
    while batch := [f"{page.title}\n{page.text}" for page in islice(source, _BATCH)]:
        yield batch
