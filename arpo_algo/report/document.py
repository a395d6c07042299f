"""One self-contained HTML document: no external address, one script that may run, data that stays data.

The content security policy lets exactly one script run, ours, by its hash; so a text from a tool or a model stays text
even if an escape were ever missed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any


def document(
    title: str,
    *,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[str],
    payload: Any,
    script: str,
    style: str = "",
    live: str | None = None,
) -> str:
    """The page as text.

    Args:
        facts: (name, value) pairs under the title.
        sections: HTML; empty ones are left out.
        payload: JSON-able; the script finds it in the element ``payload``.
        script: the one script. style: CSS after the reports' own.
        live: the version that a page served by :mod:`~arpo_algo.report.serve` compares with.
    """
    return _fill(
        asset("page.html"),
        {
            "title": escape(title),
            "csp": escape(_policy(script, live is not None), quote=True),
            "live": "" if live is None else f'<meta name="arpo-live" content="{escape(live, quote=True)}">',
            "css": asset("page.css") + style,
            "js": script,
            "facts": _facts(facts),
            "sections": "\n".join(s for s in sections if s),
            "payload": embed(payload),
        },
    )


def scrolled(table: str, name: str) -> str:
    """A table that may be wider than the page, in a box that scrolls, by keys too. ``name``: what is spoken of it."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name, quote=True)}">{table}</div>'


def embed(payload: Any) -> str:
    """JSON that is inert inside a ``<script>`` element: no ``<``, ``>`` or ``&`` survives as itself.

    Raises:
        ValueError: a number is not finite (JSON has no word for it).
    """
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


@cache
def asset(name: str) -> str:
    """The text of a file beside this one."""
    return files("arpo_algo.report").joinpath(name).read_text(encoding="utf-8")


def _fill(template: str, parts: dict[str, str]) -> str:
    """Put the parts in, in one pass: a part that looks like a placeholder stays as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _policy(script: str, live: bool) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )


def _facts(pairs: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs)
    return f'<dl class="facts">{rows}</dl>'
