"""A run on disk: one folder that tells all, written so that a kill at any moment loses nothing finished.

Layout (read by :mod:`arpo_algo.report`)::

    config.json  metrics.jsonl  eval.jsonl  eval-tasks.jsonl  alarms.jsonl  trees/*.jsonl.gz
    replay/train-000007.jsonl.gz  checkpoints/step-000008/  reference/  tensorboard/  report.html
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.tree import Tree
from arpo_env import lines


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old or the new content, never a part. Its mode is that of any new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with fresh.open("xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def read_trees(file: Path) -> list[Tree]:
    """The trees of one ``trees/*.jsonl.gz`` file."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [Tree.from_json(json.loads(line)) for line in lines]


def write_trees(file: Path, trees: Iterable[Tree]) -> None:
    """Write what :func:`read_trees` reads back exactly."""
    lines = "".join(json.dumps(tree.to_json()) + "\n" for tree in trees)
    write_atomic(file, gzip.compress(lines.encode(), compresslevel=5, mtime=0))


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The complete rows of a JSONL log; [] when it is not there."""
    if not file.exists():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]  # the part after the last line break is torn or empty
    return [json.loads(line) for line in lines]


#: A run's logs in the order that they are written in: an evaluation is told after its tasks, or its row would be half
#: of it.
LOGS = ("metrics.jsonl", "eval-tasks.jsonl", "eval.jsonl", "alarms.jsonl")


class RunFolder:
    """One run's folder, locked while it is open.

    Args:
        follower: a further process of the run whose main process has the folder open: it reads, and writes nothing.

    Raises:
        ConfigError: another process has the folder open, or it cannot be made or written.
    """

    def __init__(self, path: Path, *, follower: bool = False) -> None:
        self.path = path
        self.follower = follower
        if follower:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / ".lock").open("w", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"run folder {path} cannot be used: {error}; choose another --out") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ConfigError(f"run folder {path} is in use by another process; choose another --out") from None

    def close(self) -> None:
        """Release the lock. Idempotent."""
        if not self.follower:
            self._lock.close()

    def write_config(self, record: Mapping[str, Any]) -> None:
        """Raises:
        TrainingError: the disk is full or fails; the file is as it was.
        """
        self._replace("config.json", json.dumps(record, indent=1, default=str).encode())

    def read_config(self) -> dict[str, Any] | None:
        """``config.json``; None when there is none yet.

        Raises:
            ConfigError: it is not a training run's.
        """
        file = self.path / "config.json"
        if not file.exists():
            return None
        try:
            record: Any = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read: {error}; choose another --out") from None
        if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
            raise ConfigError(f"{self.path} holds no training run, its config.json is another's; choose another --out")
        return record

    def drop(self, name: str) -> None:
        """Remove a file that is there or not."""
        if not self.follower:
            (self.path / name).unlink(missing_ok=True)

    def append(self, name: str, *rows: Mapping[str, Any]) -> None:
        """Add rows to ``name`` (metrics.jsonl, eval.jsonl), all or none of them.

        Raises:
            OSError: the disk is full or fails; the file is as it was.
        """
        if self.follower:
            return
        lines.append(self.path / name, b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows))

    def rows(self, name: str) -> list[dict[str, Any]]:
        return read_rows(self.path / name)

    def keep_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace a log by ``rows`` (resume drops what came after the checkpoint).

        Raises:
            TrainingError: the disk is full or fails; the file is as it was.
        """
        self._replace(name, b"".join(json.dumps(r).encode() + b"\n" for r in rows))

    def save_trees(self, name: str, trees: Iterable[Tree], folder: str = "trees") -> None:
        if not self.follower:
            write_trees(self.path / folder / f"{name}.jsonl.gz", trees)

    def _replace(self, name: str, data: bytes) -> None:
        if self.follower:
            return
        try:
            write_atomic(self.path / name, data)
        except OSError as error:
            raise TrainingError(f"{self.path / name} cannot be written: {error}; make room and --resume") from error
