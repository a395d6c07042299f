"""A run folder as plain data: the one place that knows file names and row formats.

Every file may be missing or still growing, since the trainer may be writing it while we read:

* the last line of a JSONL file, if it has no line end and does not parse, is being written: it is ignored;
* a gzip stream that stops early gives the whole lines it holds.

Anything else that is broken raises :class:`RunFolderError`, which names the file and the line.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from arpo_algo.tree import Tree

TreeKind = Literal["train", "eval", "other"]


class RunFolderError(ValueError):
    """A file of the run folder cannot be read; the message names the file, the line and what was expected."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """``config.json``. ``raw`` is the whole file."""

    config: dict[str, Any]
    seed: int | None
    versions: dict[str, Any]
    machine: Any
    started: str | None
    algorithm: str | None
    env_id: str | None
    raw: dict[str, Any]

    def find(self, *names: str) -> Any:
        """The first value under one of ``names`` anywhere in the configuration, outermost first; else None."""
        for name in names:
            level: list[dict[str, Any]] = [self.raw, self.config]
            while level:
                for at in level:
                    if at.get(name) is not None:
                        return at[name]
                level = [v for at in level if at is not self.raw for v in at.values() if isinstance(v, dict)]
        return None


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One line of ``metrics.jsonl``. ``values`` may hold non-finite numbers; null values are left out."""

    phase: str
    step: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One line of ``eval.jsonl``: success on ``n`` held-out tasks with its 95 % interval."""

    name: str
    step: int
    n: int
    success: float
    success_low: float
    success_high: float
    values: dict[str, float] = field(default_factory=dict)  # reward, tool_calls, format_errors, tokens, seconds, …


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file of rollout trees, one a line, not yet read."""

    path: Path
    name: str
    kind: TreeKind
    step: int | None

    def read(self, limit: int | None = None) -> tuple[list[Tree], int]:
        """The first ``limit`` trees, and how many the file holds.

        Raises:
            RunFolderError: a line is no tree, or the file is no gzip file.
        """
        trees: list[Tree] = []
        total = 0
        for number, line, complete in _gzip_lines(self.path):
            if limit is not None and len(trees) >= limit:
                total += complete
                continue
            row = _json_object(self.path, number, line, complete)
            if row is None:
                continue
            try:
                trees.append(Tree.from_json(row))
            except (KeyError, TypeError, ValueError) as error:
                raise RunFolderError(f"{self.path}, line {number}: not a rollout tree ({error})") from error
            total += 1
        return trees, total


@dataclass(frozen=True, slots=True)
class RunData:
    """A run folder. ``config`` is None when there is no ``config.json`` yet."""

    path: Path
    config: RunConfig | None
    metrics: tuple[MetricRow, ...]
    evals: tuple[EvalRow, ...]
    tree_files: tuple[TreeFile, ...]

    @property
    def probe_tokens(self) -> int | None:
        """Tokens that a fork probe averages over; None where the configuration names no such number."""
        k = self.config.find("k", "probe_tokens") if self.config else None
        return k if isinstance(k, int) and k > 0 else None

    def phase(self, name: str) -> list[MetricRow]:
        return [row for row in self.metrics if row.phase == name]

    def trees_of(self, kind: TreeKind) -> list[TreeFile]:
        return [f for f in self.tree_files if f.kind == kind]


def read_run(run: Path) -> RunData:
    """Read a run folder (trees are only listed; :meth:`TreeFile.read` reads them).

    Raises:
        RunFolderError: no such folder, or a broken file.
    """
    run = Path(run)
    if not run.is_dir():
        raise RunFolderError(f"{run} is not a folder; give the folder of a run (it holds config.json, metrics.jsonl …)")
    return RunData(run, _read_config(run / "config.json"), _read_metrics(run), _read_evals(run), _list_trees(run))


def _read_config(path: Path) -> RunConfig | None:
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    if not isinstance(raw, dict):
        raise RunFolderError(f"{path}, line 1: expected a JSON object, got {type(raw).__name__}")
    for name in ("config", "versions"):
        if not isinstance(raw.get(name, {}), dict):
            raise RunFolderError(f"{path}: {name!r} must be an object, got {raw[name]!r}")
    text = {k: None if raw.get(k) is None else str(raw[k]) for k in ("started", "algorithm", "env_id")}
    return RunConfig(
        raw.get("config", {}), raw.get("seed"), raw.get("versions", {}), raw.get("machine"), raw=raw, **text
    )


def _read_metrics(run: Path) -> tuple[MetricRow, ...]:
    path, out = run / "metrics.jsonl", []
    for number, row in _rows(path):
        phase = _take(path, number, row, "phase", str)
        step = _take(path, number, row, "step", int)
        out.append(MetricRow(phase, step, _numbers(path, number, row)))
    return tuple(out)


def _read_evals(run: Path) -> tuple[EvalRow, ...]:
    path, out = run / "eval.jsonl", []
    for number, row in _rows(path):
        name = _take(path, number, row, "name", str)
        step, n = (_take(path, number, row, key, int) for key in ("step", "n"))
        values = _numbers(path, number, row)
        missing = [key for key in ("success", "success_low", "success_high") if key not in values]
        if missing:
            raise RunFolderError(f"{path}, line {number}: {missing[0]!r} is missing")
        low, high = values.pop("success_low"), values.pop("success_high")
        success = values.pop("success")
        slack = 1e-9  # closed forms may miss 0 or 1 by a rounding error
        if not -slack <= low <= success + slack <= high + 2 * slack <= 1.0 + 3 * slack:
            raise RunFolderError(
                f"{path}, line {number}: need 0 <= success_low <= success <= success_high <= 1, "
                f"got {low}, {success}, {high}"
            )
        out.append(EvalRow(name, step, n, success, min(max(low, 0.0), success), max(min(high, 1.0), success), values))
    return tuple(out)


_TRAIN, _EVAL = re.compile(r"train-(\d+)"), re.compile(r"eval-(.+)")


def _list_trees(run: Path) -> tuple[TreeFile, ...]:
    """Training files by step, then the others by name."""
    out = []
    for path in (run / "trees").glob("*.jsonl.gz"):
        name = path.name.removesuffix(".jsonl.gz")
        train, evaluation = _TRAIN.fullmatch(name), _EVAL.fullmatch(name)
        kind: TreeKind = "train" if train else "eval" if evaluation else "other"
        out.append(TreeFile(path, name, kind, int(train[1]) if train else None))
    order = {"train": 0, "eval": 1, "other": 2}
    return tuple(sorted(out, key=lambda f: (order[f.kind], f.step or 0, f.name)))


# ---------------------------------------------------------------------- lines


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their line numbers; nothing when there is no file."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = _json_object(path, number, line, line.endswith(b"\n"))
            if row is not None:
                yield number, row


def _gzip_lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """(number, line, complete) of a gzip file that may still be growing."""
    if path.stat().st_size < 18:  # less than an empty gzip file: the header is being written
        return
    number, rest = 0, b""
    try:
        with gzip.open(path, "rb") as file:
            while chunk := file.read1(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    number += 1
                    yield number, line, True
    except EOFError:  # cut: the writer has not closed it yet
        pass
    except (gzip.BadGzipFile, zlib.error) as error:
        raise RunFolderError(f"{path}, after line {number}: not a gzip file ({error})") from error
    if rest:
        yield number + 1, rest, False


def _json_object(path: Path, number: int, line: bytes, complete: bool) -> dict[str, Any] | None:
    """The object of a line; None for a blank line and for a last one that is still being written."""
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        if not complete:
            return None
        raise RunFolderError(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(row, dict):
        if not complete:
            return None
        raise RunFolderError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}")
    return row


def _take(path: Path, number: int, row: dict[str, Any], key: str, kind: type) -> Any:
    """Remove and return a required field."""
    if key not in row:
        raise RunFolderError(f"{path}, line {number}: {key!r} is missing")
    value = row.pop(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise RunFolderError(f"{path}, line {number}: {key!r} must be {kind.__name__}, got {value!r}")
    return value


def _numbers(path: Path, number: int, row: dict[str, Any]) -> dict[str, float]:
    """The remaining fields, which must be numbers; nulls are left out. What ``nonfinite`` names is not a number."""
    out = {}
    named = row.pop("nonfinite", [])
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise RunFolderError(f"{path}, line {number}: 'nonfinite' must be a list of names, got {named!r}")
    for key, value in (row | dict.fromkeys(named, math.nan)).items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RunFolderError(f"{path}, line {number}: {key!r} must be a number, got {value!r}")
        out[key] = float(value)
    return out
