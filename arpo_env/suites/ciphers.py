"""Sets that are published enciphered, so that no crawler trains on them, and how their authors say to read them.

xbench: ``prompt`` and ``answer`` are base64 of the UTF-8 text XORed with the row's ``canary``, repeated. Decoded rows
live in memory only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

_FIELDS = ("prompt", "answer")

Row = Mapping[str, Any]


def canary(row: Row) -> Row:
    """The plain row of an enciphered one.

    Raises:
        ValueError: no canary, or a field that is not base64 of XORed UTF-8.
    """
    key = row.get("canary")
    if not isinstance(key, str) or not key:
        raise ValueError("the row has no canary, its key")
    return {**row, **{name: _plain(name, row.get(name), key.encode()) for name in _FIELDS}}


def canary_if_any(row: Row) -> Row:
    """As :func:`canary` for rows that have one; others are plain. ``question`` serves both."""
    if not row.get("canary"):
        return row
    plain = canary(row)
    return {**plain, "question": plain["prompt"]}


def _plain(name: str, value: Any, key: bytes) -> str:
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} must be text, got {type(value).__name__}")
    try:
        data = base64.b64decode(value, validate=True)
        return bytes(byte ^ mask for byte, mask in zip(data, cycle(key), strict=False)).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(f"field {name!r} does not decode with its canary: {error}") from error


CIPHERS: Mapping[str, Callable[[Row], Row]] = {"canary": canary, "canary-if-any": canary_if_any}
