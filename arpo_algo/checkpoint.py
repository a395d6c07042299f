"""Checkpoints that are whole or not there, and the choice of which to keep and which to go on from.

A checkpoint is written into a hidden folder, synced to disk, described by a manifest (size and SHA-256 of every
file), and renamed into place. So a kill at any moment, or a full disk, leaves the older ones as they were. A
checkpoint that was damaged later (truncated, bits flipped) fails its manifest: it is set aside, and the one before it
is used::

    checkpoints/step-000008/  manifest.json state.json model/ optimizer.pt random.pt [critic.pt] [trees.jsonl.gz]
    checkpoints/sft-000010/   the same, within the cold start
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"(sft|step)-(\d{6,})")


class DamagedCheckpoint(ValueError):
    """A checkpoint does not hold what its manifest says; the message names the file."""


def order(name: str) -> tuple[int, int]:
    """Sorts names of checkpoints by when they were made: the cold start's before those of RL.

    Raises:
        ValueError: not the name of a checkpoint.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not a checkpoint's name (step-000008, sft-000010)")
    return ("sft", "step").index(match[1]), int(match[2])


def verify(path: Path) -> None:
    """Compare every file with the manifest: sizes first, then hashes.

    Raises:
        DamagedCheckpoint: something is missing, cut or changed.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path.name}: {MANIFEST} cannot be read ({error})") from None
    if manifest.get("format") != FORMAT:
        raise DamagedCheckpoint(f"{path.name}: format {manifest.get('format')!r}, this release reads {FORMAT}")
    for name, entry in files.items():
        try:
            size = (path / name).stat().st_size
        except OSError:
            raise DamagedCheckpoint(f"{path.name}: {name} is missing") from None
        if size != entry["size"]:
            raise DamagedCheckpoint(f"{path.name}: {name} has {size} bytes, {entry['size']} were written")
    for name, digest in _digests(path, files).items():
        if digest != files[name]["sha256"]:
            raise DamagedCheckpoint(f"{path.name}: {name} is not what was written (its SHA-256 differs)")


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Committed checkpoints, oldest first (not verified)."""
        found = [p for p in self.folder.glob("s*-*") if _NAME.fullmatch(p.name) and (p / MANIFEST).exists()]
        return sorted(found, key=lambda p: order(p.name))

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint, and what was found damaged on the way (moved to ``damaged-NAME``)."""
        said: list[str] = []
        for path in reversed(self.paths()):
            try:
                verify(path)
                return path, said
            except DamagedCheckpoint as error:
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.replace(aside)
                said.append(f"{error}; set aside as {aside.name}")
        return None, said

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A hidden folder to fill; it becomes the checkpoint ``name`` when the block ends without an exception.

        Raises:
            OSError: the disk failed or is full; nothing of the new checkpoint stays, nothing of the old is touched.
        """
        order(name)
        work, final = self.folder / f".{name}", self.folder / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            yield work
            files: dict[str, dict[str, Any]] = {
                str(p.relative_to(work)): {"size": p.stat().st_size} for p in sorted(work.rglob("*")) if p.is_file()
            }
            for file, digest in _digests(work, files).items():
                files[file]["sha256"] = digest
            (work / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1), encoding="utf-8")
            for path in sorted(work.rglob("*"), reverse=True):
                _sync(path)
            _sync(work)
            if final.exists():
                old = self.folder / f".{name}.old"
                shutil.rmtree(old, ignore_errors=True)
                final.replace(old)
            work.replace(final)
            _sync(self.folder)
        except BaseException as error:
            shutil.rmtree(work, ignore_errors=True)
            if isinstance(error, Exception) and not isinstance(error, OSError):
                # torch and safetensors have errors of their own for a disk that takes no more.
                raise OSError(f"{type(error).__name__}: {error}") from error
            raise

    def prune(self, keep: int, protect: Collection[str] = ()) -> None:
        """Drop all but the newest ``keep`` checkpoints and those named in ``protect``; clear what kills left over."""
        for old in self.paths()[:-keep]:
            if old.name not in protect:
                # Not readable as a checkpoint from the first moment on: a kill here leaves rubbish, not half a one.
                gone = old.with_name(f".{old.name}")
                shutil.rmtree(gone, ignore_errors=True)
                old.replace(gone)
        for rubbish in self.folder.glob(".s*-*"):
            shutil.rmtree(rubbish, ignore_errors=True)


# ------------------------------------------------------------------ random states


def random_state() -> dict[str, Any]:
    """The global random states of this process: Python, NumPy, torch, and every GPU."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (libraries may use it: it is saved, not drawn from)
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set what :func:`random_state` returned (a state of fewer or more GPUs restores what fits)."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    for i, gpu in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(gpu, i)


def seed_everything(seed: int) -> None:
    """Seed the global generators; the run's own draws use streams of their own and do not depend on it."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


# ------------------------------------------------------------------ inside


def _digests(folder: Path, names: Collection[str]) -> dict[str, str]:
    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the lock
        return dict(zip(names, pool.map(digest, names), strict=True))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
