"""Keeps the head and the tail of what a cell writes, in bounded memory, and says what was cut."""

from __future__ import annotations

#: UTF-8 continuation bytes: everything else starts a character.
_CONTINUATION = bytes(range(0x80, 0xC0))


class Capture:
    """Feed it bytes; :meth:`text` gives at most ``limit`` characters and one line about the rest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._room = 4 * limit + 4  # no character is longer than four bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> None:
        self._seen += len(data.translate(None, _CONTINUATION))
        free = self._room - len(self._head)
        if free > 0:
            self._head += data[:free]
            data = data[free:]
        if data:
            self._tail += data[-self._room :]
            if len(self._tail) > 2 * self._room:
                del self._tail[: -self._room]

    def text(self) -> str:
        if not self._tail:
            whole = self._head.decode("utf-8", "replace")
            if len(whole) <= self._limit:
                return whole
            head_source = tail_source = whole
        else:
            head_source = self._head.decode("utf-8", "replace")
            tail = bytes(self._head + self._tail)[-self._room :]
            tail_source = tail.lstrip(_CONTINUATION).decode("utf-8", "replace")
        first = (self._limit + 1) // 2
        last = self._limit - first
        cut = max(self._seen, len(head_source)) - first - last
        end = tail_source[-last:] if last else ""
        return f"{head_source[:first]}\n[... {cut} characters cut ...]\n{end}"
