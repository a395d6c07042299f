"""Finite families over files: reading, broken rows, duplicates, overlap with evaluation, order. No field is known here.

A file is read once, when the family is made, so that a broken row stops a run before it begins and not in the middle.
``index`` walks a permutation of the rows drawn from the seed, so that every seed visits every row once.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from arpo_env.errors import ConfigError, unknown
from arpo_env.rows import SUFFIXES, Broken, read_rows, suffix
from arpo_env.tasks.base import SPLITS, Task, TaskFamily
from arpo_env.tasks.overlap import Overlap, OverlapIndex, tokens

#: What a file's stem says about its split.
_STEMS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
          "test": "test"}  # fmt: skip
_EVALUATED_FIRST = ("test", "validation", "train")


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """One row that cannot be a task. ``row`` counts from 1 (the line of a JSONL file)."""

    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.reason}"


@dataclass(frozen=True, slots=True)
class OverlapRow:
    """One row whose question stands in an evaluation set."""

    file: str
    row: int
    overlap: Overlap

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.overlap}"


@dataclass(slots=True)
class LoadReport:
    """What reading found. ``rows`` = ``kept`` + ``len(broken)`` + ``duplicates`` + ``left_out`` + overlaps dropped.

    ``left_out``: rows that ``where`` did not ask for. ``repaired``: by kind. ``compared``: the evaluation sets the
    questions were held against.
    """

    rows: int = 0
    kept: int = 0
    duplicates: int = 0
    left_out: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    broken: list[BrokenRow] = field(default_factory=list)
    compared: tuple[str, ...] = ()
    overlaps: list[OverlapRow] = field(default_factory=list)

    def __str__(self) -> str:
        repaired = ", ".join(f"{count} {kind}" for kind, count in sorted(self.repaired.items())) or "nothing"
        text = (
            f"{self.rows} rows: {self.kept} kept, {len(self.broken)} broken, {self.duplicates} duplicate questions"
            f"{f', {self.left_out} left out' if self.left_out else ''}; repaired: {repaired}"
        )
        if self.compared:
            text += f"; {len(self.overlaps)} stand in an evaluation set (of {', '.join(self.compared)})"
        return text


@dataclass(frozen=True, slots=True)
class Question:
    """What a row gives: the task's question, answer and ``meta``."""

    question: str
    answer: str
    meta: Mapping[str, Any]


class FileFamily(TaskFamily):
    """Base of the families over rows; a subclass reads a row (:meth:`_read_row`) and judges.

    Args:
        path: a file or a list of files (their rows are ``split``, whatever their names), or a folder of files named
            after their splits (``train``, ``validation``/``valid``/``val``/``dev``, ``test``). ``.jsonl``,
            ``.jsonl.gz``, ``.parquet`` or ``.csv``.
        name: first part of the task ids.
        tools: tags of the tools the environment offers.
        split: the split of single files.
        on_broken: ``error`` (default) or ``skip``; skipped rows are counted in :attr:`report`.
        drop_duplicates: keep the first of several rows of a split with one question, compared by ``overlap.tokens``.
        evaluation: questions that must not be here. A folder's own splits are held against each other all the same:
            training against validation and test, validation against test.
        on_overlap: what to do about rows that stand there: ``error`` (default), ``drop`` or ``keep``; all are counted.

    Attributes:
        report: a :class:`LoadReport`.
        provenance: where the rows are from, for records.

    Raises:
        ConfigError: nothing at ``path``, no rows, an unknown option value, broken rows or rows of an evaluation set
            (file, row and reason of the first ones, and how many there are).
    """

    def __init__(
        self,
        path: str | Path | Sequence[Path],
        *,
        name: str,
        tools: Sequence[str],
        split: str,
        on_broken: Literal["error", "skip"] = "error",
        drop_duplicates: bool = False,
        evaluation: OverlapIndex | None = None,
        on_overlap: Literal["error", "drop", "keep"] = "error",
    ) -> None:
        if not name:
            raise ConfigError("name is empty; it is the first part of every task id")
        if isinstance(tools, str):
            raise ConfigError(f"tools must be a sequence of tool names, got the string {tools!r}")
        if on_broken not in ("error", "skip"):
            raise unknown("on_broken", on_broken, ("error", "skip"))
        if on_overlap not in ("error", "drop", "keep"):
            raise unknown("on_overlap", on_overlap, ("error", "drop", "keep"))
        self.name = name
        self.tools = tuple(tools)
        self.path = Path(path) if isinstance(path, str | Path) else [Path(one) for one in path]
        self.provenance = self._shown
        self.report = LoadReport(compared=() if evaluation is None else evaluation.suites)
        self._drop_duplicates = drop_duplicates
        self._forbidden = [] if evaluation is None else [evaluation]
        self._drop_overlaps = on_overlap == "drop"
        self._tasks: dict[str, tuple[Question, ...]] = {}
        files = _files(self.path, split)
        for part in sorted(files, key=_EVALUATED_FIRST.index):
            self._tasks[part] = self._read(files[part])
            if len(self._tasks) < len(files):  # what is read next must not hold it
                own = f"its own split {part}"
                self._forbidden.append(OverlapIndex((own, row.question) for row in self._tasks[part]))
                self.report.compared += (own,)
        if self.report.broken and on_broken == "error":
            raise self._refused(
                self.report.broken, "are broken", "Mend them, or pass on_broken='skip' to go on without them"
            )
        if self.report.overlaps and on_overlap == "error":
            raise self._refused(
                self.report.overlaps,
                "stand in an evaluation set",
                "Pass on_overlap='drop' to go on without them, or on_overlap='keep' to keep them all the same",
            )
        if not self.report.kept:
            raise ConfigError(f"{self._shown} holds no usable row ({self.report})")
        self._order = lru_cache(maxsize=8)(self._permutation)

    @abstractmethod
    def _read_row(self, row: Mapping[str, Any]) -> Question | None:
        """What a row gives; None when it is not wanted.

        Raises:
            Broken: it cannot be a task.
        """

    def task(self, seed: int, split: str, index: int) -> Task:
        rows = self._split(split)
        if seed < 0 or not 0 <= index < len(rows):
            raise ConfigError(
                f"seed must be >= 0 and index in [0, {len(rows)}) for split {split!r} of {self.name!r}, "
                f"got seed={seed}, index={index}"
            )
        row = rows[int(self._order(seed, split)[index])]
        return Task(f"{self.name}/{split}/{seed}/{index}", row.question, row.answer, dict(row.meta))

    def size(self, split: str) -> int | None:
        """Rows kept for ``split``.

        Raises:
            ConfigError: an unknown split, or one without a file.
        """
        return len(self._split(split))

    def questions(self, split: str) -> list[str]:
        """The questions of ``split``, in the order of the file."""
        return [row.question for row in self._split(split)]

    # ------------------------------------------------------------------ inside

    @property
    def _shown(self) -> str:
        return str(self.path) if isinstance(self.path, Path) else ", ".join(map(str, self.path))

    def _refused(self, rows: Sequence[object], what: str, fix: str) -> ConfigError:
        shown = "\n  ".join(map(str, rows[:5]))
        return ConfigError(f"{len(rows)} of {self.report.rows} rows of {self._shown} {what}:\n  {shown}\n{fix}.")

    def _split(self, split: str) -> tuple[Question, ...]:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if split not in self._tasks:
            raise ConfigError(f"{self.name!r} has no split {split!r}; {self._shown} gives: {', '.join(self._tasks)}")
        return self._tasks[split]

    def _permutation(self, seed: int, split: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        # Two key words where task_rng has three, so this stream meets no task's.
        key = (zlib.crc32(self.name.encode()), SPLITS[split])
        rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=key))
        return rng.permutation(len(self._tasks[split]))

    def _read(self, files: Sequence[Path]) -> tuple[Question, ...]:
        rows: list[Question] = []
        seen: set[tuple[str, ...]] = set()
        for file in files:
            for number, row in read_rows(file):
                self.report.rows += 1
                try:
                    made = self._made(row)
                except Broken as broken:
                    self.report.broken.append(BrokenRow(str(file), number, str(broken)))
                    continue
                if made is None:
                    self.report.left_out += 1
                    continue
                # Not by the normaliser of answers: to it "12 + 30" and "12 * 30" are one.
                key = (tuple(tokens(made.question)) or (made.question,)) if self._drop_duplicates else None
                if key in seen:
                    self.report.duplicates += 1
                    continue
                found = next(filter(None, (index.find(made.question) for index in self._forbidden)), None)
                if found is not None:
                    self.report.overlaps.append(OverlapRow(str(file), number, found))
                    if self._drop_overlaps:
                        continue
                if key is not None:
                    seen.add(key)
                rows.append(Question(made.question, made.answer, {**made.meta, "file": file.name, "row": number}))
        self.report.kept += len(rows)
        return tuple(rows)

    def _made(self, row: Any) -> Question | None:
        if isinstance(row, Broken):
            raise row
        if not isinstance(row, dict):
            raise Broken(f"expected an object, got {type(row).__name__}")
        return self._read_row(row)


def _files(path: Path | Sequence[Path], split: str) -> dict[str, list[Path]]:
    """Split -> its files."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if not isinstance(path, Path) or path.is_file():
        files = [path] if isinstance(path, Path) else list(path)
        for file in files:
            if suffix(file) is None:
                raise ConfigError(f"{file} must end in {', '.join(SUFFIXES)}")
        return {split: files}
    if not path.is_dir():
        raise ConfigError(f"no file or folder at {path}")
    found: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        end = suffix(file)
        if end is not None and (stem := file.name.removesuffix(end)) in _STEMS:
            found.setdefault(_STEMS[stem], []).append(file)
    if not found:
        raise ConfigError(f"{path} holds no file named after a split, such as train.jsonl or test.parquet")
    return found
