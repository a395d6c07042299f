"""JSON and event streams over HTTP with the standard library: what the server engine needs, no more."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from arpo_algo.errors import ConfigError


class HTTPFailure(Exception):
    """No proper answer. ``status``: the HTTP status, None when there was no answer at all."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """One HTTP(S) server; a connection a call, so that calls may come from any thread.

    Args:
        url: ``http://host:port``, with or without a path before the routes.
        timeout: seconds without a byte after which a call fails.
        key: sent as a bearer token unless empty.

    Raises:
        ConfigError: not an HTTP(S) address.
    """

    def __init__(self, url: str, *, timeout: float, key: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"url must look like 'http://127.0.0.1:8000', got {url!r}")
        self.url = url.rstrip("/")
        self._parts = parts
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that the server answers with (None: it sent nothing).

        Raises:
            HTTPFailure: no answer, an error status, or an answer that is no JSON.
        """
        with closing(self._connect()) as connection:
            text = self._send(connection, method, path, body).read()
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise HTTPFailure(f"{self.url}{path} answers, but not with JSON: {text[:80]!r}") from None

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        """POST; then each ``data:`` event's JSON until ``[DONE]``. Closing the generator hangs up.

        Raises:
            HTTPFailure: no answer, an error status, or a stream that breaks off.
        """
        with closing(self._connect()) as connection:
            answer = self._send(connection, "POST", path, body)
            try:
                for line in answer:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    yield json.loads(data)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise HTTPFailure(f"{self.url}{path}: the stream broke off: {error!r}") from error
        raise HTTPFailure(f"{self.url}{path}: the stream ended early")

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        assert self._parts.hostname is not None
        return kind(self._parts.hostname, self._parts.port, timeout=self._timeout)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Mapping[str, Any] | None
    ) -> http.client.HTTPResponse:
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, self._prefix + path, data, self._headers)
            answer = connection.getresponse()
            if answer.status >= 400:
                said = answer.read(2000).decode(errors="replace")
                raise HTTPFailure(f"{self.url}{path}: HTTP {answer.status}: {said}", answer.status)
            return answer
        except (OSError, http.client.HTTPException) as error:
            raise HTTPFailure(f"{self.url}{path} cannot be reached: {error!r}") from error
