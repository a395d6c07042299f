"""One string -> a search backend: what the command line, a configuration file and ``gymnasium.make`` name."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from arpo_env.errors import ConfigError, unknown
from arpo_env.own import FORMS, find_own
from arpo_env.search.base import SearchBackend
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.storage import MANIFEST

RETRIEVERS = ("bm25", "dense", "hybrid")


def open_backend(where: str | Path, *, retriever: str = "bm25") -> SearchBackend:
    """Open what ``where`` names, once a process.

    Args:
        where: a folder that ``arpo corpus build`` wrote (memory-mapped); the URL of a retriever in Search-R1's
            format; or anything :func:`~arpo_env.search.sources.read_source` reads, which is then indexed in memory.
        retriever: ``bm25``, ``dense`` or ``hybrid``; the latter two need the folder's vectors (``arpo corpus
            embed``) and the extra ``dense``. Or one of your own by where it stands (:mod:`arpo_env.own`): a class or
            function that is called with ``where`` and returns a backend.

    Raises:
        ConfigError: nothing there, or a retriever it does not have, or one of your own that returns no backend.
        ToolUnavailable: the extra is missing.
    """
    text = str(where)
    if ":" in retriever:
        return _own(text, retriever)
    if retriever not in RETRIEVERS:
        raise ConfigError(f"{unknown('retriever', retriever, RETRIEVERS)}; or one of your own, {FORMS}")
    if text.startswith(("http://", "https://")):
        if retriever != "bm25":
            raise ConfigError(f"{text} decides for itself how it retrieves; leave out retriever={retriever!r}")
        from arpo_env.search.retriever import HttpRetriever

        return HttpRetriever(text)
    return _open(text if text.startswith("hub:") else str(Path(text).resolve()), retriever)


@lru_cache(maxsize=8)
def _own(where: str, retriever: str) -> SearchBackend:
    backend = find_own("retriever", retriever)(where)
    if not isinstance(backend, SearchBackend):
        raise ConfigError(f"retriever {retriever!r} returned {backend!r}, no arpo_env.search.base.SearchBackend")
    return backend


@lru_cache(maxsize=8)
def _open(where: str, retriever: str) -> SearchBackend:
    from arpo_env.search.sources import read_source

    folder = Path(where)
    stored = (folder / MANIFEST).is_file()
    if not stored and retriever != "bm25":
        raise ConfigError(
            f"retriever={retriever!r} needs an index on disk: arpo corpus build pages --from {where} --out …"
        )
    if retriever == "bm25":
        return BM25Index.load(folder) if stored else BM25Index.build(read_source(where))
    if retriever == "hybrid":
        from arpo_env.search.hybrid import HybridBackend

        return HybridBackend([_open(where, "bm25"), _open(where, "dense")])
    from arpo_env.search.dense import FOLDER, DenseIndex
    from arpo_env.search.embedding import SentenceTransformerEmbedder

    index = _open(where, "bm25")
    assert isinstance(index, BM25Index)
    return DenseIndex.load(folder / FOLDER, index.pages, SentenceTransformerEmbedder(), index.fingerprint)
