"""Corpora as rows, one page a row: ``{"id", "title", "text", "url"}`` (``url`` optional).

JSONL because it streams, diffs and can be written by anything; the corpora of Search-R1 and FlashRAG, which hold
``contents`` (a quoted title, a newline, the text) instead of title and text, are read as they are. A broken row
stops the build with its file, line and reason: a corpus that silently lost pages makes every score measured on it
wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from arpo_env.errors import ConfigError
from arpo_env.rows import Broken, read_rows
from arpo_env.search.base import Page

#: Field of a page -> field of a row.
FIELDS: Mapping[str, str] = {"id": "id", "title": "title", "text": "text", "url": "url"}
#: As the row's field for ``id``: the row's number, for data without ids.
ROW_NUMBER = "#"

#: Makes a fresh iterator over (where it stands, page).
PageRows = Callable[[], Iterable[tuple[str, Page]]]


def page_line(page: Page) -> bytes:
    """One page as a JSONL row (UTF-8, newline included): the canonical form that fingerprints are taken of."""
    row = {"id": page.id, "title": page.title, "text": page.text, "url": page.url}
    # A lone surrogate cannot be encoded; written as an escape it survives the way there and back.
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"


def parse_page(line: bytes, where: str) -> Page:
    """A JSONL row -> a page; see :func:`page_of`.

    Raises:
        ConfigError: the row is broken; the message starts with ``where`` (file and line).
    """
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({error})") from None
    return page_of(row, where)


def page_of(row: Any, where: str, fields: Mapping[str, str] = FIELDS, number: int = 0) -> Page:
    """A row -> a page. ``fields`` says which field of the row is which of the page's; ``number`` counts the rows.

    Raises:
        ConfigError: a field is missing or no text; the message starts with ``where``.
    """
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: expected an object with id, title and text, got {type(row).__name__}")
    if "contents" in row and fields["text"] not in row and fields["title"] not in row:
        row = {**row, **_contents(row["contents"], where, fields)}
    values: dict[str, str] = {}
    for key in ("id", "title", "text", "url"):
        name = fields[key]
        if name not in row and key != "url" and name != ROW_NUMBER:
            raise ConfigError(f"{where}: the field {name!r} is missing; found {sorted(map(str, row))}")
        value = str(number) if name == ROW_NUMBER else row.get(name, "")
        if key == "id" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if key == "url" and value is None:
            value = ""
        if not isinstance(value, str):
            raise ConfigError(f"{where}: the field {name!r} must be a string, got {type(value).__name__}")
        values[key] = value
    if not values["id"]:
        raise ConfigError(f"{where}: the field {fields['id']!r} is empty")
    return Page(**values)


def _contents(contents: Any, where: str, fields: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(contents, str):
        raise ConfigError(f"{where}: the field 'contents' must be a string, got {type(contents).__name__}")
    title, _, text = contents.partition("\n")
    return {fields["title"]: title.strip().strip('"'), fields["text"]: text}


def read_jsonl(path: str | Path, fields: Mapping[str, str] = FIELDS) -> Iterator[Page]:
    """Stream the pages of a file (``.gz`` too); blank lines are skipped, further fields ignored.

    Raises:
        ConfigError: no such file, or a broken row (file, line, reason), or an id that stands twice (told at the end).
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no corpus file at {path}; expected JSONL rows {{id, title, text, url}}")
    return each_id_once(lambda: page_rows(path, fields))


def page_rows(path: Path, fields: Mapping[str, str] = FIELDS) -> Iterator[tuple[str, Page]]:
    """(where it stands, page) of each row of a JSONL, Parquet or CSV file.

    Raises:
        ConfigError: a broken row.
    """
    for number, row in read_rows(path):
        where = f"{path}, {'row' if path.suffix == '.parquet' else 'line'} {number}"
        if isinstance(row, Broken):
            raise ConfigError(f"{where}: {row}")
        yield where, page_of(row, where, fields, number)


def each_id_once(rows: PageRows) -> Iterator[Page]:
    """The pages of ``rows``; the end says whether an id stood twice.

    Eight bytes a page are kept, and the rows are read again only to name the two that collide.

    Raises:
        ConfigError: an id stands twice.
    """
    hashes = array("Q")
    for _, page in rows():
        hashes.append(_hash(page.id))
        yield page
    ordered = np.sort(np.frombuffer(hashes, np.uint64))
    doubled = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    first: dict[str, str] = {}
    for where, page in rows() if doubled else ():
        if _hash(page.id) in doubled:
            if page.id in first:
                raise ConfigError(f"{where}: id {page.id!r} stands already at {first[page.id]}")
            first[page.id] = where


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def write_jsonl(pages: Iterable[Page], path: str | Path) -> int:
    """Write ``pages`` to ``path`` (whole or not at all) and return how many there were."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    count = 0
    try:
        with partial.open("wb") as file:
            for page in pages:
                file.write(page_line(page))
                count += 1
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count
