"""How frames cross a byte stream: four bytes of length, then the body. Used on both sides of the wall.

No pickle anywhere: a frame that comes out of the isolation can hold numbers and text, never code.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any

HEAD = struct.Struct(">I")
#: No frame is longer than this; a longer one means the stream is broken.
MAX_FRAME = 64 * 2**20


def pack(message: Any) -> bytes:
    """A JSON message as one frame. ASCII only, so lone surrogates and NUL travel as escapes."""
    body = json.dumps(message).encode("ascii")
    return HEAD.pack(len(body)) + body


def take(buffer: bytearray) -> bytes | None:
    """Remove and return one whole frame body from ``buffer``, or None while it is incomplete.

    Raises:
        ValueError: the announced length is past :data:`MAX_FRAME`.
    """
    if len(buffer) < 4:
        return None
    (size,) = HEAD.unpack_from(buffer)
    if size > MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes; the limit is {MAX_FRAME}")
    if len(buffer) < 4 + size:
        return None
    body = bytes(buffer[4 : 4 + size])
    del buffer[: 4 + size]
    return body


def read_exact(fd: int, size: int) -> bytes:
    """``size`` bytes from a blocking descriptor. Raises ``EOFError`` when it ends before."""
    parts: list[bytes] = []
    while size:
        part = os.read(fd, min(size, 2**20))
        if not part:
            raise EOFError("the stream ended inside a frame")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
