"""The page's first section: what was reached on held-out tasks, said in one honest sentence and in a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from arpo_algo.report import charts, words
from arpo_algo.report.charts import Interval, percent
from arpo_algo.report.data import EvalRow, RunData
from arpo_algo.report.document import scrolled


def results(data: RunData) -> str:
    rows = words.final_rows(data.evals)
    head = '<section id="results"><h2>Held-out results</h2>'
    if not rows:
        return f'{head}<p class="empty">No evaluation has been written yet (eval.jsonl).</p></section>'
    changes = words.headline_changes(data)
    said = [f'<p class="verdict">{escape(words.change_sentence(changes[0]))}</p>'] if changes else []
    said += [f"<p>{escape(words.change_sentence(c))}</p>" for c in changes[1:]]
    methods = list(dict.fromkeys(c.method for c in changes))
    if methods:
        said.append(f'<p class="note">Interval of the change: {escape("; ".join(methods))}.</p>')
    if len({r.name for r in data.evals}) == 1 and len(rows) == 1:
        said.append('<p class="note">Only one evaluation so far: nothing to compare yet.</p>')
    # Those on the way are many, and a curve further down.
    ends = [r for r in rows if not words.on_the_way(r)] or rows
    chart = charts.dot_interval(
        "Success on held-out tasks, 95 % interval",
        [Interval(r.name, r.success, r.success_low, r.success_high) for r in ends],
        x_label="share of tasks solved",
        fmt=percent,
        x_from=0.0,
        x_to=1.0,
    )
    table = scrolled(_table(ends), "Held-out results")
    way = [r for r in rows if r not in ends]
    if way:
        summary = f"{len(way)} evaluation{'s' if len(way) != 1 else ''} on the way"
        rest = scrolled(_table(way), summary.capitalize())
        table += f"<details><summary>{summary}</summary>{rest}</details>"
    return f'{head}{"".join(said)}<div class="held-out"><div>{table}</div>{chart}</div></section>'


#: Metric, title (HTML), digits after the point.
_COLUMNS = (
    ("reward", "reward", 3),
    ("tool_calls", "tool calls<br>a task", 2),
    ("format_errors", "format<br>errors", 3),
    ("tokens", "tokens<br>a task", 0),
    ("seconds", "seconds", 1),
)


def _table(rows: Sequence[EvalRow]) -> str:
    known = {name for name, _, _ in _COLUMNS}
    extra = sorted({name for r in rows for name in r.values} - known)
    columns = [c for c in _COLUMNS if any(c[0] in r.values for r in rows)]
    columns += [(name, escape(name.replace("_", " ")), 3) for name in extra]
    head = "".join(
        f"<th>{title}</th>" for title in ("", "step", "tasks", "success (95 % CI)", *(t for _, t, _ in columns))
    )
    body = []
    for r in rows:
        cells = [escape(r.name), str(r.step), f"{r.n:,}"]
        cells.append(
            f'{100 * r.success:.1f} % <span class="ci">({100 * r.success_low:.1f} to {100 * r.success_high:.1f})</span>'
        )
        for name, _, digits in columns:
            cells.append(f"{r.values[name]:z,.{digits}f}".replace("-", "−") if name in r.values else "–")
        body.append("<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
