"""Search data on disk: memory-mapped byte strings and pages, and a folder that switches versions by one rename.

Opening a million pages costs nothing, since nothing is read before it is asked for, and all processes of a
machine share the memory. Readers of a folder see the old version or the new one, never a mixture; a writer that
is killed leaves a ``partial-…`` folder and the old version.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from arpo_env.errors import ConfigError
from arpo_env.search.base import Page, PageSequence
from arpo_env.search.corpus import page_line, parse_page

MANIFEST = "index.json"


class BlobWriter:
    """Writes byte strings end to end, ``NAME.bin``, and where each begins, ``NAME.offsets.npy``."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._file = (folder / f"{name}.bin").open("wb")
        self._offsets = array("q", [0])

    def append(self, item: bytes) -> None:
        self._file.write(item)
        self._offsets.append(self._offsets[-1] + len(item))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            np.save(self._folder / f"{self._name}.offsets.npy", np.frombuffer(self._offsets, np.int64))


class Blob:
    """What a :class:`BlobWriter` wrote, mapped; an item is read when it is asked for.

    Raises:
        ValueError, OSError: the files are missing or cut short.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._offsets = np.load(folder / f"{name}.offsets.npy", mmap_mode="r")
        path = folder / f"{name}.bin"
        if path.stat().st_size != self._offsets[-1]:
            raise ValueError(f"{path.name} is cut short")
        self._bytes = np.memmap(path, np.uint8, "r") if self._offsets[-1] else np.zeros(0, np.uint8)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> bytes:
        return bytes(self._bytes[self._offsets[number] : self._offsets[number + 1]])


class StoredPages(PageSequence):
    """The pages of a saved index, read from the mapped file one at a time."""

    NAME = "pages"

    def __init__(self, folder: Path) -> None:
        self._rows = Blob(folder, self.NAME)

    def __len__(self) -> int:
        return len(self._rows)

    def page_at(self, number: int) -> Page:
        return parse_page(self._rows[number], f"stored page {number}")


def save_pages(pages: Iterable[Page], folder: Path) -> None:
    """Write what :class:`StoredPages` reads."""
    with BlobWriter(folder, StoredPages.NAME) as rows:
        for page in pages:
            rows.append(page_line(page))


class StoredTerms:
    """The vocabulary of a saved index: terms sorted as bytes, looked up by bisection, ids beside them."""

    NAME = "terms"

    def __init__(self, folder: Path) -> None:
        self._terms = Blob(folder, self.NAME)
        self._ids = np.load(folder / "terms.ids.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, term: str) -> int | None:
        key = term.encode()
        place = bisect_left(self._terms, key)
        found = place < len(self) and self._terms[place] == key
        return int(self._ids[place]) if found else None

    def items(self) -> Iterable[tuple[str, int]]:
        return ((self._terms[i].decode(), int(self._ids[i])) for i in range(len(self)))


def save_terms(vocabulary: Mapping[str, int] | StoredTerms, folder: Path) -> None:
    """Write what :class:`StoredTerms` reads."""
    rows = sorted((term.encode(), number) for term, number in vocabulary.items())
    with BlobWriter(folder, StoredTerms.NAME) as out:
        for term, _ in rows:
            out.append(term)
    np.save(folder / "terms.ids.npy", np.array([number for _, number in rows], np.int32))


# ---------------------------------------------------------------------- the versioned folder


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder inside ``folder`` (made if need be); gone afterwards, unless :func:`publish` took it.

    Raises:
        ConfigError: ``folder`` exists and holds something that is no index.
    """
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        # What a killed build left behind is no content.
        if any(not entry.name.startswith("partial-") for entry in folder.iterdir()):
            raise ConfigError(f"{folder} is not empty and holds no index; name a new or empty folder")
    elif folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; an index is a folder")
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="partial-", dir=folder))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(scratch: Path, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make ``scratch`` the content of ``folder``; ``manifest`` has a ``fingerprint``, which names the version."""
    target = folder / str(manifest["fingerprint"])[:16]
    # Another writer may have been first: its content is the same, since the name is a fingerprint.
    if not target.is_dir():
        scratch.rename(target)
    write_json({"folder": target.name, **manifest}, folder / MANIFEST)


def write_json(value: Mapping[str, Any], path: Path) -> None:
    """Write a small JSON file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(value, indent=1) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
