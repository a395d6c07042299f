"""A cassette in front of a source of pages: what was read once reads the same for ever.

The same file, modes and rules as for search (:mod:`arpo_env.recording`). Recorded is the extracted text, so that a
replay hangs on no server and no release of an extractor. A refusal is an answer and is recorded too; a fault is not.
"""

from __future__ import annotations

from arpo_env.cassette import Cassette
from arpo_env.recording import CacheMode, Recorder
from arpo_env.search.base import Page
from arpo_env.shared import Shared
from arpo_env.web.base import PageSource, Refusal


class RecordedPages(Shared):
    """A source of pages with a cassette; itself a :class:`~arpo_env.web.base.PageSource`.

    Args:
        source: who is asked on a miss; may be None in mode ``strict``.
        cassette: where pages are kept (not used in mode ``off``).
        mode: ``off``, ``record``, ``replay``, ``strict``.
        corpus: what the pages are of; default the source's ``fingerprint``. Without a source, the one that the
            cassette holds.

    Raises:
        ConfigError: an unknown mode, or nothing says which corpus.
    """

    tool = "browse"

    def __init__(
        self, source: PageSource | None, cassette: Cassette, mode: CacheMode, *, corpus: str | None = None
    ) -> None:
        self._recorder = Recorder(self.tool, source, cassette, mode, corpus)
        self.source = source
        self.fingerprint = self._recorder.fingerprint
        #: Replayed strictly, even the live web is deterministic.
        self.deterministic = self._recorder.deterministic
        self.replays_only = self._recorder.replays_only

    def page(self, address: str) -> Page:
        """The stored page, or the source's.

        Raises:
            Refusal: there is none (now, or when it was recorded).
            InfraError: the source's own, or in mode ``strict`` a page that was never recorded.
        """
        row = self._recorder.answer({"url": address}, lambda: self._ask(address))
        if "refused" in row:
            raise Refusal(row["refused"])
        return Page(**row)

    def _ask(self, address: str) -> dict[str, str]:
        assert self.source is not None
        try:
            page = self.source.page(address)
        except Refusal as refusal:
            return {"refused": str(refusal)}
        return {"id": page.id, "title": page.title, "text": page.text, "url": page.url}
