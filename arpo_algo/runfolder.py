"""A run on disk: one folder that tells all, written so that a kill at any moment loses nothing finished.

Layout (read by :mod:`arpo_algo.report`)::

    config.json  metrics.jsonl  eval.jsonl  trees/*.jsonl.gz  checkpoints/step-000008/  tensorboard/  report.html
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from arpo_algo.errors import ConfigError
from arpo_algo.tree import Tree


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_trees(file: Path) -> list[Tree]:
    """The trees of one ``trees/*.jsonl.gz`` file."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [Tree.from_json(json.loads(line)) for line in lines]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The complete rows of a JSONL log; [] when it is not there."""
    if not file.exists():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]  # the part after the last line break is torn or empty
    return [json.loads(line) for line in lines]


class RunFolder:
    """One run's folder, locked while it is open.

    Raises:
        ConfigError: another process has the folder open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] = (path / ".lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ConfigError(f"run folder {path} is in use by another process; choose another --out") from None

    def close(self) -> None:
        """Release the lock. Idempotent."""
        self._lock.close()

    def write_config(self, record: Mapping[str, Any]) -> None:
        write_atomic(self.path / "config.json", json.dumps(record, indent=1, default=str).encode())

    def read_config(self) -> dict[str, Any] | None:
        file = self.path / "config.json"
        if not file.exists():
            return None
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return record

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a row to ``name`` (metrics.jsonl, eval.jsonl); a torn last line of a killed run is cut off first."""
        file = self.path / name
        with file.open("ab+") as out:
            out.seek(0, os.SEEK_END)
            if out.tell():
                out.seek(-1, os.SEEK_END)
                if out.read(1) != b"\n":
                    content = file.read_bytes()
                    out.truncate(content.rfind(b"\n") + 1)
            out.write(json.dumps(row, allow_nan=False).encode() + b"\n")

    def rows(self, name: str) -> list[dict[str, Any]]:
        return read_rows(self.path / name)

    def keep_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace a log by ``rows`` (resume drops what came after the checkpoint)."""
        write_atomic(self.path / name, b"".join(json.dumps(r).encode() + b"\n" for r in rows))

    def save_trees(self, name: str, trees: Iterable[Tree]) -> None:
        lines = "".join(json.dumps(tree.to_json()) + "\n" for tree in trees)
        write_atomic(self.path / "trees" / f"{name}.jsonl.gz", gzip.compress(lines.encode(), mtime=0))

    # ------------------------------------------------------------------ checkpoints

    @property
    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in (self.path / "checkpoints").glob("step-*") if (p / "state.json").exists())

    def new_checkpoint(self, step: int) -> Path:
        """A hidden folder to fill; :meth:`commit_checkpoint` makes it a checkpoint at one stroke."""
        folder = self.path / "checkpoints" / f".step-{step:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def commit_checkpoint(self, folder: Path, keep: int) -> Path:
        final = folder.with_name(folder.name.removeprefix("."))
        shutil.rmtree(final, ignore_errors=True)
        folder.replace(final)
        for old in self.checkpoints[:-keep]:
            shutil.rmtree(old)
        return final
