"""A study as one self-contained page, and as Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from arpo_algo.report import charts
from arpo_algo.report.charts import Interval, number, percent, points
from arpo_algo.report.document import asset, document, scrolled
from arpo_algo.report.page_sweep import curves_section, pooled, results_section
from arpo_algo.runfolder import write_atomic
from arpo_algo.sweep import AXES
from benchmarks.studies import words
from benchmarks.studies.measures import MEASURES
from benchmarks.studies.run import Finding, StudyResult

#: How the verdicts are made, on every page.
HOW = (
    "Differences are paired by seed and held-out task. The interval that decides counts both: Student's over the "
    "seeds' means, widened by the variance between tasks, never narrower than the one over tasks. 'These runs alone' "
    "is over tasks: what is known of the models that were trained, and not of the algorithms. Each comparison stands "
    "alone; none is corrected for the number of them."
)
_CLASS = {"supports": "good", "contradicts": "bad", "cannot tell": "muted"}
_STYLE = """
.says-good { color: var(--good); } .says-bad { color: var(--bad); }
#verdict th, #verdict td { vertical-align: top; }
#verdict tbody th { color: var(--ink); }
#verdict .worded { text-align: left; white-space: normal; min-width: 12ch; }
#verdict .minor th, #verdict .minor td:not([class*="says-g"], [class*="says-b"]) { color: var(--soft); }
#verdict .charts { margin: 22px 0 12px; }
"""


def write(result: StudyResult, out: Path) -> Path:
    """Write ``NAME.html``, ``NAME.md`` and ``NAME.json`` into ``out``; returns the page's path."""
    name = result.study.name
    write_atomic(out / f"{name}.json", json.dumps(result.to_json(), indent=1).encode())
    write_atomic(out / f"{name}.md", markdown(result).encode())
    write_atomic(out / f"{name}.html", html(result).encode("utf-8", "backslashreplace"))
    return out / f"{name}.html"


def markdown(result: StudyResult) -> str:
    study = result.study
    ordered = _ordered(result)
    lines = [
        f"## {study.name}: {study.question}",
        "",
        f"Claim: {study.claim} ({study.source})",
        "",
        f"**Verdict: {result.verdict}.** It would support the claim if {study.supports}; contradict it if "
        f"{study.contradicts}.",
        "",
        *_table(words.COLUMNS, [_decisive_marked(f) for f in ordered]),
        "",
        f"Bold: what decides. {HOW}",
        "",
        *_table(
            ("entrant", "algorithm", "seeds", "success (95 %)", "forks", *(f"{axis} spent" for axis in AXES)),
            _spent(result),
        ),
        "",
    ]
    lines += [f"{note}\n" for note in _notes(result)]
    return "\n".join(lines)


def _ordered(result: StudyResult) -> list[Finding]:
    return sorted(result.findings, key=lambda f: not f.contrast.decisive)


def _decisive_marked(f: Finding) -> list[str]:
    row = words.cells(f)
    return [f"**{row[0]}**", *row[1:]] if f.contrast.decisive else row


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(r)} |" for r in (head, ["---"] * len(head), *rows)]


def _spent(result: StudyResult) -> list[list[str]]:
    out = []
    for name, text in result.study.entrants.items():
        own = [r for r in result.rows if r.label == name]
        if own:
            value, low, high = pooled(own)
            totals = [math.fsum(r.spent[axis][-1] for r in own if r.spent[axis]) / len(own) for axis in AXES]
            forks = number(math.fsum(r.forks for r in own) / len(own))
            spread = f"{percent(value)} ({percent(low)} to {percent(high)})"
            out.append([name, f"`{text}`", str(len(own)), spread, forks, *map(number, totals)])
    return out


def _notes(result: StudyResult) -> list[str]:
    notes = [result.study.note] if result.study.note else []
    return notes + ([f"Not there: {'; '.join(result.missing)}."] if result.missing else [])


def html(result: StudyResult) -> str:
    study = result.study
    tasks = {len(r.final.per_task) for r in result.rows}
    return document(
        f"Study {study.name}",
        facts=[
            ("claim", study.claim),
            ("in the paper", study.source),
            ("seeds", ", ".join(map(str, result.seeds))),
            ("held-out tasks", " or ".join(map(str, sorted(tasks)))),
            ("model", Path(result.config.model).name),
            ("tasks", result.config.env.id),
            ("runs in", str(result.origin)),
        ],
        sections=[_verdict(result), results_section(result.rows, compare=False), curves_section(result.rows)],
        payload={},
        script=asset("page.js"),
        style=_STYLE,
    )


def _verdict(result: StudyResult) -> str:
    study = result.study
    worded = {"measure", "claimed", "says"}
    head = "".join(f"<th{' class=worded' * (t in worded)}>{escape(t)}</th>" for t in words.COLUMNS)
    body = []
    for f in _ordered(result):
        row = words.cells(f)
        shown = [f"<td>{escape(c)}</td>" for c in row[2:5]]
        says = f'<td class="worded says-{_CLASS[f.judgement.word]}">{escape(row[6])}</td>'
        kind = "" if f.contrast.decisive else ' class="minor"'
        what = escape(MEASURES[f.contrast.measure].what, quote=True)
        body.append(
            f"<tr{kind}><th>{escape(row[0])}</th>"
            f'<td class="worded" title="{what}">{escape(row[1])}</td>{"".join(shown)}'
            f'<td class="worded">{escape(row[5])}</td>{says}</tr>'
        )
    measures = dict.fromkeys(f.contrast.measure for f in _ordered(result))
    explained = "; ".join(f"{name}: {MEASURES[name].what}" for name in measures)
    notes = "".join(f'<p class="note">{escape(n)}</p>' for n in (*_notes(result), f"{_sentence(explained)}.", HOW))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return (
        f'<section id="verdict"><h2>{escape(study.question)}</h2>'
        f'<p class="verdict says-{_CLASS[result.verdict]}">{escape(_sentence(result.verdict))}.</p>'
        f'<p class="muted">Supported if {escape(study.supports)}. Contradicted if {escape(study.contradicts)}. '
        "The rows in full ink decide.</p>"
        f'{scrolled(table, "Findings")}<div class="charts">{_drawn(result)}</div>{notes}</section>'
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _drawn(result: StudyResult) -> str:
    """One chart a measure; where there is one seed, the interval over tasks."""
    figures = []
    for measure in dict.fromkeys(f.contrast.measure for f in _ordered(result)):
        ratio = MEASURES[measure].unit == "ratio"
        rows: dict[str, Interval] = {}
        for f in result.findings:
            if f.contrast.measure != measure or f.estimate is None:
                continue
            low, high = words.interval(f.estimate)
            ends = [None if x is None else words.times(x) if ratio else x for x in (f.estimate.mean, low, high)]
            assert ends[0] is not None
            rows[words.comparison(f)] = Interval(words.comparison(f), ends[0], ends[1], ends[2], len(rows))
        if rows:
            unit = MEASURES[measure].unit
            figures.append(
                charts.dot_interval(
                    _sentence(measure),
                    list(rows.values()),
                    x_label={"points": "percentage points", "ratio": "times the base's", "nats": "nats a token"}[unit],
                    fmt=points if unit == "points" else number,
                    zero=not ratio,
                    x_from=0.0 if ratio else None,
                    x_to=1.0 if ratio else None,
                )
            )
    return "".join(figures)
