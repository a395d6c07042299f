"""The child process that parses pages; started by :mod:`arpo_env.web.extract`, never imported."""

from __future__ import annotations

import base64
import contextlib
import sys
from typing import Any

from arpo_env.charsets import decode
from arpo_env.web.extract import MAX_TEXT_CHARS, read_html
from arpo_env.workers import serve

# Real pages nest deeper than Python's default allows some of the parsers' recursions to go.
sys.setrecursionlimit(20_000)


def _handle(request: dict[str, Any]) -> dict[str, Any]:
    markup = decode(base64.b64decode(request["body"]), request["charset"])
    title, text = read_html(markup, request["extractor"])
    # One character more than is kept, so that the cut is seen.
    return {"title": title[:1000], "text": text[: MAX_TEXT_CHARS + 1]}


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import trafilatura  # noqa: F401  (the slow import, before the first clock starts)
    serve(_handle)
