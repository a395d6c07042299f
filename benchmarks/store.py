"""The run folder of a benchmark: one locked folder, one append-only log, nothing finished ever lost.

``samples.jsonl`` holds one finished sample a line, whole or not at all: a row is written in one piece and synced; what
a kill left of a row is cut off when the folder is opened again, and what a full disk left of it at once. A sample that
infrastructure spoilt has a row too (status ``void``); a later row of the same sample replaces it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from arpo_algo.errors import ConfigError
from arpo_algo.runfolder import RunFolder

LOG = "samples.jsonl"
#: Verdicts of a judge, kept so that a run can be scored again without asking.
JUDGE = "judge.sqlite"
FORMAT = 1
#: (suite, task id, sample number)
Key = tuple[str, str, int]


class StorageError(RuntimeError):
    """A row could not be written (full disk, broken device). Everything before it is saved."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of the log. ``void``: spoilt by infrastructure, never scored; ``errors`` then says by what.

    ``errors`` of a scored sample are the failures of its earlier attempts. Token counts are None where the policy has
    none. Seconds are wall time of the last attempt.
    """

    suite: str
    task: str
    sample: int
    status: Literal["scored", "void"]
    success: bool = False
    score: float = 0.0  # the verifier's; below 1 is partial credit, and no success
    reward: float = 0.0
    answer: str | None = None
    gold: str = ""
    verifier: str = ""  # what says whether two answers of this task are the same; "": nothing does (programs)
    verdict: str = ""
    stop_reason: str = ""
    truncated: bool = False
    format_ok: bool = False
    tool_calls: int = 0
    tool_errors: int = 0
    turns: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    tool_seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    messages: list[dict[str, str]] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.suite, self.task, self.sample


class BenchFolder:
    """A run folder, open for writing. Use as a context manager.

    Raises:
        ConfigError: another process has it open, it holds something else, or a row in it is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = RunFolder(path)
        try:
            self.config = self._read_config()
            self._log = os.open(path / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except BaseException:
            self._folder.close()
            raise
        try:
            self._size = _cut_torn_tail(self._log)
            self.samples = {sample.key: sample for sample in read_samples(path)}
        except BaseException:
            self.close()
            raise

    def _read_config(self) -> dict[str, Any] | None:
        found = read_config(self.path)
        # Without its configuration a folder is one in which nothing has begun yet: a policy failed its check.
        begun = {p.name.removesuffix("-wal").removesuffix("-shm") for p in self.path.iterdir()} - {".lock", LOG, JUDGE}
        if found is None and begun:
            raise ConfigError(f"{self.path} holds files but no benchmark run; choose an empty or new folder")
        return found

    def write_config(self, record: Mapping[str, Any]) -> None:
        """Write ``config.json``, atomically."""
        try:
            self._folder.write_config({"format": FORMAT, **record})
        except OSError as error:
            raise StorageError(f"cannot write {self.path / 'config.json'}: {error.strerror}") from error

    def append(self, sample: Sample) -> None:
        """Save a finished sample; when this returns it survives a kill and a power cut.

        Raises:
            StorageError: the disk is full or broken; the log is as it was before.
        """
        data = memoryview(json.dumps(asdict(sample), allow_nan=False).encode() + b"\n")
        size = self._size + len(data)
        try:
            while data:
                data = data[os.write(self._log, data) :]
            os.fsync(self._log)
        except OSError as error:
            os.ftruncate(self._log, self._size)
            raise StorageError(
                f"{self.path / LOG} cannot grow: {error.strerror}. The {len(self.samples)} samples before are saved; "
                "make room and give the same command again"
            ) from error
        self._size = size
        self.samples[sample.key] = sample

    def close(self) -> None:
        """Release file and lock. Idempotent."""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cut_torn_tail(log: int) -> int:
    """Drop what follows the last line end; returns the size."""
    size = os.lseek(log, 0, os.SEEK_END)
    at, block = size, 1 << 16
    while at > 0:
        start = max(0, at - block)
        found = os.pread(log, at - start, start).rfind(b"\n")
        if found >= 0:
            at = start + found + 1
            break
        at = start
    if at < size:
        os.ftruncate(log, at)
    return at


def read_config(path: Path) -> dict[str, Any] | None:
    """``config.json`` of a run folder; None when there is none.

    Raises:
        ConfigError: it is broken, or of a training run or another release.
    """
    file = path / "config.json"
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from None
    if not isinstance(record, dict) or "policy" not in record or "suites" not in record:
        raise ConfigError(f"{file} is not of a benchmark run; give the --out folder of `python -m benchmarks run`")
    if record.get("format") != FORMAT:
        raise ConfigError(f"{file} has format {record.get('format')!r}; this release reads {FORMAT}")
    return record


def blocks(suite: Mapping[str, Any]) -> list[list[int]]:
    """What was asked of a suite of ``config.json`` so far: [tasks, samples], each of its first tasks.

    A folder that grew in both directions was asked for several: 2 tasks × 3 samples and 4 × 1 are 8, not 4 × 3.
    """
    return suite.get("asked") or [[suite["tasks"], suite["samples"]]]


def merged(old: Sequence[Sequence[int]], new: Sequence[Sequence[int]]) -> list[list[int]]:
    """Both, without those that lie inside another."""
    every = sorted({(tasks, samples) for tasks, samples in [*old, *new]})
    return [[t, s] for t, s in every if not any((t, s) != (u, r) and t <= u and s <= r for u, r in every)]


def asked(suite: Mapping[str, Any]) -> int:
    """How many samples of a suite were asked for in all."""
    rows = blocks(suite)
    return sum(max(tasks for tasks, samples in rows if samples > i) for i in range(max(s for _, s in rows)))


def read_samples(path: Path) -> Iterator[Sample]:
    """The rows of a run folder's log in order of writing; a torn last line is passed over.

    Raises:
        ConfigError: a broken row before the end; file, line and reason are named.
    """
    file = path / LOG
    if not file.is_file():
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield Sample(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise ConfigError(
                    f"{file}, line {number} is broken ({error}); delete that line and the sample is run again"
                ) from None
