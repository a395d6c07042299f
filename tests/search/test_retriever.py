"""The HTTP retriever against servers that misbehave, and our server against clients that do."""

import http.client
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.errors import ConfigError, InfraError
from arpo_env.search.base import Hit, Page, SearchBackend
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.retriever import HttpRetriever, RetrieverServer

INDEX = BM25Index.build(
    [Page("1", 'Varn "old"', "City on the Tol.\nTwo lines.", "https://w/1"), Page("2", "Kel", "Twin of Varn.")]
)
GOOD = json.dumps({"result": [[{"document": {"id": 1, "contents": '"Varn"\nA city.'}, "score": 2.5}]]}).encode()


def ok(body: bytes, *headers: str) -> bytes:
    head = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


def status(code: int, *headers: str) -> bytes:
    head = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {code} Reason\r\nContent-Length: 0\r\n{head}\r\n".encode()


Script = bytes | Callable[[socket.socket], None]


@contextmanager
def server(*scripts: Script) -> Iterator[tuple[str, list[bytes]]]:
    """A raw server: its n-th connection gets the n-th script (the last one for ever), then is closed."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(20)
                request = b""
                # The client's head and body come in two pieces; every body ends with the object's brace.
                while not request.endswith(b"}"):
                    request += connection.recv(65536)
                requests.append(request)
                script = scripts[min(len(requests), len(scripts)) - 1]
                if callable(script):
                    script(connection)
                else:
                    connection.sendall(script)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/retrieve", requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)


def client(url: str, waits: list[float] | None = None, **options: float) -> HttpRetriever:
    sleep = waits.append if waits is not None else (lambda _: None)
    return HttpRetriever(url, sleep=sleep, **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- the client


def test_it_speaks_the_format() -> None:
    with server(ok(GOOD)) as (url, requests):
        assert client(url).search("who?", 3) == [Hit("Varn", "", "A city.", 2.5)]
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /retrieve HTTP/1.1")
    assert json.loads(body) == {"queries": ["who?"], "topk": 3, "return_scores": True}


@pytest.mark.parametrize(
    ("body", "hits"),
    [
        ({"result": [[]]}, []),
        ({"result": [[{"contents": '"T"\na\nb'}]]}, [Hit("T", "", "a\nb", -0.0)]),
        ({"result": [[{"document": {"title": "T", "text": "x", "url": "u"}, "score": 1}]]}, [Hit("T", "u", "x", 1.0)]),
        ({"result": [[{"document": {"contents": "only"}, "score": 1}] * 9]}, [Hit("only", "", "", 1.0)] * 3),
    ],
)
def test_variants_of_the_format(body: object, hits: list[Hit]) -> None:
    with server(ok(json.dumps(body).encode())) as (url, _):
        assert client(url).search("q", 3) == hits


@pytest.mark.parametrize(
    "bad",
    [
        status(429),
        status(503),
        b"",
        b"nonsense\r\n\r\n",
        ok(b"<html>gateway error</html>"),
        ok(b"{}"),
        ok(b'{"result": [{"a": 1}]}'),
        ok(b'{"result": [[{"document": {"contents": 5}, "score": 1}]]}'),
        ok(b'{"result": [[{"document": {"contents": "a"}, "score": 1' + b"0" * 400 + b"}]]}"),
        ok(b"[" * 100_000),
        ok(GOOD)[:-10],
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + GOOD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + GOOD,
    ],
)
def test_a_fault_that_may_pass_is_retried_and_then_told(bad: bytes) -> None:
    waits: list[float] = []
    with server(bad, bad, ok(GOOD)) as (url, requests):
        assert client(url, waits, backoff=1.0).search("q", 1)[0].title == "Varn"
    assert len(requests) == 3
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0
    with server(bad) as (url, requests), pytest.raises(InfraError, match=r"failed \(3 attempts\)"):
        client(url, retries=2).search("q", 1)
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (status(403), "HTTP 403"),
        (status(404), "HTTP 404"),
        (status(302, "Location: http://169.254.169.254/"), "HTTP 302"),
        (ok(b"\x1f\x8b" + b"0" * 50, "Content-Encoding: gzip"), "compressed"),
        (ok(b" " * 5000), "longer than 4096 bytes"),
    ],
)
def test_a_fault_that_stays_is_told_at_once(bad: bytes, message: str) -> None:
    with server(bad) as (url, requests), pytest.raises(InfraError, match=message):
        client(url, max_bytes=4096).search("q", 1)
    assert len(requests) == 1


def test_retry_after_is_obeyed_up_to_a_bound() -> None:
    waits: list[float] = []
    scripts = (
        status(429, "Retry-After: 7"),
        status(503, "Retry-After: 9999"),
        status(429, "Retry-After: soon"),
        ok(GOOD),
    )
    with server(*scripts) as (url, _):
        client(url, waits, backoff=0.0, max_wait=20.0).search("q", 1)
    assert waits == [7.0, 20.0, 0.0]


def drip(first: bytes) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        connection.sendall(first)
        gone = threading.Event()
        while not gone.wait(0.02):
            connection.sendall(b"x")  # raises once the client is gone

    return script


@pytest.mark.parametrize(
    "first",
    [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"],
)
def test_a_server_that_drips_is_cut_off(first: bytes) -> None:
    with server(drip(first)) as (url, _), pytest.raises(InfraError, match=r"no complete reply in 0.3 s"):
        client(url, timeout=0.3, retries=0).search("q", 1)


def test_an_endless_stream_is_cut_off() -> None:
    def pour(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    with server(pour) as (url, _), pytest.raises(InfraError, match="longer than 1000000 bytes"):
        client(url, retries=0, max_bytes=1_000_000).search("q", 1)


def test_a_server_that_is_not_there() -> None:
    with server(ok(GOOD)) as (url, _):
        pass
    with pytest.raises(InfraError, match="ConnectionRefusedError"):
        client(url, retries=1).search("q", 1)


def test_the_hosts_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with server(ok(GOOD)) as (url, requests):
        client(url).search("q", 1)
    assert b"Cookie" not in requests[0]


@pytest.mark.parametrize(
    "url",
    ["ftp://x/y", "127.0.0.1:8000", "file:///etc/passwd", "http://", "http://[", "http://x:y/", "http://x:99999/"],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="url must look like"):
        HttpRetriever(url)
    with pytest.raises(ConfigError, match="timeout > 0"):
        HttpRetriever("http://x/retrieve", timeout=0)


# ---------------------------------------------------------------------- the server


def post(url: str, body: bytes, headers: dict[str, str] | None = None, path: str = "/retrieve") -> tuple[int, object]:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=20)
    try:
        connection.request("POST", path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def test_client_and_server_give_what_the_backend_gives() -> None:
    with RetrieverServer(INDEX) as served:
        assert served.url.startswith("http://127.0.0.1:")
        asked = client(served.url)
        assert isinstance(asked, SearchBackend)
        for query in ("varn", "twin kel", "zzz", "", "北京"):
            assert asked.search(query, 2) == INDEX.search(query, 2)
    with pytest.raises(InfraError):
        client(served.url, retries=0).search("varn", 1)


def test_the_wire_is_search_r1s() -> None:
    with RetrieverServer(INDEX) as served:
        code, reply = post(served.url, b'{"queries": ["kel", "zzz"], "topk": 1, "return_scores": true}')
        assert code == 200
        [[hit], nothing] = reply["result"]  # type: ignore[index]
        assert nothing == []
        assert hit["document"]["contents"] == '"Kel"\nTwin of Varn.'
        assert hit["score"] == INDEX.search("kel", 1)[0].score
        code, reply = post(served.url, b'{"queries": ["kel"]}')
        assert reply["result"][0][0]["contents"] == '"Kel"\nTwin of Varn.'  # type: ignore[index]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "no JSON"),
        (b"[]", "must be an object"),
        (b"{}", "queries must be a list"),
        (b'{"queries": []}', "queries must be a list"),
        (b'{"queries": [1]}', "queries must be a list"),
        (b'{"queries": ["a"], "topk": 0}', "topk must be"),
        (b'{"queries": ["a"], "topk": 101}', "topk must be"),
        (b'{"queries": ["a"], "topk": true}', "topk must be"),
        (json.dumps({"queries": ["a"] * 257}).encode(), "at most 256 queries"),
    ],
)
def test_bad_requests_get_a_reason(body: bytes, message: str) -> None:
    with RetrieverServer(INDEX) as served:
        code, reply = post(served.url, body)
        assert code == 400
        assert message in reply["error"]  # type: ignore[index]


def test_requests_without_end_and_wrong_paths_are_refused() -> None:
    with RetrieverServer(INDEX) as served:
        assert post(served.url, b"", {"Content-Length": "9" * 30})[0] == 400
        assert post(served.url, b"", {"Content-Length": "-5"})[0] == 400
        assert post(served.url, b"{}", path="/other")[0] == 404
        assert answers(served.url, request("http://[", b"{}")) == [b"404"]


def answers(url: str, *requests: bytes) -> list[bytes]:
    """The statuses that one connection gives to all that is sent at once."""
    host, port = url.split("/")[2].split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"".join(requests))
        connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):  # the server closed before it read all
            while part := connection.recv(65536):
                received += part
    return re.findall(rb"HTTP/1\.1 (\d+)", received)


def request(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    if not any(header.startswith("Content-Length") for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


GOOD_BODY = b'{"queries": ["kel"]}'
GOOD_REQUEST = request("/retrieve", GOOD_BODY)


def test_a_length_with_leading_zeros_is_no_way_around_the_limit() -> None:
    body = json.dumps({"queries": ["x" * (3 << 20)]}).encode()
    with RetrieverServer(INDEX) as served:
        for zeros in ("0" * 10, "0" * 3):
            code, reply = post(served.url, body[:100], {"Content-Length": f"{zeros}{len(body)}"})
            assert code == 400
            assert f"at most 1048576, got '{zeros}" in reply["error"]  # type: ignore[index]
        small = request("/retrieve", GOOD_BODY, "Content-Length: 0020")
        assert answers(served.url, small, GOOD_REQUEST) == [b"200", b"200"]


@pytest.mark.parametrize(
    ("early", "status"),
    [
        (request("/other", GOOD_REQUEST), b"404"),
        (request("/retrieve", GOOD_BODY, "Content-Length: 20", "Transfer-Encoding: chunked"), b"400"),
        (request("/health", GOOD_REQUEST, method="GET"), b"200"),
        (request("/other", GOOD_REQUEST, method="GET"), b"404"),
    ],
)
def test_a_body_that_was_not_read_is_no_next_request(early: bytes, status: bytes) -> None:
    with RetrieverServer(INDEX) as served:
        assert answers(served.url, GOOD_REQUEST, GOOD_REQUEST, early) == [b"200", b"200", status]
        bad = request("/retrieve", b"{")
        assert answers(served.url, bad, GOOD_REQUEST) == [b"400", b"200"]  # read whole: the connection stays


def test_a_backend_that_is_down_is_503_and_a_bug_is_500() -> None:
    class Broken:
        deterministic = False

        def search(self, query: str, k: int) -> list[Hit]:
            raise (InfraError("throttled") if query == "a" else RuntimeError("bug"))

    with RetrieverServer(Broken()) as served:
        assert post(served.url, b'{"queries": ["a"]}') == (503, {"error": "throttled"})
        assert post(served.url, b'{"queries": ["b"]}') == (500, {"error": "RuntimeError: bug"})
        with pytest.raises(InfraError, match="HTTP 503"):
            client(served.url, retries=1).search("a", 1)


@pytest.fixture(scope="module")
def shared() -> Iterator[RetrieverServer]:
    with RetrieverServer(INDEX) as served:
        yield served


@settings(max_examples=60, deadline=None)
@given(raw=st.binary(max_size=80))
def test_no_bytes_bring_the_server_down(shared: RetrieverServer, raw: bytes) -> None:
    host, port = shared.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(raw)
    assert client(shared.url).search("kel", 1)[0].title == "Kel"


def test_a_port_in_use_is_named(shared: RetrieverServer) -> None:
    with pytest.raises(ConfigError, match="cannot listen on 127"):
        RetrieverServer(INDEX, port=int(shared.url.rsplit(":", 1)[1].split("/")[0]))
    with pytest.raises(ConfigError, match="cannot listen on"):
        RetrieverServer(INDEX, port=99999)
