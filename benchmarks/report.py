"""A run folder -> its scores -> Markdown, JSON, a terminal table. The HTML page is ``page.py``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from arpo_algo.errors import ConfigError
from arpo_algo.runfolder import write_atomic
from benchmarks.scores import Estimate, Price, SuiteScore, average, score
from benchmarks.store import Sample, read_config, read_samples


@dataclass(frozen=True, slots=True)
class Result:
    """A run folder, read. ``samples``: one row a key, the last one written, in order of suite, task and number."""

    path: Path
    config: Mapping[str, Any]
    scores: Mapping[str, SuiteScore]
    samples: Sequence[Sample]

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def k(self) -> int:
        return max((s.k for s in self.scores.values()), default=1)


def load(path: Path) -> Result:
    """Read a run folder, finished or not.

    Raises:
        ConfigError: no such folder, no benchmark run in it, or a broken row.
    """
    if not path.is_dir():
        raise ConfigError(f"run folder {str(path)!r} is not there")
    config = read_config(path)
    if config is None:
        raise ConfigError(f"{path} holds no benchmark run (no config.json)")
    order = {name: i for i, name in enumerate(config["suites"])}
    last = {sample.key: sample for sample in read_samples(path)}
    # By the length of the id first: task 9 comes before task 10.
    known = sorted(
        (s for s in last.values() if s.suite in order), key=lambda s: (order[s.suite], len(s.task), s.task, s.sample)
    )
    price = Price(**config["price"]) if config.get("price") else None
    scores = {}
    for name, suite in config["suites"].items():
        mine = [s for s in known if s.suite == name]
        scores[name] = score(name, mine, planned=suite["tasks"], k=suite["samples"], price=price)
    return Result(path, config, scores, known)


def write_reports(result: Result) -> list[Path]:
    """Write ``report.md``, ``report.json`` and ``report.html`` into the folder, each whole or not at all."""
    from benchmarks.page import build_html

    out = []
    for name, text in (
        ("report.md", markdown(result)),
        ("report.json", json.dumps(to_json(result), indent=1, ensure_ascii=False, allow_nan=False)),
        ("report.html", build_html(result)),
    ):
        write_atomic(result.path / name, text.encode("utf-8", "backslashreplace"))
        out.append(result.path / name)
    return out


def to_json(result: Result) -> dict[str, Any]:
    """All scores with intervals, averages, and the mean of every task."""
    return {
        "run": dict(result.config),
        "suites": {name: one.to_json() for name, one in result.scores.items()},
        "averages": {label: _plain(estimate) for label, estimate in averages(result)},
    }


def _plain(estimate: Estimate | None) -> dict[str, float] | None:
    if estimate is None:
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def averages(result: Result) -> list[tuple[str, Estimate | None]]:
    """pass@1 averaged over the suites of each domain with more than one, and over all."""
    domains: dict[str, list[Estimate | None]] = {}
    for name, one in result.scores.items():
        domains.setdefault(result.config["suites"][name]["domain"], []).append(one.pass_1)
    out = [(f"average, {domain}", average(of)) for domain, of in domains.items() if len(of) > 1]
    if len(domains) > 1:
        out.append(("average, all suites", average(e for of in domains.values() for e in of)))
    return out


# ---------------------------------------------------------------------- cells

#: (title, what it shows of a suite); a column that is empty everywhere is left out.
Column = tuple[str, Callable[[SuiteScore], str]]


def columns(k: int) -> list[Column]:
    """``k``: samples a task, the most that any suite has; a suite with fewer leaves pass@k empty."""
    found: list[Column] = [
        ("tasks", _tasks),
        ("pass@1 (95 % CI)", lambda s: share(s.pass_1)),
    ]
    if k > 1:
        found += [
            (f"pass@{k}", lambda s: _of(s, s.pass_at.get(k))),
            (f"pass^{k}", lambda s: _of(s, s.pass_hat.get(k))),
            (f"maj@{k}", lambda s: _of(s, s.majority) if s.k == k else ""),
        ]
    return [
        *found,
        ("mean score", _partial),
        ("tool calls", lambda s: mean(s.means.get("tool_calls"), 2)),
        ("prompt tokens", lambda s: mean(s.means.get("prompt_tokens"), 0)),
        ("new tokens", lambda s: mean(s.means.get("completion_tokens"), 0)),
        ("seconds", lambda s: mean(s.means.get("seconds"), 2)),
        ("cost of scored", lambda s: "" if s.cost is None else f"${s.cost:.4f}"),
        ("void", lambda s: str(s.void or "")),
    ]


def _tasks(s: SuiteScore) -> str:
    done = len(s.task_means)
    return f"{done:,}" if done == s.planned else f"{done:,} of {s.planned:,}"


def _of(s: SuiteScore, e: Estimate | None) -> str:
    """A share with the number of tasks behind it, where that is not the one of the tasks column."""
    return share(e) if e is None or e.n == len(s.task_means) else f"{share(e)}, n={e.n}"


def _partial(s: SuiteScore) -> str:
    """The mean of the verifier's scores, where it gives partial credit (F1)."""
    found = s.means.get("score")
    if found is None or s.pass_1 is None or abs(found.value - s.pass_1.value) < 1e-9:
        return ""
    return f"{100 * found.value:.1f}"


def share(e: Estimate | None) -> str:
    """``43.2 (38.0–48.5)``, in percent."""
    return "" if e is None else f"{100 * e.value:.1f} ({100 * e.low:.1f}–{100 * e.high:.1f})"


def mean(e: Estimate | None, digits: int) -> str:
    return "" if e is None else f"{e.value:,.{digits}f}"


def cells(result: Result) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the main table, averages at the end."""
    wanted = columns(result.k)
    rows = [[name, *(show(one) for _, show in wanted)] for name, one in result.scores.items()]
    keep = [0, *(i for i in range(1, len(wanted) + 1) if any(row[i] for row in rows))]
    titles = ["suite", *(title for title, _ in wanted)]
    at = titles.index("pass@1 (95 % CI)")
    for label, estimate in averages(result):
        rows.append([share(estimate) if i == at else label if i == 0 else "" for i in range(len(titles))])
    return [titles[i] for i in keep], [[row[i] for i in keep] for row in rows]


def print_table(result: Result, console: Console) -> None:
    titles, rows = cells(result)
    table = Table(title=result.name, title_justify="left")
    for i, title in enumerate(titles):
        table.add_column(title, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="bold" if row[0].startswith("average") else None)
    console.print(table)


# ---------------------------------------------------------------------- Markdown


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (len(titles) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)])


def markdown(result: Result) -> str:
    parts = [f"# {result.name}", markdown_table(*cells(result)), *(f"* {note}" for note in notes(result))]
    parts.append("## How the episodes ended")
    rows = []
    for name, one in result.scores.items():
        total = max(1, one.scored)
        ends = ", ".join(f"{reason} {n / total:.0%}" for reason, n in one.stop_reasons.items())
        rows.append([name, ends, mean(one.means.get("tool_errors"), 2), mean(one.means.get("format_errors"), 3)])
    parts.append(markdown_table(["suite", "ended", "failed tool calls", "bad format (share)"], rows))
    return "\n\n".join(parts).replace("\n\n* ", "\n* ").replace("|\n* ", "|\n\n* ") + "\n"


#: What a cost is of.
COST = (
    "Cost of the scored episodes, each by its last attempt: attempts that failed, void samples and what a judge was "
    "asked are not in it, so a bill can be higher."
)


def notes(result: Result) -> list[str]:
    """What a reader has to know about the numbers."""
    config = result.config
    out = [
        f"Policy `{config['name']}`, seed {config['seed']}, {result.k} sample{'s' if result.k > 1 else ''} a task; "
        f"{_sampling(config['policy'])}begun {config['started']}.",
        "Scores in percent. Intervals are 95 %, over tasks (samples of one task count together): Wilson's with an "
        "effective number of tasks. Means are of one episode.",
    ]
    if result.k > 1:
        out.append(
            "pass@k: at least one of k samples is right, pass^k: all are (unbiased estimates); maj@k: the commonest "
            "answer is right, answers counted as one when the task's verifier takes one for the other, ties shared, "
            "no answer no vote. Programs have no maj@k."
        )
    part = [n for n, s in config["suites"].items() if s["size"] and s["tasks"] < s["size"]]
    if part:
        shares = ", ".join(f"{n} ({config['suites'][n]['tasks']} of {config['suites'][n]['size']})" for n in part)
        out.append(f"Not the whole published set: {shares}.")
    for where in sorted({str(s["options"]["search"]) for s in config["suites"].values() if "search" in s["options"]}):
        out.append(f"Search over `{where}`.")
    if any(s["options"].get("tools") == ["python"] for s in config["suites"].values()):
        out.append("Suites that are meant for search were answered without it.")
    for judge in sorted({str(s["options"]["judge"]) for s in config["suites"].values() if "judge" in s["options"]}):
        out.append(f"Judged by the language model `{judge}`.")
    if config.get("price"):
        out.append(COST)
    retried = sum(s.retried for s in result.scores.values())
    if retried:
        out.append(f"{retried} samples needed more than one attempt, because infrastructure failed.")
    left_out = {n: why for n, why in config.get("missing", {}).items() if n not in result.scores}
    return out + [f"Without {name}: {reason}" for name, reason in left_out.items()]


def _sampling(policy: Mapping[str, Any]) -> str:
    if "temperature" not in policy:
        return ""
    return f"temperature {policy['temperature']}, top-p {policy['top_p']}, top-k {policy['top_k'] or 'off'}; "
