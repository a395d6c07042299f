"""Reading files of rows: JSONL (also gzipped), Parquet, CSV. A row that cannot be read is given as such, not raised."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arpo_env.errors import ConfigError

#: What :func:`read_rows` reads, by the end of the file's name.
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".csv")


class Broken(Exception):
    """Why a row is broken."""


def suffix(file: Path) -> str | None:
    """The one of :data:`SUFFIXES` that ``file`` ends in, if any."""
    return next((end for end in SUFFIXES if file.name.endswith(end)), None)


def read_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """(number, row) of every row that is not blank; a row that cannot be read is given as a :class:`Broken`.

    Numbers count from 1: the line of a JSONL or CSV file, the row of a Parquet file.

    Raises:
        ConfigError: another suffix, a file that is damaged or cut short, or pyarrow is missing.
    """
    match suffix(file):
        case ".jsonl":
            with file.open("rb") as lines:
                yield from _jsonl(lines)
        case ".jsonl.gz":
            try:
                with gzip.open(file, "rb") as lines:
                    yield from _jsonl(lines)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ConfigError(f"{file} is cut short or no gzip file: {error}; fetch it again") from error
        case ".parquet":
            yield from _parquet(file)
        case ".csv":
            yield from _csv(file)
        case _:
            raise ConfigError(f"{file} must end in {', '.join(SUFFIXES)}")


def _jsonl(lines: Any) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                yield number, json.loads(text)
        except UnicodeDecodeError as error:
            yield number, Broken(f"not UTF-8: {error}")
        except (ValueError, RecursionError) as error:
            yield number, Broken(f"not JSON: {error}")


def _csv(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: {error}") from error
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    # The limit, 131,072 characters a field, is the module's own, so it is put back before anyone else reads.
    limit = csv.field_size_limit(2**31 - 1)
    try:
        rows = [(table.line_num, row) for row in table]
    except csv.Error as error:
        raise ConfigError(f"{file} is not a readable CSV file: {error}") from error
    finally:
        csv.field_size_limit(limit)
    for number, row in rows:
        if None in row or None in row.values():
            yield number, Broken(f"not {len(table.fieldnames or ())} fields, as the header says")
        else:
            yield number, dict(row)


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
        try:
            for batch in opened.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"{file} is damaged after row {number}: {error}; fetch it again") from error
