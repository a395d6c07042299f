"""A web server that does as it is told, however bad, and a page reader that may talk to it. No network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from arpo_env.web.address import AddressPolicy
from arpo_env.web.fetch import Fetcher
from arpo_env.web.live import LivePages

LOOPBACK = ("127.0.0.1/32",)
AGENT = "arpo-browse/test"
#: How a route answers: it is given the handler, and may write what it likes.
Route = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.routes``; remembers each request's path and headers."""

    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked.append(self.path)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        route = self.server.routes.get(self.path)
        try:
            if route is None:
                self.reply(b"nothing here", status=404)
            else:
                route(self)
        except OSError:
            pass  # the reader has had enough

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def reply(self, body: bytes, *, status: int = 200, kind: str = "text/html; charset=utf-8", **headers: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Connection": "close",
            **headers,
        }.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def head(self, *headers: str, status: str = "200 OK") -> None:
        self.wfile.write("\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1"))

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Site(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, Route] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        #: Set when the test is over: what waits for ever waits for this.
        self.over = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def page(self, path: str, html: str | bytes, **options: Any) -> None:
        body = html.encode() if isinstance(html, str) else html
        self.routes[path] = lambda handler: handler.reply(body, **options)

    def redirect(self, path: str, to: str, status: int = 302) -> None:
        self.routes[path] = lambda handler: handler.reply(b"", status=status, Location=to)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that hung up is no news."""


@contextmanager
def serving() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.over.set()
        site.shutdown()
        thread.join()
        site.server_close()


def fetcher(site: Site, **options: Any) -> Fetcher:
    """A fetcher that may talk to ``site``, and to nothing else on this machine."""
    policy = AddressPolicy(ports=frozenset((80, 443, site.port)), allow=LOOPBACK)
    return Fetcher(policy, **{"agent": AGENT, **options})


class Waits(list[float]):
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.append(seconds)
        self.now += seconds


def reader(site: Site, folder: Path, *, fetch: dict[str, Any] | None = None, **options: Any) -> tuple[LivePages, Waits]:
    waits = Waits()
    pages = LivePages(
        fetcher=fetcher(site, **(fetch or {})),
        gates=folder,
        sleep=waits.sleep,
        clock=waits.clock,
        **{"interval": 1e-6, "retries": 1, **options},
    )
    return pages, waits


ARTICLE = """<!doctype html><html><head><title>The River Tol</title></head><body><nav><a href="/">Home</a></nav>
<article><h1>The River Tol</h1><p>The Tol is a river of 212 km. It rises near Varn and ends in Kel.</p>
<p>The dam on the Tol was built in 1932 by Ada Brim, an engineer from Varn.</p></article></body></html>"""
