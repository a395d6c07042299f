"""``serve``: the report of a running run, rebuilt when the run writes, on this machine only.

The page polls ``/version``, a fingerprint of the run's files (sizes and times; nothing is parsed), and reloads itself
when it changes. Requests whose Host header names another machine are refused, so that a web page elsewhere cannot
read a run by DNS rebinding.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import socket
import threading
from collections.abc import Callable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from arpo_algo.errors import ConfigError
from arpo_algo.report.build import build_html
from arpo_algo.report.data import RunFolderError


def fingerprint(run: Path) -> str:
    """Changes whenever a file that the report reads changes."""
    seen = hashlib.sha256()
    names = [
        run / "config.json",
        run / "metrics.jsonl",
        run / "eval.jsonl",
        *sorted((run / "trees").glob("*.jsonl.gz")),
    ]
    for path in names:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        seen.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return seen.hexdigest()[:16]


class ReportServer(ThreadingHTTPServer):
    """Serves one run folder. ``port`` 0 takes a free one; see :attr:`url`.

    Raises:
        ConfigError: a host that is not this machine's loopback, or a port in use.
        RunFolderError: no such folder.
    """

    daemon_threads = True

    def __init__(self, run: Path, port: int = 0, host: str = "127.0.0.1") -> None:
        if not _is_loopback(host):
            raise ConfigError(
                f"the report is served on loopback only, got host={host!r}; use 127.0.0.1 and an SSH tunnel"
            )
        self.run = Path(run)
        if not self.run.is_dir():
            raise RunFolderError(f"{self.run} is not a folder; give the folder of a run")
        self._lock = threading.Lock()
        self._page: tuple[str, bytes] | None = None
        address = "127.0.0.1" if host == "localhost" else host
        if ":" in address:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((address, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot serve on {host}:{port} ({error}); choose another port, or 0 for a free one"
            ) from error

    @property
    def url(self) -> str:
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}/"

    def page(self) -> bytes:
        """The current page, rebuilt only when the run has changed. One build at a time."""
        with self._lock:
            version = fingerprint(self.run)
            if self._page is None or self._page[0] != version:
                self._page = (version, build_html(self.run, live=version).encode("utf-8", "backslashreplace"))
            return self._page[1]


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer

    def do_GET(self) -> None:
        if not _names_loopback(self.headers.get("Host", "")):
            self._answer(403, "text/plain", b"this report is served to this machine only\n")
        elif self.path.split("?")[0] == "/version":
            self._answer(200, "text/plain", fingerprint(self.server.run).encode())
        elif self.path.split("?")[0] == "/":
            try:
                self._answer(200, "text/html", self.server.page())
            except RunFolderError as error:
                head = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
                self._answer(500, "text/html", f"{head}<p>{escape(str(error))}</p>".encode("utf-8", "backslashreplace"))
        else:
            self._answer(404, "text/plain", b"not here; the report is at /\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the terminal belongs to the run."""


def serve(run: Path, port: int = 0, host: str = "127.0.0.1", *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until interrupted. ``on_ready`` is called with the URL (default: print it).

    Raises:
        ConfigError: ``host`` is not loopback, or ``port`` is in use.
        RunFolderError: no such folder.
    """
    with ReportServer(run, port, host) as server:
        (on_ready or (lambda url: print(f"report: {url}  (Ctrl-C stops)", flush=True)))(server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names_loopback(header: str) -> bool:
    """Whether a Host header (``127.0.0.1:8000``, ``[::1]:8000``, ``localhost``) names this machine."""
    host = header[1:].partition("]")[0] if header.startswith("[") else header.rpartition(":")[0] or header
    return _is_loopback(host)
