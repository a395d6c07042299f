"""``build_report``: a run folder -> ONE self-contained HTML file that opens anywhere, offline, years later."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from arpo_algo.report import trees
from arpo_algo.report.data import RunData, read_run
from arpo_algo.report.document import asset, document
from arpo_algo.report.page_curves import curves
from arpo_algo.report.page_entropy import entropy
from arpo_algo.report.page_results import results
from arpo_algo.report.page_trees import viewer
from arpo_algo.runfolder import write_atomic


def build_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run, finished or not; returns its path (``<run>/report.html`` if ``out`` is None).

    The file appears whole or not at all.

    Raises:
        RunFolderError: no such folder, or a broken file in it.
    """
    run = Path(run)
    page = build_html(run).encode("utf-8", "backslashreplace")
    out = run / "report.html" if out is None else Path(out)
    write_atomic(out, page)
    return out


def build_html(run: Path, *, live: str | None = None) -> str:
    """The page as text. ``live``: the version that a page served by :mod:`~arpo_algo.report.serve` compares with."""
    data = read_run(run)
    k = data.probe_tokens
    loaded = trees.load(data)
    forest = trees.forest(data, loaded, k)
    sections = [
        results(data),
        curves(data),
        entropy(loaded, k),
        viewer(forest),
        _configuration(data),
    ]
    return document(
        f"ARPO run {data.path.resolve().name}",
        facts=_header(data),
        sections=sections,
        payload=forest.payload,
        script=asset("page.js"),
        live=live,
    )


# ---------------------------------------------------------------------- header


def _header(data: RunData) -> list[tuple[str, str]]:
    config = data.config
    train, sft = data.phase("train"), data.phase("sft")
    facts: list[tuple[str, str]] = []
    if config is not None:
        facts += [
            ("algorithm", config.algorithm or "not named"),
            ("environment", config.env_id or "not named"),
            ("model", _words(config.find("model", "model_name", "model_path") or "not named")),
            ("seed", "not named" if config.seed is None else str(config.seed)),
            ("machine", _words(config.find("machine") or "not named")),
        ]
        if config.started:
            facts.append(("started", config.started))
    else:
        facts.append(("configuration", "config.json is not there yet"))
    steps = []
    for name, rows in (("cold start", sft), ("training", train)):
        if rows:
            steps.append(f"{len(rows):,} {name} step{'s' if len(rows) != 1 else ''}")
    facts.append(("steps so far", ", ".join(steps) or "none"))
    return facts


def _words(value: Any) -> str:
    """A configuration value in one line; of a model's table, its name."""
    if isinstance(value, dict):
        for key in ("name", "id", "path"):
            if isinstance(value.get(key), str):
                return str(value[key])
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return str(value)


def _configuration(data: RunData) -> str:
    if data.config is None:
        return ""
    text = json.dumps(data.config.raw, indent=2, ensure_ascii=False, default=str)
    versions = ", ".join(f"{name} {version}" for name, version in data.config.versions.items())
    return (
        '<section id="configuration"><h2>Configuration</h2>'
        + (f'<p class="muted">{escape(versions)}</p>' if versions else "")
        + f'<details><summary>config.json</summary><pre class="config">{escape(text)}</pre></details></section>'
    )
