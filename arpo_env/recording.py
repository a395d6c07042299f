"""When to ask, and when to give what a cassette holds: four modes, the same for search, pages and summaries.

=========  =====================  ======================================
mode       stored answer          nothing stored
=========  =====================  ======================================
``off``    ignored                asked
``record``  given                  asked, then stored
``replay``  given                  asked, not stored (the file is not written)
``strict``  given                  ``InfraError``: nothing is ever asked
=========  =====================  ======================================

Only answers are stored, never faults: an :class:`~arpo_env.errors.InfraError` passes through.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from arpo_env.cassette import Cassette, arguments_key
from arpo_env.errors import ConfigError, InfraError, unknown

CacheMode = Literal["off", "record", "replay", "strict"]
MODES: tuple[str, ...] = get_args(CacheMode)


class Recorder:
    """The rules of the module's table for one tool and one corpus: when to ask, and what to store. Thread-safe.

    Equal calls that miss at the same time ask once a process: the others wait for that answer.

    Args:
        tool: names the kind of answers in the cassette.
        source: who answers; says whether it is ``deterministic``, and may name its corpus (``fingerprint``). None in
            mode ``strict``.
        cassette: where answers are kept (not used in mode ``off``).
        mode: see the module docstring.
        corpus: what the answers are about; default the source's ``fingerprint``. Without a source, the one corpus
            that the cassette holds.

    Raises:
        ConfigError: an unknown mode, or nothing says which corpus.
    """

    def __init__(self, tool: str, source: Any, cassette: Cassette, mode: CacheMode, corpus: str | None = None) -> None:
        if mode not in MODES:
            raise unknown("cache mode", str(mode), MODES)
        if source is None and mode != "strict":
            raise ConfigError(f"mode={mode!r} asks a source on a miss, but there is none; use mode='strict'")
        if mode == "record" and cassette.read_only:
            raise ConfigError(f"mode='record' writes, but the cassette {cassette.path} was opened read_only")
        self.tool, self.cassette, self.mode = tool, cassette, mode
        self.fingerprint = _corpus(source, cassette, corpus, tool)
        #: Replayed strictly, even the live web is deterministic.
        self.deterministic = mode == "strict" or (source is not None and bool(source.deterministic))
        #: There is nobody to ask, so nobody whose health could be checked.
        self.replays_only = mode == "strict"
        self._guard = threading.Lock()
        self._under_way: dict[str, threading.Event] = {}

    def answer(
        self, arguments: Mapping[str, Any], ask: Callable[[], Any], also: Mapping[str, Any] | None = None
    ) -> Any:
        """The stored answer to ``arguments`` (else to ``also``), or what ``ask`` gives: a JSON value.

        Raises:
            InfraError: mode ``strict``, and it was never recorded; or the cassette cannot be used.
        """
        if self.mode == "off":
            return ask()
        keys = [arguments_key(arguments)] + ([] if also is None else [arguments_key(also)])
        while (answer := self._stored(keys)) is None:
            if self.mode == "strict":
                raise InfraError(
                    f"the cassette {self.cassette.path} holds no {self.tool} answer to {dict(arguments)} (corpus "
                    f"{self.fingerprint!r}); strict replay asks nobody: record it first (mode='record')"
                )
            if self.mode == "replay":
                return ask()
            with self._guard:
                leader = self._under_way.get(keys[0])
                if leader is None:
                    mine = self._under_way[keys[0]] = threading.Event()
            if leader is not None:
                leader.wait()
                continue  # its answer is stored now; or it failed, and it is our turn to ask
            try:
                # Between this thread's miss and its turn, another may have stored the answer: look again.
                answer = self._stored(keys)
                return self.cassette.put(self.tool, self.fingerprint, keys[0], ask()) if answer is None else answer
            finally:
                with self._guard:
                    del self._under_way[keys[0]]
                mine.set()
        return answer

    def _stored(self, keys: Iterable[str]) -> Any:
        for key in keys:
            answer = self.cassette.get(self.tool, self.fingerprint, key)
            if answer is not None:
                return answer
        return None


def _corpus(source: Any, cassette: Cassette, corpus: str | None, tool: str) -> str:
    own: str | None = getattr(source, "fingerprint", None)
    if corpus is not None or own is not None:
        return corpus if corpus is not None else str(own)
    held = cassette.corpora(tool) if source is None else []
    if len(held) != 1:
        raise ConfigError(
            f"which corpus do the answers belong to? The cassette {cassette.path} holds {held or 'none'} and "
            f"{type(source).__name__ if source is not None else 'no source'} does not say; pass corpus='…'"
        )
    return held[0]
