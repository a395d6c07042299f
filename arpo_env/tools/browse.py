"""The ``<browse>`` tool: open a page, go on to its next chunk, find something in it.

Three things can stand between the tags, short enough for a small model to write::

    <browse>https://example.org/page</browse>             the page's first chunk
    <browse>https://example.org/page 2</browse>           its second chunk
    <browse>https://example.org/page find: river</browse> the passages about it, with their chunks' numbers

and without the address (``<browse>2</browse>``, ``<browse>find: river</browse>``) the page opened last is meant. A
local corpus also knows its pages by title.

A page that is not there, or is not to be read, is an honest outcome of the policy's choice: it is told, and is no
fault. A page that could not be read is one (see :mod:`arpo_env.tools.faults`).
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Self

from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.search.base import Page
from arpo_env.tools.base import Tool, ToolResult, ToolSession
from arpo_env.tools.faults import Faults, OnFault
from arpo_env.web.base import PageSource, Refusal
from arpo_env.web.chunks import find, split
from arpo_env.web.inert import inert
from arpo_env.web.summary import Summariser

_VERSION = 1
_FIND = re.compile(r"(?:^|\s)find:", re.IGNORECASE)
_NUMBER = re.compile(r"(?:chunk\s*)?#?(\d{1,6})", re.IGNORECASE)
#: An address and a chunk's number after it.
_NUMBERED = re.compile(r"(.*?\S)\s+(?:chunk\s*)?#?(\d{1,6})", re.IGNORECASE | re.DOTALL)
_TITLE_CHARS = 80
_PASSAGES = 5
_HELP = "write a URL, a URL and a chunk number, or a URL and find: words"


@dataclass(frozen=True, slots=True)
class _Request:
    """What a call asks for; an empty address means the page opened last. ``whole`` is the address as written."""

    address: str
    whole: str
    chunk: int | None
    words: str | None


def _parse(argument: str) -> _Request:
    words: str | None = None
    if match := _FIND.search(argument):
        argument, words = argument[: match.start()], " ".join(argument[match.end() :].split())
    text = " ".join(argument.split())
    if match := _NUMBER.fullmatch(text):
        return _Request("", text, int(match[1]), words)
    if match := _NUMBERED.fullmatch(text):
        return _Request(match[1], text, int(match[2]), words)
    return _Request(text, text, None, words)


class BrowseTool(Tool):
    """Reads pages of any source.

    Args:
        pages: where pages come from (shared by all sessions; must be thread-safe).
        chars: longest result, in characters, its first line included.
        summary: a model that answers ``find:`` from the whole page, and sums it up without (the paper's browser
            agent); None: passages and chunks of the page itself.
        on_fault: ``raise`` or ``tell``, see :class:`~arpo_env.tools.faults.Faults`.
        keep: pages kept in memory, so that the chunks of a page are chunks of one and the same.

    Raises:
        ConfigError: a number out of range, an unknown ``on_fault``.
    """

    name = "browse"

    def __init__(
        self,
        pages: PageSource,
        *,
        chars: int = 900,
        summary: Summariser | None = None,
        on_fault: OnFault = "raise",
        keep: int = 256,
    ) -> None:
        for label, value, least in (("chars", chars, 200), ("keep", keep, 1)):
            if value < least:
                raise ConfigError(f"{label} must be >= {least}, got {value}")
        self.pages, self.chars, self.summary = pages, chars, summary
        self.faults = Faults(on_fault, "The page could not be read.")
        #: The line of the system prompt.
        self.description = (
            "URL, or URL 2 (its chunk 2), or URL find: words"
            if summary is None
            else "URL (a summary comes back), or URL find: what you want to know"
        )
        self.deterministic = pages.deterministic and (summary is None or summary.deterministic)
        self._keep = keep
        self._kept: OrderedDict[str, _Opened] = OrderedDict()
        self._lock = threading.Lock()

    def check(self) -> None:
        """Ask a source that is on this machine for a page that is not there; the live web is not bothered.

        Raises:
            ToolUnavailable: the source does not answer.
        """
        if not self.pages.deterministic or getattr(self.pages, "replays_only", False):
            return
        try:
            self.pages.page("https://check.invalid/")
        except Refusal:
            return
        except InfraError as error:
            raise ToolUnavailable(f"the pages of {type(self.pages).__name__} cannot be read: {error}") from None

    def open(self, seed: int, state: Any = None) -> BrowseSession:
        """
        Raises:
            ConfigError: ``state`` is none of :meth:`BrowseSession.get_state`.
        """
        if state is None:
            return BrowseSession(self, "")
        if not isinstance(state, dict) or state.get("version") != _VERSION or not isinstance(state.get("at"), str):
            raise ConfigError(f"a browse session state is {{'version': {_VERSION}, 'at': address}}, got {state!r}")
        return BrowseSession(self, state["at"])

    def read(self, address: str) -> _Opened:
        """The page at ``address``, in chunks.

        Raises:
            Refusal, InfraError: as the source's.
        """
        with self._lock:
            if address in self._kept:
                self._kept.move_to_end(address)
                return self._kept[address]
        opened = _Opened(self.pages.page(address), self.chars)
        with self._lock:
            # The first one stays, so that all sessions read the same.
            opened = self._kept.setdefault(address, opened)
            self._kept.move_to_end(address)
            while len(self._kept) > self._keep:
                self._kept.popitem(last=False)
        return opened


class _Opened:
    """A page cut into chunks that leave room for the line above them."""

    def __init__(self, page: Page, chars: int) -> None:
        self.page = page
        title = " ".join(inert(page.title).split())
        self.title = title if len(title) <= _TITLE_CHARS else f"{title[: _TITLE_CHARS - 1]}…"
        # "Title (chunk 123 of 456)\n", with a margin: as many digits as a number can have.
        self.room = chars - len(self.title) - len(" (chunk  of )\n") - 12
        self.chunks = split(inert(page.text), self.room) or [""]


class BrowseSession(ToolSession):
    """Holds the address of the page opened last; a fork shares the tool and goes its own way from there."""

    def __init__(self, tool: BrowseTool, at: str) -> None:
        self._tool, self._at = tool, at

    def call(self, argument: str) -> ToolResult:
        request = _parse(argument)
        if not request.whole and request.words is None:
            return ToolResult(f"Error: nothing to open; {_HELP}.", ok=False)
        if not request.address and not self._at:
            return ToolResult(f"Error: no page is open yet; {_HELP}.", ok=False)
        if request.words is not None and not request.words:
            return ToolResult("Error: nothing to find; write words after find:.", ok=False)
        try:
            opened, address, chunk = self._open(request)
            result = self._show(opened, chunk, request.words)
        except Refusal as refusal:
            return ToolResult(inert(f"Error: {refusal}."), ok=False)
        except InfraError as fault:
            return self._tool.faults.result(fault)
        self._at = address
        return result

    def fork(self) -> Self:
        return type(self)(self._tool, self._at)

    def get_state(self) -> dict[str, Any]:
        """``{"version", "at"}``: the address opened last, empty before the first page."""
        return {"version": _VERSION, "at": self._at}

    def _open(self, request: _Request) -> tuple[_Opened, str, int | None]:
        """(page, its address, chunk): a title may end in a number itself, so it is looked up as written first."""
        if not request.address:
            return self._tool.read(self._at), self._at, request.chunk
        if request.chunk is not None and "://" not in request.address:
            try:
                return self._tool.read(request.whole), request.whole, None
            except Refusal:
                pass
        return self._tool.read(request.address), request.address, request.chunk

    def _show(self, opened: _Opened, chunk: int | None, words: str | None) -> ToolResult:
        tool, total = self._tool, len(opened.chunks)
        if chunk is not None and not 1 <= chunk <= total:
            return ToolResult(
                f"Error: the page has {total} chunk{'s' * (total > 1)}, there is no chunk {chunk}.", ok=False
            )
        if tool.summary is not None and chunk is None:
            text = inert(tool.summary.about(opened.page, words or ""))
            return ToolResult(f"{opened.title} (summary)\n{text}"[: tool.chars])
        if words is not None:
            return self._find(opened, words)
        number = chunk or 1
        place = f" (chunk {number} of {total})" if total > 1 else ""
        return ToolResult(f"{opened.title}{place}\n{opened.chunks[number - 1]}".lstrip("\n"))

    def _find(self, opened: _Opened, words: str) -> ToolResult:
        lines: list[str] = []
        left = opened.room
        each = max(80, left // 2 - len("[chunk 123456] "))
        for found in find(opened.chunks, words, limit=_PASSAGES, chars=each):
            line = f"[chunk {found.chunk}] {found.text}" if len(opened.chunks) > 1 else found.text
            left -= len(line) + 1
            if left < 0:
                break
            lines.append(line)
        if not lines:
            said = f"{opened.title}: nothing found about {words[:100]!r} on this page.".lstrip(": ")
            return ToolResult(said, useful=False)
        return ToolResult("\n".join([f"{opened.title} (found)", *lines]).strip())
