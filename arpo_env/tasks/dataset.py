r"""Families over files: JSONL and Parquet, with declared fields, named verifiers, and faults counted.

A file is read once, when the family is made, so that a broken row stops a run before it begins and not in
the middle. What is certainly damaged LaTeX is repaired and counted: the published training sets were written
with ``"\boxed"`` in a plain Python string, which turned ``\b`` into a backspace and ``\f`` into a form feed
in all 11,454 prompts. What is not certain is a broken row.

``index`` walks a permutation of the rows drawn from the seed, so that every seed visits every row once.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from arpo_env.errors import ConfigError, unknown
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.qa import normalise
from arpo_env.rewards.verifiers import get_verifier
from arpo_env.tasks.base import SPLITS, Expert, Task, TaskFamily

#: What a file's stem says about its split.
_STEMS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
          "test": "test"}  # fmt: skip
_SUFFIXES = (".jsonl", ".parquet")
#: Control characters that Python makes of a backslash and a letter, and commands that begin with that letter.
_ESCAPES = {"\x07": "a", "\x08": "b", "\x0b": "v", "\x0c": "f"}
_COMMANDS = {
    "a": "alpha|angle|approx|arccos|arcsin|arctan|ast|array",
    "b": "boxed|beta|bar|begin|binom|bmod|big|Big|bigl|bigr|bullet|boldsymbol|backslash|bot",
    "v": "vec|vert|varphi|vdots|varepsilon|vee|varnothing",
    "f": "frac|forall|footnotesize|flat",
}
_DAMAGED = re.compile(
    "|".join(rf"{char}(?=(?:{'|'.join(c[1:] for c in _COMMANDS[letter].split('|'))})(?![a-zA-Z]))"
             for char, letter in _ESCAPES.items())
)  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\ufffd")
_HASHES = re.compile(r"####\s*(.+?)\s*$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """One row that cannot be a task. ``row`` counts from 1 (the line of a JSONL file)."""

    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.reason}"


@dataclass(slots=True)
class LoadReport:
    """What reading found: ``rows`` = ``kept`` + ``len(broken)`` + ``duplicates``; ``repaired`` by kind."""

    rows: int = 0
    kept: int = 0
    duplicates: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    broken: list[BrokenRow] = field(default_factory=list)

    def __str__(self) -> str:
        repaired = ", ".join(f"{count} {kind}" for kind, count in sorted(self.repaired.items())) or "nothing"
        return (
            f"{self.rows} rows: {self.kept} kept, {len(self.broken)} broken, {self.duplicates} duplicate questions; "
            f"repaired: {repaired}"
        )


@dataclass(frozen=True, slots=True)
class _Row:
    file: str
    row: int
    question: str
    golds: tuple[str, ...]
    verifier: str


class _Broken(Exception):
    """Why a row is broken."""


class DatasetFamily(TaskFamily):
    r"""Tasks from a JSONL or Parquet file, or a folder of them.

    Args:
        path: a file (its rows are ``split``, whatever its name), or a folder of files named after their splits
            (``train``, ``validation``/``valid``/``val``/``dev``, ``test``; ``.jsonl`` or ``.parquet``).
        name: first part of the task ids.
        question: field of the question. Dots reach inside (``extra_info.question``); a chat (a list of
            ``{role, content}``) gives its last user message.
        answer: field of the answer: text, a number, or a non-empty list of accepted texts.
        verifier: a name of :data:`arpo_env.rewards.verifiers.VERIFIERS` (``math``, ``qa``, ``choice`` …), or a
            mapping from the values of ``verifier_field`` to such names, for files of mixed kinds.
        verifier_field: the field that says a row's kind; a missing or null one is the key ``""``.
        answer_style: ``plain``, or ``hashes`` for GSM8K's "reasoning #### 42".
        tools: tags of the tools the environment offers.
        split: the split of a single file.
        on_broken: ``error`` (default) or ``skip``; skipped rows are counted in :attr:`report`.
        repair: mend control characters that stand for ``\b``, ``\f``, ``\a``, ``\v`` of a LaTeX command.
        drop_duplicates: keep the first of several rows of a split with the same (normalised) question.

    Attributes:
        report: a :class:`LoadReport`.

    Raises:
        ConfigError: nothing at ``path``, no rows, an unknown option value, or broken rows (file, row and reason
            of the first ones, and how many there are).
    """

    answer_format = "boxed"

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        question: str = "question",
        answer: str = "answer",
        verifier: str | Mapping[str, str] = "qa",
        verifier_field: str | None = None,
        answer_style: Literal["plain", "hashes"] = "plain",
        tools: Sequence[str] = ("search", "python"),
        split: str = "test",
        on_broken: Literal["error", "skip"] = "error",
        repair: bool = True,
        drop_duplicates: bool = False,
    ) -> None:
        if not name:
            raise ConfigError("name is empty; it is the first part of every task id")
        if isinstance(tools, str):
            raise ConfigError(f"tools must be a sequence of tool names, got the string {tools!r}")
        if answer_style not in ("plain", "hashes"):
            raise unknown("answer_style", answer_style, ("plain", "hashes"))
        if on_broken not in ("error", "skip"):
            raise unknown("on_broken", on_broken, ("error", "skip"))
        self.name = name
        self.tools = tuple(tools)
        self.path = Path(path)
        self.report = LoadReport()
        if isinstance(verifier, str) == (verifier_field is not None):
            raise ConfigError("verifier is a name, or a mapping together with verifier_field")
        self._kind_field = verifier_field
        self._kinds = {"": verifier} if isinstance(verifier, str) else dict(verifier)
        self._verifiers = {kind: get_verifier(kind) for kind in self._kinds.values()}
        self._question, self._answer, self._style = question, answer, answer_style
        self._repair, self._drop_duplicates = repair, drop_duplicates
        self._rows = {part: self._read(files) for part, files in _files(self.path, split).items()}
        if self.report.broken and on_broken == "error":
            shown = "\n  ".join(map(str, self.report.broken[:5]))
            raise ConfigError(
                f"{len(self.report.broken)} of {self.report.rows} rows of {self.path} are broken:\n  {shown}\n"
                "Mend them, or pass on_broken='skip' to go on without them."
            )
        if not self.report.kept:
            raise ConfigError(f"{self.path} holds no usable row ({self.report})")
        self._order = lru_cache(maxsize=8)(self._permutation)

    @classmethod
    def published_training(cls, path: str | Path, *, name: str, **options: Any) -> DatasetFamily:
        """The authors' training Parquet layout: faults counted and repaired or dropped, see :attr:`report`.

        Their ``ability`` says which verifier a row takes (null, in the deep-search set, is question answering).
        """
        defaults: dict[str, Any] = {
            "verifier": {"math": "math", "qa": "qa", "": "qa"},
            "verifier_field": "ability",
            "question": "prompt",
            "answer": "reward_model.ground_truth",
            "split": "train",
            "on_broken": "skip",
            "drop_duplicates": True,
        }
        return cls(path, name=name, **(defaults | options))

    def task(self, seed: int, split: str, index: int) -> Task:
        rows = self._split(split)
        if seed < 0 or not 0 <= index < len(rows):
            raise ConfigError(
                f"seed must be >= 0 and index in [0, {len(rows)}) for split {split!r} of {self.name!r}, "
                f"got seed={seed}, index={index}"
            )
        row = rows[int(self._order(seed, split)[index])]
        meta = {"golds": list(row.golds), "verifier": row.verifier, "file": row.file, "row": row.row}
        return Task(f"{self.name}/{split}/{seed}/{index}", row.question, row.golds[0], meta)

    def size(self, split: str) -> int | None:
        """Rows kept for ``split``.

        Raises:
            ConfigError: an unknown split, or one without a file.
        """
        return len(self._split(split))

    def verify(self, task: Task, answer: str) -> Verdict:
        return self._verifiers[task.meta["verifier"]](answer, task.meta["golds"])

    def expert(self, task: Task) -> Expert:
        raise ConfigError(f"{self.name!r} is read from a file: there is no scripted expert for its questions")

    def _split(self, split: str) -> tuple[_Row, ...]:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if split not in self._rows:
            raise ConfigError(f"{self.name!r} has no split {split!r}; {self.path} gives: {', '.join(self._rows)}")
        return self._rows[split]

    def _permutation(self, seed: int, split: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        # Two key words where task_rng has three, so this stream meets no task's.
        key = (zlib.crc32(self.name.encode()), SPLITS[split])
        rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=key))
        return rng.permutation(len(self._rows[split]))

    def _read(self, files: Sequence[Path]) -> tuple[_Row, ...]:
        rows: list[_Row] = []
        seen: set[str] = set()
        for file in files:
            for number, row in _parquet(file) if file.suffix == ".parquet" else _jsonl(file):
                self.report.rows += 1
                try:
                    if isinstance(row, _Broken):
                        raise row
                    question, golds = self._fields(row)
                    verifier = self._verifier_of(row)
                except _Broken as broken:
                    self.report.broken.append(BrokenRow(str(file), number, str(broken)))
                    continue
                if self._drop_duplicates:
                    key = normalise(question)
                    if key in seen:
                        self.report.duplicates += 1
                        continue
                    seen.add(key)
                rows.append(_Row(file.name, number, question, golds, verifier))
        self.report.kept += len(rows)
        return tuple(rows)

    def _fields(self, row: Any) -> tuple[str, tuple[str, ...]]:
        if not isinstance(row, dict):
            raise _Broken(f"expected an object, got {type(row).__name__}")
        asked = _reach(row, self._question)
        if isinstance(asked, list):
            # The system prompt is not used (ours stands in its place), but its damage is counted all the same.
            for message in asked:
                if isinstance(message, dict) and isinstance(message.get("content"), str):
                    self._mend(message["content"])
            asked = _last_user(asked, self._question)
            question = _DAMAGED.sub(_mended, asked) if self._repair else asked
        else:
            if not isinstance(asked, str):
                raise _Broken(f"field {self._question!r} must be text, got {type(asked).__name__}")
            question = self._mend(asked)
        if not question.strip():
            raise _Broken(f"field {self._question!r} is empty")
        golds = tuple(self._golds(_reach(row, self._answer)))
        for what, text in ((self._question, question), *((self._answer, gold) for gold in golds)):
            found = _CONTROL.search(text)
            if found:
                raise _Broken(f"field {what!r} holds the control character {found[0]!r}, which nothing explains")
        for gold in golds:
            if reason := _corrupt(gold):
                raise _Broken(f"field {self._answer!r} is corrupt: {reason}: {gold[:60]!r}")
        return question.strip(), golds

    def _verifier_of(self, row: Mapping[str, Any]) -> str:
        kind = ""
        if self._kind_field is not None:
            kind = str(row.get(self._kind_field) or "")
        if kind not in self._kinds:
            known = ", ".join(map(repr, self._kinds))
            raise _Broken(f"field {self._kind_field!r} is {kind!r}; a verifier is declared for: {known}")
        return self._kinds[kind]

    def _golds(self, value: Any) -> list[str]:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise _Broken(f"field {self._answer!r} is an empty list")
        golds = []
        for one in values:
            if isinstance(one, bool) or not isinstance(one, (str, int, float)):
                raise _Broken(f"field {self._answer!r} must be text, a number or a list, got {type(one).__name__}")
            # Mended before it is stripped: a leading form feed is white space to Python.
            text = self._mend(str(one)).strip()
            if self._style == "hashes":
                match = _HASHES.search(text)
                if match is None:
                    raise _Broken(f"field {self._answer!r} has no '#### answer' at its end")
                text = match[1]
            if not text:
                raise _Broken(f"field {self._answer!r} is empty")
            golds.append(text)
        return golds

    def _mend(self, text: str) -> str:
        if not self._repair:
            return text
        for found in _DAMAGED.finditer(text):
            command = re.match(r"[a-zA-Z]+", text[found.end() :])
            self.report.repaired[f"\\{_ESCAPES[found[0]]}{command[0] if command else ''}"] += 1
        return _DAMAGED.sub(_mended, text)


def _mended(match: re.Match[str]) -> str:
    return "\\" + _ESCAPES[match[0]]


def _corrupt(gold: str) -> str | None:
    """Why a gold cannot be an answer: brackets that never close (a cut "(37") are certain damage."""
    if gold.count("{") - gold.count("\\{") != gold.count("}") - gold.count("\\}"):
        return "unbalanced braces"
    if gold[:1] in "([" and not re.search(r"[)\]]", gold):
        return "a bracket that never closes"
    return None


def _reach(row: Mapping[str, Any], path: str) -> Any:
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            known = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise _Broken(f"no field {path!r} (there is: {known})")
        value = value[part]
    if value is None:
        raise _Broken(f"field {path!r} is null")
    return value


def _last_user(chat: list[Any], path: str) -> str:
    for message in reversed(chat):
        if isinstance(message, dict) and message.get("role") == "user" and isinstance(message.get("content"), str):
            return str(message["content"])
    raise _Broken(f"field {path!r} is a list without a user message")


def _files(path: Path, split: str) -> dict[str, list[Path]]:
    """Split -> its files."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise ConfigError(f"{path} must end in {' or '.join(_SUFFIXES)}")
        return {split: [path]}
    if not path.is_dir():
        raise ConfigError(f"no file or folder at {path}")
    found: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        if file.suffix in _SUFFIXES and file.stem in _STEMS:
            found.setdefault(_STEMS[file.stem], []).append(file)
    if not found:
        raise ConfigError(f"{path} holds no file named after a split, such as train.jsonl or test.parquet")
    return found


def _jsonl(file: Path) -> Iterator[tuple[int, Any]]:
    """(line, row) of every line that is not blank; a row that cannot be read is given as a :class:`_Broken`."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield number, json.loads(text)
            except UnicodeDecodeError as error:
                yield number, _Broken(f"not UTF-8: {error}")
            except (ValueError, RecursionError) as error:
                yield number, _Broken(f"not JSON: {error}")


def _parquet(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(f"reading {file} needs pyarrow: pip install 'arpo[tasks]'") from error
    try:
        opened = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{file} is not a readable Parquet file: {error}") from error
    number = 0
    with opened:
        for batch in opened.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
