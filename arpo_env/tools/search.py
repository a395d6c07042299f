"""The ``<search>`` tool: a query in, a few lines of text out.

One line a hit, ``[1] Title: snippet``, because every token of a result is read by the policy and paid for;
the published checkpoints accept any text here. A query that finds nothing is an honest outcome (``ok``, though not
``useful``), a query without a word or too long is a mistake of the policy and told as such, and a backend that is
down raises :class:`~arpo_env.errors.InfraError` from below: "throttled" never looks like "nothing found".
"""

from __future__ import annotations

from typing import Any, Self

from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.search.base import Hit, SearchBackend
from arpo_env.tools.base import Tool, ToolResult, ToolSession
from arpo_env.tools.faults import Faults, OnFault
from arpo_env.web.inert import inert

NO_RESULTS = "No results found."


def format_hits(hits: list[Hit], chars: int, *, urls: bool = False) -> str:
    """The result text: a line a hit, title and snippet on one line each, snippet cut after ``chars`` characters.

    ``urls``: a hit's address stands on a line of its own below it, where it has one.
    """
    if not hits:
        return NO_RESULTS
    lines = []
    for number, hit in enumerate(hits, 1):
        title, snippet = _one_line(hit.title), _cut(_one_line(hit.snippet), chars)
        lines.append(f"[{number}] {title}: {snippet}" if title else f"[{number}] {snippet}")
        if urls and hit.url:
            lines.append(_one_line(hit.url))
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, chars: int) -> str:
    """At most ``chars`` characters, cut between words where there is a blank in the second half."""
    if len(text) <= chars:
        return text
    head = text[: chars - 1]
    blank = head.rfind(" ")
    return (head[:blank] if blank > chars // 2 else head) + "…"


class SearchTool(Tool):
    """Search over any backend.

    Args:
        backend: who answers (shared by all sessions; must be thread-safe).
        k: hits a query.
        chars: longest snippet, in characters. (The paper's setting: k=10, chars=1000.)
        max_query_chars: a longer query is refused with a message instead of searched.
        urls: show each hit's address, for the browse tool to open.
        on_fault: ``raise`` or ``tell``, see :class:`~arpo_env.tools.faults.Faults`.

    Raises:
        ConfigError: a number out of range, an unknown ``on_fault``.
    """

    name = "search"
    description = "query"

    def __init__(
        self,
        backend: SearchBackend,
        *,
        k: int = 3,
        chars: int = 200,
        max_query_chars: int = 1000,
        urls: bool = False,
        on_fault: OnFault = "raise",
    ) -> None:
        for label, value, least in (("k", k, 1), ("chars", chars, 20), ("max_query_chars", max_query_chars, 1)):
            if value < least:
                raise ConfigError(f"{label} must be >= {least}, got {value}")
        self.backend = backend
        self.k = k
        self.chars = chars
        self.max_query_chars = max_query_chars
        self.urls = urls
        self.faults = Faults(on_fault, "The search engine did not answer.")
        self.deterministic = backend.deterministic

    def check(self) -> None:
        if getattr(self.backend, "replays_only", False):
            return
        try:
            self.backend.search("test", 1)
        except InfraError as error:
            raise ToolUnavailable(
                f"the search backend {type(self.backend).__name__} does not answer: {error}"
            ) from error

    def open(self, seed: int, state: Any = None) -> SearchSession:
        return SearchSession(self)


class SearchSession(ToolSession):
    """Holds nothing of its own: a fork shares the backend, and the state is empty."""

    def __init__(self, tool: SearchTool) -> None:
        self._tool = tool

    def call(self, argument: str) -> ToolResult:
        tool, query = self._tool, argument.strip()
        if not query:
            return ToolResult("Error: the query is empty; write what to search for between the tags.", ok=False)
        if not any(char.isalnum() for char in query):
            return ToolResult("Error: the query holds no word; write what to search for between the tags.", ok=False)
        if len(query) > tool.max_query_chars:
            return ToolResult(
                f"Error: the query has {len(query)} characters, at most {tool.max_query_chars}.", ok=False
            )
        try:
            hits = tool.backend.search(query, tool.k)
        except InfraError as fault:
            return tool.faults.result(fault)
        return ToolResult(inert(format_hits(hits, tool.chars, urls=tool.urls)), useful=bool(hits))

    def fork(self) -> Self:
        return type(self)(self._tool)

    def get_state(self) -> None:
        return None
