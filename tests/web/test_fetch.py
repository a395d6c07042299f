"""The fetcher against servers that misbehave: each bounded, each the right error. Loopback only."""

from __future__ import annotations

import gzip
import shutil
import socket
import ssl
import subprocess
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from hostile import AGENT, Handler, Site, fetcher, serving

from arpo_env.errors import ConfigError
from arpo_env.web.address import AddressPolicy
from arpo_env.web.base import PageFault, Refusal
from arpo_env.web.fetch import Budget, Document, Fetcher, resolve

GLOBAL = "93.184.216.34"
#: Far more than anything here takes, also on a busy machine.
AMPLE = 60.0


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def get(site: Site, path: str, *, seconds: float = AMPLE, **options: Any) -> Document:
    return fetcher(site, **options).fetch(site.url + path, Budget(seconds))


def test_a_page(site: Site) -> None:
    site.page("/a?b=%20c", "<p>ü</p>")
    document = get(site, "/a?b=%20c#part")
    assert (document.status, document.media_type, document.charset) == (200, "text/html", "utf-8")
    assert document.body == "<p>ü</p>".encode()
    assert site.headers == [
        {"host": f"127.0.0.1:{site.port}", "user-agent": AGENT, "accept-encoding": "gzip, deflate",
         "accept": "text/html, application/xhtml+xml, text/plain;q=0.9, */*;q=0.1", "connection": "close"}
    ]  # fmt: skip


def test_nothing_of_the_host_goes_along(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    site.routes["/"] = lambda handler: handler.reply(b"x", status=302, Location="/next", Set_Cookie="id=1; Path=/")
    site.page("/next", "x")
    reading = fetcher(site)
    for _ in range(2):
        assert reading.fetch(f"{site.url}/", Budget(AMPLE)).body == b"x"
    assert site.asked == ["/", "/next"] * 2
    assert not {name for headers in site.headers for name in headers} & {"cookie", "authorization", "referer"}


# ---------------------------------------------------------------------- where it may go


def test_loopback_is_not_read_unless_it_is_allowed(site: Site) -> None:
    site.page("/", "secret")
    strict = Fetcher(AddressPolicy(ports=frozenset((site.port,))), agent=AGENT)
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(Refusal, match="not on the public web"):
            strict.fetch(f"http://{host}:{site.port}/", Budget(AMPLE))
    assert site.asked == []


class Wires:
    """A resolver with a script, and a dialler that notes the address and connects to ``site`` instead."""

    def __init__(self, site: Site, *answers: Sequence[str]) -> None:
        self.site, self.answers, self.resolved = site, list(answers), list[str]()
        self.dialled: list[str] = []

    def resolve(self, host: str, port: int) -> Sequence[str]:
        self.resolved.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def dial(self, address: str, port: int, seconds: float) -> httpcore2.NetworkStream:
        self.dialled.append(address)
        return httpcore2.SyncBackend().connect_tcp("127.0.0.1", self.site.port, timeout=seconds)

    def fetcher(self, **options: Any) -> Fetcher:
        return Fetcher(AddressPolicy(), **{"agent": AGENT, "resolver": self.resolve, "dialler": self.dial, **options})


def test_a_name_that_changes_its_answer_is_dialled_where_it_was_checked(site: Site) -> None:
    site.page("/", "public")
    wires = Wires(site, [GLOBAL], ["127.0.0.1"])
    assert wires.fetcher().fetch("http://name.test/", Budget(AMPLE)).body == b"public"
    assert (wires.resolved, wires.dialled) == (["name.test"], [GLOBAL])
    with pytest.raises(Refusal, match=r"name\.test is not on the public web"):
        wires.fetcher().fetch("http://name.test/", Budget(AMPLE))
    assert wires.dialled == [GLOBAL]


def test_each_redirect_is_checked_anew(site: Site) -> None:
    site.redirect("/", "/again")
    site.page("/again", "never read")
    wires = Wires(site, [GLOBAL], ["127.0.0.1"])
    with pytest.raises(Refusal, match="not on the public web"):
        wires.fetcher().fetch("http://name.test/", Budget(AMPLE))
    assert site.asked == ["/"]


@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/", "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::a9fe:a9fe]/", "http://[2002:7f00:1::]/", "http://2130706433/", "file:///etc/passwd",
        "//127.0.0.1/", "http://name.test:22/", "https://user:pw@name.test/", "ftp://name.test/", "gopher://127.0.0.1:6379/_",
    ],
)  # fmt: skip
def test_redirects_into_the_machine_are_refused(site: Site, to: str) -> None:
    site.redirect("/", to)
    wires = Wires(site, [GLOBAL])
    with pytest.raises(Refusal):
        wires.fetcher().fetch("http://name.test/", Budget(AMPLE))
    assert site.asked == ["/"]


@pytest.mark.parametrize("to", ["http://[", "//[x]/", "http://[::1/", "//a]b/"])
def test_a_redirect_to_no_url_is_the_servers_fault(site: Site, to: str) -> None:
    site.redirect("/", to)
    with pytest.raises(PageFault, match=r"127\.0\.0\.1 redirects to no URL"):
        get(site, "/")


def test_one_bad_address_among_good_ones_spoils_the_name(site: Site) -> None:
    wires = Wires(site, [GLOBAL, "10.0.0.1"])
    with pytest.raises(Refusal):
        wires.fetcher().fetch("http://name.test/", Budget(AMPLE))
    assert wires.dialled == []


def test_the_next_address_is_tried_when_one_does_not_answer(site: Site) -> None:
    site.page("/", "x")
    wires = Wires(site, ["2606:4700::1111", GLOBAL])

    def dial(address: str, port: int, seconds: float) -> httpcore2.NetworkStream:
        if ":" in address:
            wires.dialled.append(address)
            raise httpcore2.ConnectError("no route")
        return wires.dial(address, port, seconds)

    assert wires.fetcher(dialler=dial).fetch("http://name.test/", Budget(AMPLE)).body == b"x"
    assert wires.dialled == ["2606:4700::1111", GLOBAL]


def test_redirects_in_a_circle_and_without_end(site: Site) -> None:
    site.redirect("/a", "/b")
    site.redirect("/b", "/a")
    with pytest.raises(PageFault, match="in a circle"):
        get(site, "/a")
    for number in range(50):
        site.redirect(f"/{number}", f"/{number + 1}", status=307)
    with pytest.raises(PageFault, match="more than 5 times"):
        get(site, "/0")
    assert len(site.asked) == 2 + 6
    site.routes["/nowhere"] = lambda handler: handler.reply(b"", status=301)
    with pytest.raises(PageFault, match="HTTP 301"):
        get(site, "/nowhere").check_status()


def test_names_that_do_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(code: int) -> Any:
        def getaddrinfo(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(code, "as the system says it")

        return getaddrinfo

    monkeypatch.setattr(socket, "getaddrinfo", failing(socket.EAI_NONAME))
    with pytest.raises(Refusal, match="there is no host"):
        resolve("nobody.test", 80)
    monkeypatch.setattr(socket, "getaddrinfo", failing(socket.EAI_AGAIN))
    with pytest.raises(PageFault, match="could not be resolved") as caught:
        resolve("nobody.test", 80)
    assert caught.value.may_pass


def test_a_resolver_that_hangs(site: Site) -> None:
    def hang(host: str, port: int) -> Sequence[str]:
        site.over.wait()
        return []

    with pytest.raises(PageFault, match="could not be resolved in time"):
        Fetcher(AddressPolicy(), agent=AGENT, resolver=hang).fetch("http://name.test/", Budget(0.2))


# ---------------------------------------------------------------------- how long it may take


def silent(handler: Handler) -> None:
    handler.server.over.wait()


def silent_after_the_headers(handler: Handler) -> None:
    handler.head("Content-Type: text/html", "Content-Length: 10")
    handler.server.over.wait()


def dripping(handler: Handler) -> None:
    handler.head("Content-Type: text/html", "Content-Length: 100000")
    while not handler.server.over.wait(0.01):
        handler.wfile.write(b"x")


def dripping_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.over.wait(0.01):
        handler.wfile.write(b"X: y\r\n")


def endless_continue(handler: Handler) -> None:
    while not handler.server.over.wait(0.001):
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")


@pytest.mark.parametrize("route", [silent, silent_after_the_headers, dripping, dripping_headers, endless_continue])
def test_slow_servers_run_out_of_time(site: Site, route: Any) -> None:
    site.routes["/"] = route
    with pytest.raises(PageFault, match=r"no complete reply in 0\.3 s|did not answer in time") as caught:
        get(site, "/", seconds=0.3)
    assert caught.value.may_pass


def test_waiting_for_ones_turn_is_not_taken_off() -> None:
    now = [0.0]
    budget = Budget(10.0, clock=lambda: now[0])
    now[0] = 4.0
    with budget.paused():
        now[0] = 100.0
    assert budget.left() == 6.0
    now[0] = 106.0
    with pytest.raises(PageFault, match="no complete reply in 10 s"):
        budget.left()


# ---------------------------------------------------------------------- how much it may send


def test_a_body_that_announces_a_gigabyte_is_not_even_begun(site: Site) -> None:
    sent: list[int] = []

    def route(handler: Handler) -> None:
        handler.head("Content-Type: text/html", f"Content-Length: {1 << 30}")
        while not handler.server.over.is_set():
            handler.wfile.write(b"x" * 65536)
            sent.append(65536)

    site.routes["/"] = route
    with pytest.raises(PageFault, match="larger than 3145728 bytes"):
        get(site, "/")
    assert sum(sent) < 32 << 20  # what the sockets' buffers took


@pytest.mark.parametrize("chunked", [True, False])
def test_a_stream_without_end_is_cut(site: Site, chunked: bool) -> None:
    def route(handler: Handler) -> None:
        handler.head("Content-Type: text/html", *(["Transfer-Encoding: chunked"] if chunked else []))
        part = b"x" * 65536
        while not handler.server.over.is_set():
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)

    site.routes["/"] = route
    with pytest.raises(PageFault, match="larger than 100000 bytes"):
        get(site, "/", max_bytes=100_000)


def bomb(coding: str) -> bytes:
    """A hundred megabytes in about a hundred kilobytes."""
    wbits = {"gzip": 31, "deflate": 15, "raw": -15}[coding]
    machine = zlib.compressobj(9, wbits=wbits)
    return b"".join(machine.compress(b"\0" * (1 << 20)) for _ in range(100)) + machine.flush()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw"])
def test_compression_bombs_are_not_inflated(site: Site, coding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inflated: list[int] = []
    real = zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self._machine = real(wbits)

        def decompress(self, data: bytes, most: int) -> bytes:
            out = self._machine.decompress(data, most)
            inflated.append(len(out))
            return out

    body = bomb(coding)
    monkeypatch.setattr(zlib, "decompressobj", Counting)
    site.page("/", body, Content_Encoding="deflate" if coding == "raw" else coding)
    with pytest.raises(PageFault, match="larger than 3145728 bytes"):
        get(site, "/")
    assert sum(inflated) == (3 << 20) + 1


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "x" * 1000])
def test_codings_that_were_not_asked_for_are_not_undone(site: Site, coding: str) -> None:
    site.page("/", b"\x1b\x00", Content_Encoding=coding)
    with pytest.raises(PageFault, match="which was not asked for"):
        get(site, "/")


@pytest.mark.parametrize(
    ("coding", "body"),
    [("gzip", gzip.compress(b"text" * 99, mtime=0)), ("deflate", zlib.compress(b"text" * 99)),
     ("deflate", zlib.compress(b"text" * 99)[2:-4]), ("identity", b"text" * 99)],
)  # fmt: skip
def test_honest_codings(site: Site, coding: str, body: bytes) -> None:
    site.page("/", body, Content_Encoding=coding)
    assert get(site, "/").body == b"text" * 99


@pytest.mark.parametrize(
    "body", [b"no gzip at all", gzip.compress(b"text" * 999, mtime=0)[:-20], gzip.compress(b"x", mtime=0)[:5]]
)
def test_damaged_codings(site: Site, body: bytes) -> None:
    site.page("/", body, Content_Encoding="gzip")
    with pytest.raises(PageFault, match="damaged page") as caught:
        get(site, "/")
    assert caught.value.may_pass


def test_huge_headers(site: Site) -> None:
    site.routes["/long"] = lambda handler: handler.head("X: " + "y" * 300_000, "Content-Length: 0")
    site.routes["/many"] = lambda handler: handler.head(*(f"X-{n}: {'y' * 100}" for n in range(5000)))
    for path in ("/long", "/many"):
        with pytest.raises(PageFault, match="does not speak proper HTTP"):
            get(site, path)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"\x16\x03\x01\x02\x00",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http(site: Site, raw: bytes) -> None:
    site.routes["/"] = lambda handler: handler.wfile.write(raw)
    with pytest.raises(PageFault):
        get(site, "/").check_status()


def test_a_server_that_is_not_there_or_hangs_up(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        port = taken.getsockname()[1]
        policy = AddressPolicy(ports=frozenset((port,)), allow=("127.0.0.1/32",))
        with pytest.raises(PageFault, match="cannot be reached") as caught:
            Fetcher(policy, agent=AGENT).fetch(f"http://127.0.0.1:{port}/", Budget(AMPLE))
    assert caught.value.may_pass

    def reset(handler: Handler) -> None:
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # on, zero seconds: closing sends a reset
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()

    site.routes["/"] = reset
    with pytest.raises(PageFault):
        get(site, "/")


# ---------------------------------------------------------------------- what a status means


@pytest.mark.parametrize(("status", "kind"), [(404, "gone"), (410, "gone"), (401, "gone"), (451, "gone"), (400, "gone"),
                                              (403, "fault"), (407, "fault"), (418, "gone"), (304, "fault"),
                                              (429, "passes"), (500, "passes"), (502, "passes"), (503, "passes"),
                                              (501, "fault"), (206, "fault"), (204, "fault")])  # fmt: skip
def test_statuses(site: Site, status: int, kind: str) -> None:
    site.routes["/"] = lambda handler: handler.reply(b"", status=status, Retry_After="7")
    document = get(site, "/")
    with pytest.raises(Refusal if kind == "gone" else PageFault, match=f"HTTP {status}") as caught:
        document.check_status()
    if isinstance(caught.value, PageFault):
        assert (caught.value.may_pass, caught.value.retry_after) == ((True, 7.0) if kind == "passes" else (False, 0.0))


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="max_bytes >= 1"):
        Fetcher(AddressPolicy(), agent=AGENT, max_bytes=0)


# ---------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for good.test, and its key, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate to test with")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -keyout key -out cert"
    command += " -subj /CN=good.test -addext subjectAltName=DNS:good.test"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    (folder / "both").write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return folder / "both"


def test_the_certificate_is_checked_for_the_name_not_the_address(certificate: Path) -> None:
    asked_for: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda sock, name, _: asked_for.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))
    site = Site()
    site.socket = context.wrap_socket(site.socket, server_side=True)
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        site.page("/", "over TLS")
        wires = Wires(site, [GLOBAL])
        document = wires.fetcher(ssl_context=trusting).fetch("https://good.test/", Budget(AMPLE))
        assert (document.body, asked_for, wires.dialled) == (b"over TLS", ["good.test"], [GLOBAL])
        for name, its_context in (("evil.test", trusting), ("good.test", None)):
            with pytest.raises(PageFault, match=f"the certificate of {name} is not valid"):
                wires.fetcher(ssl_context=its_context).fetch(f"https://{name}/", Budget(AMPLE))
        assert site.asked == ["/"]
    finally:
        site.shutdown()
        thread.join()
        site.server_close()
