"""From what a server sent to a title and plain text.

`trafilatura <https://trafilatura.readthedocs.io>`_ takes the main text out of a page and leaves menus and footers;
where it finds none (a page that is one table, a list of links), BeautifulSoup gives all the text there is. Neither
bounds its time: two megabytes of nested tags hold the parser for half a minute, a tag of 200,000 attributes for much
longer. So both run in a killable worker process (:mod:`arpo_env.workers`), with a bound on CPU time and memory.
"""

from __future__ import annotations

import base64
import codecs
import functools
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from arpo_env.charsets import decode
from arpo_env.errors import ToolUnavailable, unknown
from arpo_env.search.base import Page
from arpo_env.web.base import PageFault, Refusal
from arpo_env.web.inert import clean
from arpo_env.workers import WorkerLost, WorkerPool

if TYPE_CHECKING:
    from arpo_env.web.fetch import Document

ExtractorName = Literal["trafilatura", "beautifulsoup"]
EXTRACTORS: tuple[str, ...] = get_args(ExtractorName)
#: What is kept of a text: some 250 chunks, more than any episode reads.
MAX_TEXT_CHARS = 200_000

_HTML = ("text/html", "application/xhtml+xml")
_PLAIN = re.compile(r"text/.+|application/(?:[\w.-]+\+)?(?:json|xml)|application/yaml")
_BLANKS = re.compile(r"[^\S\n]+")
_BREAKS = re.compile(r"\s*\n\s*")


def read_html(markup: str, extractor: str) -> tuple[str, str]:
    """(title, text) of an HTML page. Unbounded in time: called in the worker only."""
    title = text = ""
    if extractor == "trafilatura":
        import trafilatura

        found: Any = trafilatura.bare_extraction(
            markup, include_comments=False, include_tables=True, favor_recall=True, with_metadata=True
        )
        if found is not None:
            title, text = found.title or "", found.text or ""
    if not text.strip():
        from bs4 import BeautifulSoup

        soup = BeautifulSoup(markup, "lxml")
        if soup.title is not None and soup.title.string:
            title = title or soup.title.string
        for tag in soup(["script", "style", "noscript", "template", "svg", "head"]):
            tag.decompose()
        text = soup.get_text("\n")
    return title, text


class Extractor:
    """Makes :class:`~arpo_env.search.base.Page` out of documents; thread-safe.

    Args:
        name: ``trafilatura`` (BeautifulSoup where it finds nothing), or ``beautifulsoup`` alone.
        seconds: CPU seconds a page may take.
        memory_bytes: address space of a worker process.

    Raises:
        ConfigError: an unknown name.
        ToolUnavailable: a package is missing.
    """

    def __init__(self, name: str = "trafilatura", *, seconds: float = 10.0, memory_bytes: int = 2 << 30) -> None:
        if name not in EXTRACTORS:
            raise unknown("extractor", name, EXTRACTORS)
        for package in ("lxml", "bs4", *(["trafilatura"] if name == "trafilatura" else [])):
            if importlib.util.find_spec(package) is None:
                raise ToolUnavailable(f"reading web pages needs {package}: pip install 'arpo[web]'")
        self.name = name
        self._pool = _pool(seconds, memory_bytes)

    def page(self, document: Document) -> Page:
        """The page in ``document``.

        Raises:
            Refusal: it is not text, or there is no text in it.
            PageFault: it is made so that it cannot be read.
        """
        kind, body, host = document.media_type, document.body, document.target.host
        if not kind:
            kind = "text/html" if body.lstrip()[:1] == b"<" else "text/plain"
        if kind not in _HTML and not _PLAIN.fullmatch(kind):
            raise Refusal(f"it is no page of text but {kind[:60]}")
        wide = document.charset.startswith("utf-16") or body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if b"\0" in body[:1024] and not wide:
            raise Refusal("it is no page of text but binary data")
        title, text = self._read(document, host) if kind in _HTML else ("", decode(body, document.charset))
        text = tidy(text)
        if not text:
            raise Refusal("there is no text on the page (it may need a browser that runs scripts)")
        return Page(document.target.url, " ".join(clean(title).split())[:200], text, document.target.url)

    def _read(self, document: Document, host: str) -> tuple[str, str]:
        request = {
            "body": base64.b64encode(document.body).decode(),
            "charset": document.charset,
            "extractor": self.name,
        }
        try:
            reply = self._pool.ask(request)
        except WorkerLost as lost:
            raise PageFault(f"the page on {host} is too hard to read (out of {lost.reason})") from None
        if "error" in reply:
            raise PageFault(f"the page on {host} cannot be read ({reply['error']})")
        return reply["title"], reply["text"]


def tidy(text: str) -> str:
    """Paragraphs a line each, single blanks, nothing that is not text, at most :data:`MAX_TEXT_CHARS`."""
    text = _BREAKS.sub("\n", _BLANKS.sub(" ", clean(text))).strip()
    if len(text) > MAX_TEXT_CHARS:
        return f"{text[:MAX_TEXT_CHARS]}\n[the page goes on; no more of it is read]"
    return text


@functools.cache
def _pool(seconds: float, memory_bytes: int) -> WorkerPool:
    """One pool a process for equal bounds: extractors come and go with environments."""
    return WorkerPool(Path(__file__).with_name("_extract_worker.py"), seconds=seconds, memory_bytes=memory_bytes)
