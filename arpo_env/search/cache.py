"""A cassette in front of a search backend, and caches of the published code to fill it from.

How answers are kept: :mod:`arpo_env.cassette`; when a backend is asked: the modes of :mod:`arpo_env.recording`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arpo_env.cassette import Cassette, arguments_key
from arpo_env.errors import ConfigError
from arpo_env.recording import CacheMode, Recorder
from arpo_env.search.base import Hit, SearchBackend, SharedBackend


class CachedBackend(SharedBackend):
    """A search backend with a cassette in front; itself a :class:`~arpo_env.search.base.SearchBackend`.

    Args:
        backend: who is asked on a miss; may be None in mode ``strict``.
        cassette: where answers are kept (not used in mode ``off``).
        mode: see :mod:`arpo_env.recording`.
        corpus: what the answers are about; default the backend's ``fingerprint``. Without a backend, the one
            corpus that the cassette holds.

    Raises:
        ConfigError: an unknown mode, or nothing says which corpus.
    """

    tool = "search"

    def __init__(
        self, backend: SearchBackend | None, cassette: Cassette, mode: CacheMode, *, corpus: str | None = None
    ) -> None:
        self._recorder = Recorder(self.tool, backend, cassette, mode, corpus)
        self.backend, self.cassette, self.mode = backend, cassette, mode
        self.fingerprint, self.deterministic = self._recorder.fingerprint, self._recorder.deterministic
        self.replays_only = self._recorder.replays_only

    def search(self, query: str, k: int) -> list[Hit]:
        """The stored hits, or the backend's.

        Raises:
            InfraError: the backend's own, or in mode ``strict`` a query that was never recorded.
        """
        # Imported caches do not say how many hits were asked for.
        rows = self._recorder.answer({"query": query, "k": k}, lambda: self._ask(query, k), also={"query": query})
        return [Hit(*row) for row in rows]

    def _ask(self, query: str, k: int) -> list[list[Any]]:
        assert self.backend is not None
        return [[hit.title, hit.url, hit.snippet, hit.score] for hit in self.backend.search(query, k)]


def import_json(source: str | Path, cassette: Cassette, *, corpus: str) -> int:
    """Import a ``{query: text}`` JSON cache (the published code's format); returns how many entries were new.

    Each text becomes a single hit without title, given for any ``k``.

    Raises:
        ConfigError: the file is missing or is not such a cache; nothing is then imported.
    """
    source = Path(source)
    try:
        table = json.loads(source.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"no JSON cache at {source}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is no JSON file: {error}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{source} must hold one object {{query: text}}, got {type(table).__name__}")
    for query, text in table.items():
        if not isinstance(text, str):
            raise ConfigError(f"{source}: the entry of {query[:80]!r} must be a text, got {type(text).__name__}")
    rows = ((arguments_key({"query": query}), [["", "", text, 0.0]]) for query, text in table.items())
    return cassette.put_many(CachedBackend.tool, corpus, rows)
