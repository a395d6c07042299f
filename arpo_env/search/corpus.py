"""Corpora as JSONL, one page a line: ``{"id", "title", "text", "url"}`` (``url`` optional).

JSONL because it streams, diffs and can be written by anything. A broken row stops the build with its file,
line and reason: a corpus that silently lost pages makes every score measured on it wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from arpo_env.errors import ConfigError
from arpo_env.search.base import Page


def page_line(page: Page) -> bytes:
    """One page as a JSONL row (UTF-8, newline included): the canonical form that fingerprints are taken of."""
    row = {"id": page.id, "title": page.title, "text": page.text, "url": page.url}
    # A lone surrogate cannot be encoded; written as an escape it survives the way there and back.
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"


def parse_page(line: bytes, where: str) -> Page:
    """A JSONL row -> a page.

    Raises:
        ConfigError: the row is broken; the message starts with ``where`` (file and line).
    """
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: expected an object with id, title and text, got {type(row).__name__}")
    for key in ("id", "title", "text"):
        if key not in row:
            raise ConfigError(f"{where}: the field {key!r} is missing; found {sorted(map(str, row))}")
    values: dict[str, str] = {}
    for key in ("id", "title", "text", "url"):
        value = row.get(key, "")
        if key == "id" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise ConfigError(f"{where}: the field {key!r} must be a string, got {type(value).__name__}")
        values[key] = value
    if not values["id"]:
        raise ConfigError(f"{where}: the field 'id' is empty")
    return Page(**values)


def read_jsonl(path: str | Path) -> Iterator[Page]:
    """Stream the pages of a file; blank lines are skipped, further fields ignored.

    Raises:
        ConfigError: no such file, or a broken row (file, line, reason), or an id met before.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no corpus file at {path}; expected JSONL rows {{id, title, text, url}}")
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            page = parse_page(line, f"{path}, line {number}")
            if page.id in seen:
                raise ConfigError(f"{path}, line {number}: id {page.id!r} stands already in line {seen[page.id]}")
            seen[page.id] = number
            yield page


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
