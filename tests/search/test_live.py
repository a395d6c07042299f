"""Live search: the gate's arithmetic over processes, and an engine that misbehaves (a local server; no network)."""

import functools
import html
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import gymnasium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arpo_env  # noqa: F401 (registers the environments)
from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.gate import Gate
from arpo_env.search.base import Hit, SearchBackend
from arpo_env.search.live import DdgsFetcher, LiveSearch, Reply, Throttled


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now, self.waits = 1000.0, []  # type: ignore[var-annotated]

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def gate(path: Path, clock: Clock, **options: Any) -> Gate:
    return Gate(path, clock=clock, sleep=clock.sleep, **{"rate": 2.0, **options})


# ---------------------------------------------------------------------- the gate


def test_a_burst_then_the_rate(tmp_path: Path) -> None:
    clock = Clock()
    limit = gate(tmp_path / "g", clock, burst=3)
    for _ in range(6):
        limit.enter()
    assert clock.waits == [0.5, 0.5, 0.5]
    clock.now += 100  # a quiet time refills the burst, no more
    clock.waits.clear()
    for _ in range(5):
        limit.enter()
    assert clock.waits == [0.5, 0.5]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 3), max_size=40), st.integers(1, 4))
def test_never_more_than_burst_plus_rate(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[float], burst: int
) -> None:
    clock = Clock()
    limit = gate(tmp_path_factory.mktemp("g") / "g", clock, burst=burst, max_wait=1e9)
    entered = []
    for gap in gaps:
        clock.now += gap
        limit.enter()
        entered.append(clock.now)
    for i, start in enumerate(entered):
        inside = sum(start <= moment <= start + 5 for moment in entered[i:])
        assert inside <= burst + 5 * 2.0 + 1


def test_a_queue_that_is_too_long_is_refused(tmp_path: Path) -> None:
    clock = Clock()
    limit = Gate(tmp_path / "g", rate=1.0, max_wait=2.0, clock=clock, sleep=lambda _: None)
    for _ in range(3):
        limit.enter()
    with pytest.raises(InfraError, match="search: too many requests at once, the next turn is 3 s away"):
        limit.enter()
    clock.now += 1
    limit.enter()


def test_the_circuit_opens_and_a_single_probe_closes_it(tmp_path: Path) -> None:
    clock = Clock()
    limit = gate(tmp_path / "g", clock, burst=100, trip_after=3, cool_down=10.0)
    for ok in (False, False, True, False, False):
        limit.enter()
        limit.leave(ok)
    limit.enter()
    limit.leave(False)
    with pytest.raises(InfraError, match="paused for 10 s more after 3 failures"):
        limit.enter()
    clock.now += 10
    limit.enter()  # the probe
    with pytest.raises(InfraError, match="paused"):
        limit.enter()
    limit.leave(False)
    clock.now += 9
    with pytest.raises(InfraError, match="paused for 1 s"):
        limit.enter()
    clock.now += 1
    limit.enter()
    limit.leave(True)
    limit.enter()


def test_who_is_inside_may_ask_again_and_reports_once(tmp_path: Path) -> None:
    clock = Clock()
    limit = gate(tmp_path / "g", clock, burst=1, trip_after=1, cool_down=10.0)
    limit.enter()
    limit.leave(False)
    clock.now += 10
    limit.enter()  # the probe
    limit.enter(again=True)
    assert clock.waits == [0.5]  # a turn of its own all the same
    with pytest.raises(InfraError, match="paused"):
        limit.enter()
    limit.leave(True)
    limit.enter()


def test_a_damaged_file_and_a_clock_set_back_do_no_harm(tmp_path: Path) -> None:
    clock = Clock()
    for damage in ("", "{", "[]", '{"tokens": 1}', "x" * 1000):
        (tmp_path / "g").write_text(damage)
        gate(tmp_path / "g", clock).enter()
    clock.now = 0.0
    limit = gate(tmp_path / "g", clock)
    limit.enter()
    assert sum(clock.waits) <= 3


def test_bad_gates_are_refused(tmp_path: Path) -> None:
    for options in ({"rate": 0.0}, {"burst": 0}, {"trip_after": 0}, {"max_wait": -1.0}, {"cool_down": -1.0}):
        with pytest.raises(ConfigError, match="need rate > 0"):
            gate(tmp_path / "g", Clock(), **options)
    with pytest.raises(ConfigError, match="cannot be used"):
        gate(tmp_path / "no" / "g", Clock())
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot be used"):
        gate(tmp_path / "link", Clock())


ENTER = """
import json, sys
from arpo_env.gate import Gate
waits = []
gate = Gate(sys.argv[1], rate=1.0, burst=1, max_wait=1e9, clock=lambda: 5.0, sleep=waits.append)
for _ in range(20):
    gate.enter()
print(json.dumps(waits))
"""


def test_processes_and_threads_share_one_bucket(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENTER, str(tmp_path / "g")]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    waits = [wait for worker in workers for wait in json.loads(worker.communicate(timeout=60)[0])]
    own: list[float] = []
    limit = Gate(tmp_path / "g", rate=1.0, max_wait=1e9, clock=lambda: 5.0, sleep=own.append)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: limit.enter(), range(40)))
    # The clock stands still, so each of the 100 callers after the first waits one second longer than the one before.
    assert sorted(waits + own) == [float(i) for i in range(1, 100)]


# ---------------------------------------------------------------------- the backend


def live(tmp_path: Path, *replies: Reply | Exception, **options: Any) -> tuple[LiveSearch, list[str], Clock]:
    clock, asked = Clock(), []

    def fetch(query: str) -> Reply:
        asked.append(query)
        reply = replies[min(len(asked), len(replies)) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    limit = gate(tmp_path / "g", clock, rate=1000.0, burst=100, **options)
    return LiveSearch(fetch=fetch, gate=limit, sleep=clock.sleep), asked, clock


FOUND = Reply(200, "<html>", [Hit("T", "u", "b", 0.0), Hit("T2", "u", "b", -1.0)])


def test_hits_are_cut_and_nothing_found_is_no_fault(tmp_path: Path) -> None:
    backend, _, _ = live(tmp_path, FOUND)
    assert isinstance(backend, SearchBackend)
    assert not backend.deterministic
    assert [hit.title for hit in backend.search("q", 1)] == ["T"]
    backend, asked, _ = live(tmp_path, Reply(200, "<html>No results for q</html>", []))
    assert backend.search("q", 5) == []
    assert len(asked) == 1


@pytest.mark.parametrize(
    "bad",
    [
        Reply(202, "x", []),
        Reply(403, "", []),
        Reply(429, "slow down", []),
        Reply(503, "", []),
        Reply(200, "", []),
        Reply(200, "<h1>Please solve this CAPTCHA</h1>", []),
        OSError("timed out"),
    ],
)
def test_throttling_is_retried_and_never_looks_like_nothing_found(tmp_path: Path, bad: Reply | Exception) -> None:
    backend, asked, clock = live(tmp_path, bad, bad, FOUND)
    assert len(backend.search("q", 5)) == 2
    assert len(asked) == 3
    assert 1.0 <= clock.waits[0] <= 2.0 <= clock.waits[1] <= 4.0
    backend, asked, _ = live(tmp_path, bad)
    with pytest.raises(InfraError if isinstance(bad, OSError) else Throttled):
        backend.search("q", 5)
    assert len(asked) == 3


@pytest.mark.parametrize("query", ["captcha qzxv", "Are you a  robot?", "unusual traffic <b>", "anomaly-detect R&D"])
def test_an_engine_that_repeats_the_query_is_no_robot_check(tmp_path: Path, query: str) -> None:
    words = " ".join(query.split())
    forms = (query, words, html.escape(query), quote(query), quote_plus(query), words.title(), words[:17])
    for form in forms:
        backend, asked, _ = live(tmp_path, Reply(200, f"<title>{form}</title>No results for {form}", []), trip_after=1)
        assert backend.search(query, 5) == []
        assert len(asked) == 1
    backend, _, _ = live(tmp_path, Reply(200, f'<div class="anomaly-modal"> {query}', []))
    with pytest.raises(Throttled):  # what the page says of its own is still a sign
        backend.search(query, 5)


def test_a_dead_engine_is_left_alone(tmp_path: Path) -> None:
    backend, asked, _ = live(tmp_path, Reply(429, "", []), trip_after=4, cool_down=1000.0)
    for _ in range(5):
        with pytest.raises(InfraError):
            backend.search("q", 5)
    assert len(asked) == 4


# ---------------------------------------------------------------------- ddgs itself, against a local server

PAGE = """<html><body><div class="result body"><h2><a>Title &amp; one</a></h2><a href="https://example.org/1">The
body</a></div><div class="result body"><h2><a>Second</a></h2><a href="https://example.org/2">More</a></div></body></html>"""


@pytest.fixture
def engine() -> Iterator[tuple[str, dict[str, Any]]]:
    """A fake engine: answers with ``plan["status"]`` and ``plan["body"]``; remembers what it was asked."""
    plan: dict[str, Any] = {"status": 200, "body": PAGE, "asked": []}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            plan["asked"].append(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
            body = plan["body"] if isinstance(plan["body"], bytes) else plan["body"].encode()
            self.send_response(plan["status"])
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/html/", plan
    server.shutdown()
    thread.join()
    server.server_close()


def test_ddgs_is_read_with_its_status(engine: tuple[str, dict[str, Any]]) -> None:
    pytest.importorskip("ddgs")
    url, plan = engine
    fetch = DdgsFetcher("duckduckgo", "us-en", 5.0, search_url=url)
    reply = fetch("café 北京")
    assert reply.status == 200
    assert [(hit.title, hit.url) for hit in reply.hits] == [
        ("Title & one", "https://example.org/1"),
        ("Second", "https://example.org/2"),
    ]
    assert "caf%C3%A9" in plan["asked"][0]
    for status in (202, 403, 429, 500):
        plan["status"] = status
        reply = fetch("q")
        assert (reply.status, list(reply.hits)) == (status, [])
    plan.update(status=200, body="<html><body>No results.</body></html>")
    assert fetch("q") == Reply(200, plan["body"], [])


def test_ddgs_behind_the_backend_tells_throttled_from_empty(engine: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("ddgs")
    url, plan = engine
    clock = Clock()
    backend = LiveSearch(
        fetch=DdgsFetcher("duckduckgo", "us-en", 5.0, search_url=url),
        gate=gate(tmp_path / "g", clock, burst=100, trip_after=100),
        sleep=clock.sleep,
    )
    assert len(backend.search("q", 1)) == 1
    for body in ("", b"\x00\xff\xfe binary", '<div class="anomaly-modal">'):
        plan["body"] = body
        if body == b"\x00\xff\xfe binary":
            assert backend.search("q", 3) == []  # a page without results in it, whatever it is
            continue
        with pytest.raises(Throttled):
            backend.search("q", 3)
    plan.update(status=429, asked=[])
    with pytest.raises(Throttled, match="ddgs:duckduckgo:us-en answered HTTP 429"):
        backend.search("q", 3)
    assert len(plan["asked"]) == 3


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("ddgs")
    clock = Clock()
    fetch = DdgsFetcher("duckduckgo", "us-en", 2.0, search_url="http://127.0.0.1:9/")
    backend = LiveSearch(fetch=fetch, gate=gate(tmp_path / "g", clock), sleep=clock.sleep, retries=1)
    with pytest.raises(InfraError, match=r"cannot be reached: .*needs the network; .*ARPO-WebReplay-v0"):
        backend.search("q", 3)


def test_without_a_network_the_environment_names_the_way_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(query: str) -> Reply:
        raise OSError("DNS error")

    clock = Clock()
    offline = functools.partial(LiveSearch, fetch=unreachable, gate=gate(tmp_path / "g", clock), sleep=clock.sleep)
    monkeypatch.setattr("arpo_env.search.live.LiveSearch", offline)
    (tmp_path / "q.jsonl").write_text('{"question": "Who?", "answer": "Ann"}\n')
    for why in ("DNS error", "paused for .* after 5 failures in a row"):  # asked three times, then twice
        with pytest.raises(ToolUnavailable, match=rf"does not answer: .*{why}.*needs the network.*ARPO-WebReplay-v0"):
            gymnasium.make(
                "ARPO-Web-v0", path=tmp_path / "q.jsonl", name="q", tools=("search",), cassette=tmp_path / "tape.sqlite"
            )


def test_unknown_engines_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ddgs")
    with pytest.raises(ConfigError, match="did you mean 'duckduckgo'"):
        DdgsFetcher("duckduck", "us-en", 5.0)
    with pytest.raises(ConfigError, match="need timeout > 0"):
        LiveSearch(timeout=0)
    monkeypatch.setitem(sys.modules, "ddgs.engines", None)
    with pytest.raises(ToolUnavailable, match=r"pip install 'arpo\[web\]'"):
        DdgsFetcher("duckduckgo", "us-en", 5.0)
