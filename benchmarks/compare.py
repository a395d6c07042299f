"""``compare A B …``: the paper's tables drawn from run folders, with the published figures beside them.

Runs are paired by task: the difference of each other run to the first, its 95 % interval, and the p-value of a
sign-flip permutation test, adjusted (Holm) for all the suites of that pair. A difference is marked only when the
adjusted p-value is below 0.05. Published figures are means without a spread: they stand beside ours and are never
tested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from arpo_algo.errors import ConfigError
from arpo_algo.runfolder import write_atomic
from arpo_algo.stats import holm, paired_difference, paired_permutation
from benchmarks.report import Result, load, markdown_table, share
from benchmarks.scores import average
from benchmarks.store import asked

#: Adjusted p-values below it are marked.
ALPHA = 0.05
_PUBLISHED = Path(__file__).parent / "data" / "published.json"


@dataclass(frozen=True, slots=True)
class Difference:
    """``other`` − ``base`` on one suite, over the tasks both scored. ``adjusted``: Holm, over the pair's suites."""

    suite: str
    base: str
    other: str
    tasks: int
    value: float
    low: float
    high: float
    p: float
    adjusted: float

    @property
    def mark(self) -> str:
        if self.adjusted >= ALPHA:
            return ""
        return " ▲" if self.value > 0 else " ▼"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A table of text cells; ``ours`` tells rows of runs from published ones."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    ours: Sequence[bool]
    notes: Sequence[str] = ()


def differences(base: Result, other: Result, names: tuple[str, str]) -> list[Difference]:
    """Paired differences on every suite that both ran, in the base's order."""
    found = []
    for suite, one in base.scores.items():
        mine, theirs = one.task_means, other.scores[suite].task_means if suite in other.scores else {}
        shared = sorted(mine.keys() & theirs.keys())
        if len(shared) >= 2:
            a, b = [mine[t] for t in shared], [theirs[t] for t in shared]
            found.append((suite, len(shared), paired_difference(a, b), paired_permutation(a, b)))
    adjusted = holm([p for _, _, _, p in found])
    return [
        Difference(suite, *names, n, *interval, p, q)
        for (suite, n, interval, p), q in zip(found, adjusted, strict=True)
    ]


def draw(
    results: Mapping[str, Result], published: Mapping[str, Any], wanted: str = ""
) -> tuple[list[Drawn], list[Difference]]:
    """The paper's tables, one for the other suites, and every difference to the first run."""
    labels = list(results)
    base = results[labels[0]]
    tested = [d for other in labels[1:] for d in differences(base, results[other], (labels[0], other))]
    marks = {(d.other, d.suite): d.mark for d in tested}
    tables, seen = [], set()
    for table in published["tables"]:
        suites = [name for group in table["groups"] for name in group]
        ran = [name for name in suites if any(name in r.scores for r in results.values())]
        seen.update(suites)
        if not ran and not wanted:
            continue
        tables.append(_paper_table(table, suites, results, marks, wanted))
    rest = [name for r in results.values() for name in r.scores if name not in seen]
    if rest:
        suites = list(dict.fromkeys(rest))
        rows = [_own_row(label, r, suites, marks) for label, r in results.items()]
        tables.append(Drawn("Other suites", ["", *suites], rows, [True] * len(rows)))
    return tables, tested


def _paper_table(
    table: Mapping[str, Any],
    suites: Sequence[str],
    results: Mapping[str, Result],
    marks: Mapping[tuple[str, str], str],
    wanted: str,
) -> Drawn:
    rows, ours = [], []
    for row in table["rows"]:
        if wanted.lower() in row["name"].lower():
            scores = [*row["scores"], *([row["average"]] if table["average"] else [])]
            rows.append([f"{row['name']} (published)", *("" if x is None else f"{x:.1f}" for x in scores)])
            ours.append(False)
    notes = []
    for label, result in results.items():
        if not any(name in result.scores for name in suites):
            continue
        row = _own_row(label, result, suites, marks)
        if table["average"]:
            row.append(share(average(result.scores[n].pass_1 if n in result.scores else None for n in suites)))
        rows.append(row)
        ours.append(True)
        part = [
            f"{name} {s['tasks']} of {s['size']}"
            for name, s in result.config["suites"].items()
            if name in suites and s["size"] and s["tasks"] < s["size"]
        ]
        if part:
            notes.append(f"{label} ran part of the published sets: {', '.join(part)}.")
    titles = ["", *suites, *(["average"] if table["average"] else [])]
    return Drawn(table["title"], titles, rows, ours, notes)


def _own_row(label: str, result: Result, suites: Sequence[str], marks: Mapping[tuple[str, str], str]) -> list[str]:
    cells = []
    for name in suites:
        one = result.scores.get(name)
        cells.append("" if one is None else share(one.pass_1) + marks.get((label, name), ""))
    return [label, *cells]


def difference_table(tested: Sequence[Difference]) -> Drawn:
    rows = [
        [
            f"{d.other} − {d.base}",
            d.suite,
            str(d.tasks),
            f"{100 * d.value:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f}){d.mark}",
            _p(d.p),
            _p(d.adjusted),
        ]
        for d in tested
    ]
    titles = ["difference", "suite", "tasks", "points (95 % CI)", "p", "p adjusted"]
    return Drawn("Differences, paired by task", titles, rows, [True] * len(rows))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


# ---------------------------------------------------------------------- the command


def compare(folders: Sequence[Path], console: Console, *, out: Path | None = None, published: str = "") -> int:
    """Print the tables; with ``out`` write them as Markdown or JSON too.

    Raises:
        ConfigError: a folder that is no benchmark run, two runs of other tasks or judges under one suite's name, or a
            suffix other than .md and .json.
    """
    if out is not None and out.suffix not in (".md", ".json"):
        raise ConfigError(f"--out {str(out)!r} must end in .md or .json")
    results = _labelled([load(folder) for folder in folders])
    _same_tasks(results)
    said = [*differing(results), *unfinished(results)]
    data = json.loads(_PUBLISHED.read_text(encoding="utf-8"))
    known = [row["name"] for table in data["tables"] for row in table["rows"]]
    if published and not any(published.lower() in name.lower() for name in known):
        raise ConfigError(f"no published row holds {published!r}; known: {', '.join(known)}")
    tables, tested = draw(results, data, published)
    if tested:
        tables.append(difference_table(tested))
    notes = [
        "Our cells: pass@1 in percent with its 95 % interval over tasks.",
        f"Published: {data['source']}",
    ]
    notes += said
    if tested:
        against = f"than {next(iter(results))} on the same tasks"
        notes.append(f"▲ ▼: better, worse {against} (permutation test, Holm-adjusted p < {ALPHA}).")
    for table in tables:
        console.print(_rich(table))
        for note in table.notes:
            console.print(escape(note), style="dim", highlight=False)
    for note in notes:
        console.print(escape(note), style="dim", highlight=False)
    if out is not None:
        text = _markdown(tables, notes) if out.suffix == ".md" else _json(results, tables, tested, said)
        write_atomic(out, text.encode())
        console.print(f"Written: {out}", highlight=False)
    return 0


def _labelled(results: Sequence[Result]) -> dict[str, Result]:
    """Each by its policy's name; by folder where names repeat."""
    names = [r.name for r in results]
    out: dict[str, Result] = {}
    for result in results:
        label = result.name if names.count(result.name) == 1 else f"{result.name} ({result.path})"
        if label in out:
            raise ConfigError(f"{result.path} is given twice")
        out[label] = result
    return out


def _same_tasks(results: Mapping[str, Result]) -> None:
    """A suite's name must mean the same tasks and verdicts in every run."""
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for label, result in results.items():
        for name, suite in result.config["suites"].items():
            where, other = first.setdefault(name, (label, suite))
            for key in ("first_task", "task_seed", "questions"):
                if key in other and key in suite and other[key] != suite[key]:
                    raise ConfigError(
                        f"{name} has other tasks in {label} than in {where} ({key}); they cannot be paired"
                    )
            for key, usual in (("metric", "default"), ("judge", "")):
                # A judge is its model; where that is served is noted only.
                verdicts = [str(s["options"].get(key, usual)).rpartition("#")[2] for s in (other, suite)]
                if verdicts[0] != verdicts[1]:
                    raise ConfigError(
                        f"{name} was judged by {verdicts[1]!r} in {label} and by {verdicts[0]!r} in {where}; "
                        "such scores do not compare: run one of them again as the other was judged"
                    )


#: Of a policy's record: how it was sampled. The rest says who played.
_SAMPLING = ("temperature", "top_p", "top_k", "max_turn_tokens", "max_tokens", "layout")


def differing(results: Mapping[str, Result]) -> list[str]:
    """A sentence for each setting in which a run differs from the first one; a difference may be its doing."""
    found: dict[str, list[str]] = {}  # what differs -> in which suites; none: in the policy
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for label, result in results.items():
        policy = {key: value for key, value in result.config["policy"].items() if key in _SAMPLING}
        if policy:  # scripts and experts are not sampled
            where, other = first.setdefault("", (label, policy))
            for what in _differences(where, other, label, policy):
                found.setdefault(what, [])
        for name, suite in result.config["suites"].items():
            options = {"samples": suite["samples"], **suite["options"]}
            where, other = first.setdefault(name, (label, options))
            for what in _differences(where, other, label, options):
                found.setdefault(what, []).append(name)
    return [f"{', '.join(suites) + ': ' if suites else ''}{what}." for what, suites in found.items()]


def _differences(where: str, other: Mapping[str, Any], label: str, own: Mapping[str, Any]) -> list[str]:
    keys = [key for key in dict.fromkeys([*other, *own]) if other.get(key) != own.get(key)]
    return [
        f"{key} is " + ", ".join(f"{side.get(key, 'not set')} in {run}" for run, side in ((where, other), (label, own)))
        for key in keys
    ]


def unfinished(results: Mapping[str, Result]) -> list[str]:
    """A sentence for each cell that stands on less than its run was to make."""
    out = []
    for label, result in results.items():
        for name, one in result.scores.items():
            planned = asked(result.config["suites"][name])
            if one.scored < planned:
                out.append(
                    f"{label}, {name}: scored {one.scored} of {planned} planned samples, {one.void} void; what is "
                    "missing may be the harder part."
                )
    return out


def _rich(drawn: Drawn) -> Table:
    table = Table(title=drawn.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, title in enumerate(drawn.columns):
        table.add_column(title, justify="left" if i == 0 else "right", overflow="fold")
    wide = len(drawn.columns) > 6  # intervals then stand below their values
    for row, ours in zip(drawn.rows, drawn.ours, strict=True):
        cells = [row[0], *(c.replace(" (", "\n(") if wide else c for c in row[1:])]
        table.add_row(*map(escape, cells), style="bold" if ours else None)
    return table


def _markdown(tables: Sequence[Drawn], notes: Sequence[str]) -> str:
    parts = []
    for table in tables:
        rows = [
            [f"**{row[0]}**" if ours and row[0] else row[0], *row[1:]]
            for row, ours in zip(table.rows, table.ours, strict=True)
        ]
        parts += [f"## {table.title}", markdown_table(table.columns, rows), *table.notes]
    return "\n\n".join([*parts, *notes]) + "\n"


def _json(
    results: Mapping[str, Result], tables: Sequence[Drawn], tested: Sequence[Difference], said: Sequence[str]
) -> str:
    record = {
        "runs": {
            label: {name: None if s.pass_1 is None else asdict(s.pass_1) for name, s in r.scores.items()}
            for label, r in results.items()
        },
        "differences": [asdict(d) for d in tested],
        "tables": [{"title": t.title, "columns": t.columns, "rows": t.rows} for t in tables],
        "notes": list(said),
    }
    return json.dumps(record, indent=1, ensure_ascii=False)
