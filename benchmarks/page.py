"""The run as one self-contained HTML file: scores, and every trajectory.

Trajectories are packed in compressed chunks that the page opens one by one, when a reader asks: a run of ten thousand
samples stays a file of some megabytes that any browser opens at once.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from arpo_algo.report.charts import Interval, dot_interval, percent
from arpo_algo.report.document import document, scrolled
from benchmarks import report
from benchmarks.report import Result
from benchmarks.store import Sample

#: Characters of JSON in a chunk, before compression.
CHUNK = 400_000
#: A longer question is cut in the list (never in its trajectory).
_LISTED = 140
_HERE = Path(__file__).parent


def build_html(result: Result) -> str:
    """The page as text."""
    chunks, index = _pack(result)
    return document(
        f"Benchmarks: {result.name}",
        facts=_header(result),
        sections=[_scores(result), _viewer(result), *chunks],
        payload=index,
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
    )


def _header(result: Result) -> list[tuple[str, str]]:
    scored = sum(s.scored for s in result.scores.values())
    void = sum(s.void for s in result.scores.values())
    facts = [
        ("policy", result.name),
        ("suites", str(len(result.scores))),
        ("samples a task", str(result.k)),
        ("samples scored", f"{scored:,}"),
        ("seed", str(result.config["seed"])),
        ("begun", str(result.config["started"])),
    ]
    costs = [s.cost for s in result.scores.values()]
    if any(c is not None for c in costs):
        facts.append(("cost of the scored episodes", f"${sum(c or 0.0 for c in costs):.2f}"))
    return [*facts, ("void", f"{void:,}")] if void else facts


def _scores(result: Result) -> str:
    titles, rows = report.cells(result)
    head = "".join(f"<th>{escape(t)}</th>" for t in titles)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    intervals = [
        Interval(name, one.pass_1.value, one.pass_1.low, one.pass_1.high)
        for name, one in result.scores.items()
        if one.pass_1 is not None
    ]
    chart = ""
    if intervals:
        chart = dot_interval(
            "pass@1, 95 % interval", intervals, x_label="share of tasks solved", fmt=percent, x_from=0.0, x_to=1.0
        )
    notes = "".join(f"<li>{escape(note.replace('`', ''))}</li>" for note in report.notes(result))
    table = scrolled(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", "Scores")
    return (
        f'<section id="scores"><h2>Scores</h2>{table}<div class="dots">{chart}</div><ul class="notes">{notes}</ul>'
        "</section>"
    )


def _viewer(result: Result) -> str:
    suites = "".join(f'<option value="{i}">{escape(name)}</option>' for i, name in enumerate(result.scores))
    return (
        '<section id="viewer"><h2>Trajectories</h2>'
        '<div class="pick"><label>Suite<select id="suite"><option value="">all</option>' + suites + "</select></label>"
        '<label>Outcome<select id="outcome"><option value="">all</option><option value="right">right</option>'
        '<option value="wrong">wrong</option><option value="void">void</option></select></label>'
        '<label>Question or task id holds<input id="find" type="search" autocomplete="off"></label></div>'
        '<noscript><p class="empty">Reading trajectories needs JavaScript; the scores above do not.</p></noscript>'
        '<p class="note" id="count"></p><div class="viewer"><div class="list" id="list"></div>'
        '<div class="panel" id="panel" role="region" aria-label="Chosen trajectory" aria-live="polite"></div></div>'
        "</section>"
    )


# ---------------------------------------------------------------------- data


def _pack(result: Result) -> tuple[list[str], dict[str, Any]]:
    """(chunks as inert elements, the index: one row a sample that says which chunk holds it and where)."""
    names = list(result.scores)
    rows: list[list[Any]] = []
    chunks: list[str] = []
    for chunk in _chunks(result):
        text = "[" + ",".join(detail for _, detail in chunk) + "]"
        packed = base64.b64encode(gzip.compress(text.encode("utf-8", "backslashreplace"), mtime=0)).decode()
        for place, (sample, _) in enumerate(chunk):
            rows.append(_row(sample, names.index(sample.suite), len(chunks), place))
        chunks.append(f'<script type="text/plain" id="chunk-{len(chunks)}">{packed}</script>')
    return chunks, {"suites": names, "rows": rows}


def _chunks(result: Result) -> Iterator[list[tuple[Sample, str]]]:
    chunk: list[tuple[Sample, str]] = []
    size = 0
    for sample in result.samples:
        detail = json.dumps(_detail(sample), ensure_ascii=False, separators=(",", ":"))
        if chunk and size + len(detail) > CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append((sample, detail))
        size += len(detail)
    if chunk:
        yield chunk


def _row(sample: Sample, suite: int, chunk: int, place: int) -> list[Any]:
    asked = next((m["content"] for m in sample.messages if m["role"] == "user"), "")
    state = "void" if sample.status == "void" else "right" if sample.success else "wrong"
    return [suite, sample.task, sample.sample, state, asked[:_LISTED], sample.stop_reason, chunk, place]


def _detail(sample: Sample) -> dict[str, Any]:
    facts = {
        "stopped": sample.stop_reason,
        "answer": sample.answer,
        "gold": sample.gold,
        "verdict": sample.verdict,
        "reward": f"{sample.reward:+.2f}",
        "format": "good" if sample.format_ok else "bad",
        "tool calls": f"{sample.tool_calls} ({sample.tool_errors} failed)",
        "tokens": None if sample.completion_tokens is None else f"{sample.prompt_tokens} + {sample.completion_tokens}",
        "seconds": f"{sample.seconds:.2f} ({sample.tool_seconds:.2f} in tools)",
    }
    return {
        "facts": [] if sample.status == "void" else [[k, v] for k, v in facts.items() if v is not None],
        "errors": sample.errors,
        "messages": [[m["role"], m["content"]] for m in sample.messages],
    }
