"""The HTTP retriever: a client and a server for Search-R1's wire format.

The format is the de-facto standard between agent trainers and retrievers::

    POST /retrieve  {"queries": ["…"], "topk": 3, "return_scores": true}
    200             {"result": [[{"document": {"id", "contents": "\"Title\"\\ntext"}, "score": 1.5}, …]]}

``contents`` is a quoted title, a newline and the text. Our server adds ``title``, ``text`` and ``url`` to the
document, which other clients ignore and ours prefers. Both ends use nothing but the standard library.

The client is pessimistic: a server may be slow, throttled, broken or hostile, so time and bytes are bounded, the
proxy settings of the host are not used, redirects are refused, and every failure ends as an
:class:`~arpo_env.errors.InfraError` after the retries, never as "nothing found".
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

from arpo_env.errors import ConfigError, InfraError
from arpo_env.search.base import Hit, SearchBackend
from arpo_env.shared import Shared

#: Statuses that may pass: overload, throttling, a gateway's hiccup.
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
_MAX_REQUEST_BYTES = 1 << 20
_MAX_QUERIES = 256
_MAX_TOPK = 100


class HttpRetriever(Shared):
    """A search backend that asks a retriever over HTTP.

    Args:
        url: the full address, e.g. ``http://127.0.0.1:8000/retrieve``.
        timeout: seconds for one whole attempt, connection and body together.
        retries: further attempts after a failure that may pass.
        backoff: seconds before the first retry; doubled each time, jittered, and a ``Retry-After`` is obeyed up to
            ``max_wait``.
        max_wait: longest pause between two attempts, in seconds.
        max_bytes: longest reply read.
        deterministic: say True only for a retriever whose corpus never changes.
        fingerprint: names the corpus behind the address for the cache; default the address.
        sleep: how to wait (tests pass their own).

    Raises:
        ConfigError: an address that is not HTTP(S), or a number out of range.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        backoff: float = 0.5,
        max_wait: float = 30.0,
        max_bytes: int = 8 << 20,
        deterministic: bool = False,
        fingerprint: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # brackets that hold no IPv6 address, a port that is no number
            usable = False
        if not usable:
            raise ConfigError(f"url must look like 'http://127.0.0.1:8000/retrieve', got {url!r}")
        if not (timeout > 0 and retries >= 0 and backoff >= 0 and max_wait >= 0 and max_bytes > 0):
            raise ConfigError(
                f"need timeout > 0, retries >= 0, backoff >= 0, max_wait >= 0, max_bytes > 0; "
                f"got {timeout=}, {retries=}, {backoff=}, {max_wait=}, {max_bytes=}"
            )
        self.url, self.deterministic = url, deterministic
        self.fingerprint = fingerprint if fingerprint is not None else url
        self._parts = parts
        self._timeout, self._retries, self._backoff, self._max_wait = timeout, retries, backoff, max_wait
        self._max_bytes = max_bytes
        self._sleep = sleep
        self._jitter = random.SystemRandom()  # never the global stream, which results may hang on

    def search(self, query: str, k: int) -> list[Hit]:
        """Ask the server.

        Raises:
            InfraError: it did not answer properly, after the retries.
        """
        if k < 1:
            raise ConfigError(f"k must be >= 1, got {k}")
        body = json.dumps({"queries": [query], "topk": k, "return_scores": True}).encode()
        wait = self._backoff
        for attempt in range(self._retries + 1):
            try:
                return _read_reply(self._post(body), k)
            except _Failed as failure:
                if attempt == self._retries or not failure.may_pass:
                    raise InfraError(
                        f"the retriever at {self.url} failed ({attempt + 1} attempts): {failure}"
                    ) from failure.__cause__
                asked = failure.retry_after if failure.retry_after is not None else 0.0
                # Jitter, so that many workers do not come back at once; it changes no result.
                self._sleep(min(self._max_wait, max(asked, wait * self._jitter.uniform(0.5, 1.0))))
                wait *= 2
        raise AssertionError("unreachable")

    def _post(self, body: bytes) -> bytes:
        """One attempt; the body of a 200 reply."""
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        assert self._parts.hostname is not None
        connection = kind(self._parts.hostname, self._parts.port, timeout=self._timeout)
        path = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        watchdog: _Watchdog | None = None
        try:
            connection.connect()
            watchdog = _Watchdog(connection.sock, self._timeout)
            connection.request("POST", path, body, {"Content-Type": "application/json", "Accept": "application/json"})
            reply = connection.getresponse()
            if reply.status != 200:
                retry_after = _seconds(reply.getheader("Retry-After"))
                raise _Failed(f"HTTP {reply.status} {reply.reason}", reply.status in _PASSING, retry_after)
            if (reply.getheader("Content-Encoding") or "identity").lower() != "identity":
                raise _Failed("it compressed the reply unasked", may_pass=False)
            text = self._read(reply)
            if watchdog.bit:
                raise _Failed(f"no complete reply in {self._timeout} s", may_pass=True)
            if reply.length:  # what the server announced and did not send
                raise _Failed("the reply broke off", may_pass=True)
            return text
        except (OSError, http.client.HTTPException, ValueError) as error:
            if watchdog is not None and watchdog.bit:
                raise _Failed(f"no complete reply in {self._timeout} s", may_pass=True) from error
            raise _Failed(f"{type(error).__name__}: {error}", may_pass=True) from error
        finally:
            if watchdog is not None:
                watchdog.cancel()
            connection.close()

    def _read(self, reply: http.client.HTTPResponse) -> bytes:
        parts, size = [], 0
        while part := reply.read1(65536):
            size += len(part)
            if size > self._max_bytes:
                raise _Failed(f"the reply is longer than {self._max_bytes} bytes", may_pass=False)
            parts.append(part)
        return b"".join(parts)


class _Watchdog:
    """Shuts a connection down when its time is up.

    A socket's own timeout bounds one read, and so lets a server drip a byte now and then for ever.
    """

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self.bit = False
        self._socket = sock
        self._timer = threading.Timer(seconds, self._bite)
        self._timer.daemon = True
        self._timer.start()

    def _bite(self) -> None:
        self.bit = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def cancel(self) -> None:
        self._timer.cancel()


class _Failed(Exception):
    """One attempt failed."""

    def __init__(self, message: str, may_pass: bool, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.may_pass, self.retry_after = may_pass, retry_after


def _seconds(header: str | None) -> float | None:
    """``Retry-After`` in seconds; dates are not read (the back-off serves)."""
    return float(header) if header is not None and header.strip().isdecimal() and len(header) < 10 else None


def _read_reply(body: bytes, k: int) -> list[Hit]:
    try:
        table: Any = json.loads(body)
        rows = table["result"][0]
        if not isinstance(rows, list):
            raise TypeError("result[0] is no list")
        return [_read_hit(row, place) for place, row in enumerate(rows[:k])]
    except (ValueError, OverflowError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        # A proxy's error page with status 200, a half-written reply: it may pass.
        raise _Failed(f"the reply is not in the format ({type(error).__name__}: {error})", may_pass=True) from error


def _read_hit(row: dict[str, Any], place: int) -> Hit:
    # Without return_scores some servers give bare documents.
    document = row.get("document", row)
    score = float(row["score"]) if "document" in row and "score" in row else -float(place)
    if "title" in document and "text" in document:
        title, text = document["title"], document["text"]
    else:
        title, _, text = document["contents"].partition("\n")
        title = title.strip().strip('"')
    url = document.get("url", "")
    if not (isinstance(title, str) and isinstance(text, str) and isinstance(url, str)):
        raise TypeError("title, text and url must be strings")
    return Hit(title, url, text, score)


class RetrieverServer:
    """Serves any backend in the same format; ``with RetrieverServer(backend) as server: … server.url``.

    Loopback by default: it has neither authentication nor encryption. Bad requests get 400 with a reason, a backend
    that is down 503, and no request is larger than a mebibyte.

    Args:
        backend: who answers; must be thread-safe.
        host: the address to listen on.
        port: 0 takes a free one (see ``url``).
        request_timeout: seconds a client may take to send its request.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(
        self, backend: SearchBackend, *, host: str = "127.0.0.1", port: int = 0, request_timeout: float = 30.0
    ) -> None:
        handler = type("Handler", (_Handler,), {"backend": backend, "timeout": request_timeout})
        try:
            self._server = _Server((host, port), handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error}") from None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address to give to clients."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/retrieve"

    def start(self) -> Self:
        """Serve in the background."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="retriever", daemon=True
            )
            self._thread.start()
        return self

    def serve_forever(self) -> None:
        """Serve until interrupted (the command line)."""
        self._server.serve_forever()

    def close(self) -> None:
        """Stop and release the port. Idempotent."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own affair: no traceback on stderr."""


class _BadRequest(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    backend: SearchBackend
    protocol_version = "HTTP/1.1"
    server_version = "arpo-search"
    _close_after = True

    def do_POST(self) -> None:
        # What is answered before the body was read whole closes the connection: the rest of the body would be taken
        # for the next request.
        self._close_after, self.close_connection = self.close_connection, True
        try:
            path = urlsplit(self.path).path
        except ValueError:  # "http://[" is no URL
            path = ""
        if path.rstrip("/") != "/retrieve":
            self._reply(404, {"error": "POST to /retrieve"})
            return
        try:
            queries, topk, scores = self._request()
            reply = {"result": [[_row(hit, scores) for hit in self.backend.search(q, topk)] for q in queries]}
        except _BadRequest as error:
            self._reply(400, {"error": str(error)})
        except InfraError as error:
            self._reply(503, {"error": str(error)})
        except Exception as error:  # a bug of the backend: told to the client, and the server lives on
            self._reply(500, {"error": f"{type(error).__name__}: {error}"})
        else:
            self._reply(200, reply)

    def do_GET(self) -> None:
        self.close_connection = True  # a body, which a GET may have too, stays unread
        if self.path == "/health":
            self._reply(200, {"status": "ok"})
        else:
            self._reply(404, {"error": "POST to /retrieve, or GET /health"})

    def _request(self) -> tuple[list[str], int, bool]:
        length = self.headers.get("Content-Length", "")
        # Ten digits are enough, and int() of a long text is slow.
        size = int(length) if length.isdecimal() and len(length) <= 10 else -1
        if not 0 <= size <= _MAX_REQUEST_BYTES or "Transfer-Encoding" in self.headers:
            raise _BadRequest(
                f"Content-Length must be given and at most {_MAX_REQUEST_BYTES}, got {length[:40]!r}; "
                "chunks are not read"
            )
        body = self.rfile.read(size)
        self.close_connection = self._close_after
        try:
            request: Any = json.loads(body)
        except (ValueError, RecursionError):
            raise _BadRequest("the body is no JSON") from None
        if not isinstance(request, dict):
            raise _BadRequest("the body must be an object")
        queries, topk, scores = request.get("queries"), request.get("topk"), request.get("return_scores", False)
        if not isinstance(queries, list) or not queries or not all(isinstance(query, str) for query in queries):
            raise _BadRequest("queries must be a list of strings, with one at least")
        if len(queries) > _MAX_QUERIES:
            raise _BadRequest(f"at most {_MAX_QUERIES} queries a request, got {len(queries)}")
        topk = 3 if topk is None else topk
        if not isinstance(topk, int) or isinstance(topk, bool) or not 1 <= topk <= _MAX_TOPK:
            raise _BadRequest(f"topk must be an integer from 1 to {_MAX_TOPK}, got {topk!r}")
        return queries, topk, bool(scores)

    def _reply(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 503:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: a search service is asked thousands of times a minute."""


def _row(hit: Hit, scores: bool) -> dict[str, Any]:
    document = {
        "id": hit.url or hit.title,
        "contents": f'"{hit.title}"\n{hit.snippet}',
        "title": hit.title,
        "text": hit.snippet,
        "url": hit.url,
    }
    return {"document": document, "score": hit.score} if scores else document
