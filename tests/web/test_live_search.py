"""The live search path against an engine that misbehaves: each bounded, each the right error. Loopback only."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import Handler, Site, Waits, serving

from arpo_env.errors import InfraError
from arpo_env.gate import Gate
from arpo_env.search.live import DdgsFetcher, LiveSearch, Throttled
from arpo_env.tools.search import SearchTool

pytest.importorskip("ddgs", reason="ddgs is not installed: pip install 'arpo[web]'")

FOUND = (
    '<html><body><div class="result body"><h2><a>Tol, the river</a></h2><a href="https://example.org/1">Café</a></div>'
)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def engine(site: Site, folder: Path, *, seconds: float = 30.0, name: str = "duckduckgo") -> LiveSearch:
    waits = Waits()
    gate = Gate(folder / "gate", rate=1e6, burst=100, trip_after=100, clock=waits.clock, sleep=waits.sleep)
    fetch = DdgsFetcher(name, "us-en", seconds, search_url=f"{site.url}/html/")
    return LiveSearch(fetch=fetch, gate=gate, sleep=waits.sleep, retries=1)


def hang(handler: Handler) -> None:
    handler.server.over.wait()


def drip(handler: Handler) -> None:
    handler.head("Content-Type: text/html", "Content-Length: 100000")
    while not handler.server.over.wait(0.01):
        handler.wfile.write(b"x")


def flood(handler: Handler) -> None:
    handler.head("Content-Type: text/html", f"Content-Length: {1 << 30}")
    while not handler.server.over.is_set():
        handler.wfile.write(b"x" * 65536)


def endless(handler: Handler) -> None:
    handler.head("Content-Type: text/html", "Transfer-Encoding: chunked")
    while not handler.server.over.is_set():
        handler.wfile.write(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")


def bomb(handler: Handler) -> None:
    handler.reply(gzip.compress(b"\0" * (50 << 20)), Content_Encoding="gzip")


def elsewhere(handler: Handler) -> None:
    handler.reply(b"", status=302, Location="http://169.254.169.254/latest/meta-data/")


def circle(handler: Handler) -> None:
    handler.reply(b"", status=302, Location="/html/")


def huge_headers(handler: Handler) -> None:
    handler.head(*(f"X-{n}: {'y' * 100}" for n in range(20_000)))


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (hang, "cannot be reached"),
        (drip, "cannot be reached"),
        (flood, "larger than 4194304 bytes"),
        (endless, "larger than 4194304 bytes"),
        (bomb, "larger than 4194304 bytes"),
        (elsewhere, r"redirects to another host \(169\.254\.169\.254\)"),
        (circle, "redirects more than 3 times"),
        (huge_headers, "cannot be reached"),
        (lambda handler: handler.wfile.write(b"no HTTP at all\r\n\r\n"), "cannot be reached"),
        (lambda handler: handler.reply(b"", status=429), "answered HTTP 429"),
        (lambda handler: handler.reply(b"", status=403), "answered HTTP 403"),
        (lambda handler: handler.reply(b"", status=503), "answered HTTP 503"),
        (lambda handler: handler.reply(b""), "robot check or an empty page"),
    ],
)
def test_each_ends_in_the_right_error(site: Site, tmp_path: Path, route: Any, message: str) -> None:
    site.routes["/html/"] = route
    backend = engine(site, tmp_path, seconds=1.0 if route in (hang, drip) else 30.0)
    with pytest.raises(InfraError, match=message) as caught:
        backend.search("tol", 3)
    assert isinstance(caught.value, Throttled) == ("answered" in message or "robot" in message)
    told = SearchTool(backend, on_fault="tell").open(0).call("tol")
    assert (told.ok, told.fault) == (False, True)


def test_a_redirect_within_the_engine_and_a_wrong_charset(site: Site, tmp_path: Path) -> None:
    site.redirect("/html/", "/results")
    site.page("/results", FOUND.encode("cp1252"), kind="text/html; charset=utf-8")
    hits = engine(site, tmp_path).search("tol", 3)
    assert [(hit.title, hit.url, hit.snippet) for hit in hits] == [("Tol, the river", "https://example.org/1", "Café")]


def test_broken_json_of_an_engine_is_a_fault(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddgs.engines.wikipedia import Wikipedia

    site.page("/api", '{"half": ', kind="application/json")
    url = f"{site.url}/api"
    monkeypatch.setattr(Wikipedia, "build_payload", lambda self, **_: setattr(self, "search_url", url) or {})
    with pytest.raises(Throttled, match="robot check or an empty page"):
        engine(site, tmp_path, name="wikipedia").search("tol", 3)
