"""The live reader as a whole: robots.txt, limits, retries, extraction; and local, recorded and generated pages."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import ARTICLE, Handler, Site, reader, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.search.base import Page
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.cache import CachedBackend, Cassette
from arpo_env.tasks.deepsearch import DeepSearchFamily
from arpo_env.tasks.deepsearch.pages import WorldPages
from arpo_env.tasks.deepsearch.world import World, WorldSpec
from arpo_env.web import extract
from arpo_env.web.address import parse_url
from arpo_env.web.base import PageFault, PageSource, Refusal
from arpo_env.web.extract import Extractor, decode, tidy
from arpo_env.web.fetch import Document
from arpo_env.web.live import LivePages
from arpo_env.web.local import LocalPages
from arpo_env.web.recorded import RecordedPages
from arpo_env.web.robots import Robots


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


# ---------------------------------------------------------------------- the live web


def test_a_page_is_read(site: Site, tmp_path: Path) -> None:
    site.page("/tol", gzip.compress(ARTICLE.encode()), Content_Encoding="gzip")
    site.redirect("/old", "/tol")
    pages, _ = reader(site, tmp_path)
    page = pages.page(f"{site.url}/old#dam")
    assert isinstance(pages, PageSource)
    assert not pages.deterministic
    assert (page.title, page.url) == ("The River Tol", f"{site.url}/tol")
    assert "The Tol is a river of 212 km." in page.text
    assert "Home" not in page.text  # the menu
    assert site.asked == ["/robots.txt", "/old", "/tol"]
    assert {headers["user-agent"] for headers in site.headers} == {"arpo-browse/test"}


def test_what_has_no_main_text_gives_all_its_text(site: Site, tmp_path: Path) -> None:
    site.page("/", "<html><title>T</title><script>var x</script><a href=/>a</a><form><label>b</label></form></html>")
    pages, _ = reader(site, tmp_path)
    page = pages.page(f"{site.url}/")
    assert (page.title, page.text) == ("T", "a\nb")
    site.page("/b", ARTICLE)
    plain, _ = reader(site, tmp_path, extractor="beautifulsoup")
    assert "Home" in plain.page(f"{site.url}/b").text
    assert plain.fingerprint != pages.fingerprint


def test_text_and_json_are_read_as_they_are(site: Site, tmp_path: Path) -> None:
    site.page("/t", "a  b\r\n\r\nc", kind="text/plain")
    site.page("/j", '{"a": 1}', kind="application/ld+json")
    site.page("/n", "no type", kind="")
    pages, _ = reader(site, tmp_path)
    assert [pages.page(site.url + path).text for path in ("/t", "/j", "/n")] == ["a b\nc", '{"a": 1}', "no type"]


def test_what_holds_no_text_is_refused(site: Site, tmp_path: Path) -> None:
    pages, _ = reader(site, tmp_path)
    site.page("/empty", "")
    site.page("/blank", "<html><body><script>app()</script></body></html>")
    site.page("/pdf", b"%PDF-1.7", kind="application/pdf")
    site.page("/png", b"\x89PNG\0\0", kind="text/html")
    for path, why in (("/empty", "no text"), ("/blank", "no text"), ("/pdf", "application/pdf"), ("/png", "binary")):
        with pytest.raises(Refusal, match=why):
            pages.page(site.url + path)


def test_robots_txt_is_obeyed_and_read_once(site: Site, tmp_path: Path) -> None:
    rules = "User-agent: *\nDisallow: /\n\nUser-agent: arpo-browse\nDisallow: /private\nCrawl-delay: 4\n"
    site.page("/robots.txt", rules, kind="text/plain")
    site.page("/a", ARTICLE)
    site.redirect("/b", "/private/x")
    pages, waits = reader(site, tmp_path)
    pages.page(f"{site.url}/a")
    pages.page(f"{site.url}/a")
    for path in ("/private/x", "/b"):
        with pytest.raises(Refusal, match="asks that this page is not read by robots"):
            pages.page(site.url + path)
    assert site.asked == ["/robots.txt", "/a", "/a", "/b"]
    assert max(waits) == pytest.approx(4.0)  # the delay it asks for


@pytest.mark.parametrize(("status", "allowed"), [(404, True), (403, True), (429, False), (500, False), (503, False)])
def test_a_robots_txt_that_cannot_be_read(site: Site, tmp_path: Path, status: int, allowed: bool) -> None:
    site.routes["/robots.txt"] = lambda handler: handler.reply(b"", status=status)
    site.page("/", ARTICLE)
    pages, _ = reader(site, tmp_path)
    if allowed:
        assert pages.page(f"{site.url}/").title == "The River Tol"
    else:
        with pytest.raises(PageFault, match=r"robots\.txt of 127\.0\.0\.1 cannot be read"):
            pages.page(f"{site.url}/")
        assert "/" not in site.asked


def test_robots_are_asked_again_after_a_day() -> None:
    now, asked = [0.0], []
    robots = Robots("arpo-browse", origins=2, clock=lambda: now[0])

    def fetch(url: str) -> Document:
        asked.append(url)
        return Document(parse_url(url), 200, "text/plain", "", b"User-agent: *\nDisallow: /*/x*y$\nCrawl-delay: 1e9")

    assert robots.check(parse_url("http://a.test/"), fetch) == 30.0
    with pytest.raises(Refusal):
        robots.check(parse_url("http://a.test/b/x_y"), fetch)
    assert len(asked) == 1
    now[0] = 86_401.0
    for host in ("a", "b", "c", "a"):  # two are kept
        robots.check(parse_url(f"http://{host}.test/"), fetch)
    assert len(asked) == 5


def test_what_may_pass_is_tried_again(site: Site, tmp_path: Path) -> None:
    def flaky(handler: Handler) -> None:
        if site.asked.count("/") < 3:
            handler.reply(b"", status=503, Retry_After="9")
        else:
            handler.reply(ARTICLE.encode())

    site.routes["/"] = flaky
    pages, waits = reader(site, tmp_path, retries=2)
    assert pages.page(f"{site.url}/").title == "The River Tol"
    assert [wait for wait in waits if wait >= 1] == [9.0, 9.0]
    site.asked.clear()
    site.routes["/"] = lambda handler: handler.reply(b"", status=403)
    with pytest.raises(PageFault, match="HTTP 403"):
        pages.page(f"{site.url}/")
    assert site.asked == ["/"]  # a "no" is not asked again
    site.routes["/"] = lambda handler: handler.reply(b"", status=429, Retry_After="3600")
    with pytest.raises(PageFault, match="HTTP 429"):
        pages.page(f"{site.url}/")
    assert site.asked == ["/", "/"]  # an hour is too long to wait, and sooner would be rude


def test_requests_to_a_host_keep_their_distance_over_all_readers(site: Site, tmp_path: Path) -> None:
    site.page("/", ARTICLE)
    first, waits = reader(site, tmp_path, interval=2.0)
    second, _ = reader(site, tmp_path, interval=2.0)
    second._sleep, second._clock = waits.sleep, waits.clock
    first.page(f"{site.url}/")  # robots.txt and the page: the burst
    second.page(f"{site.url}/")
    assert waits == pytest.approx([2.0, 2.0])


def test_a_host_that_keeps_failing_is_left_alone(site: Site, tmp_path: Path) -> None:
    site.routes["/"] = lambda handler: handler.reply(b"", status=500)
    pages, _ = reader(site, tmp_path, retries=0)
    for _ in range(5):
        with pytest.raises(PageFault):
            pages.page(f"{site.url}/")
    with pytest.raises(InfraError, match=r"reading 127\.0\.0\.1 is paused for 60 s more after 5 failures"):
        pages.page(f"{site.url}/")
    assert site.asked.count("/") == 5


def test_bad_options_of_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"seconds": 0}, {"retries": -1}, {"interval": 0}, {"max_wait": -1}):
        with pytest.raises(ConfigError, match="need seconds > 0"):
            LivePages(gates=tmp_path, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="contact"):
        LivePages(gates=tmp_path, contact="me\r\nX: y")
    with pytest.raises(ConfigError, match="did you mean 'beautifulsoup'"):
        LivePages(gates=tmp_path, extractor="beautiful")
    monkeypatch.setattr(extract.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolUnavailable, match=r"pip install 'arpo\[web\]'"):
        LivePages(gates=tmp_path)


def test_the_agent_says_who_it_is(tmp_path: Path) -> None:
    pages = LivePages(gates=tmp_path, contact="https://example.org/about")
    assert pages._fetcher.agent.startswith("arpo-browse/")
    assert pages._fetcher.agent.endswith(" (+https://example.org/about)")


# ---------------------------------------------------------------------- extraction


def document(body: bytes, kind: str = "text/html", charset: str = "") -> Document:
    return Document(parse_url("http://name.test/"), 200, kind, charset, body)


def test_pages_made_to_be_unreadable_are_given_up() -> None:
    slow = "<p " + " ".join(f"a{n}=1" for n in range(200_000)) + ">x"  # quadratic in the parser
    strict = Extractor(seconds=1.0)
    with pytest.raises(PageFault, match=r"too hard to read \(out of time\)"):
        strict.page(document(slow.encode()))
    with pytest.raises(PageFault, match=r"too hard to read \(out of memory\)"):
        Extractor(memory_bytes=200 << 20).page(document(b"<p>hello world" * 50_000))
    assert strict.page(document(ARTICLE.encode())).title == "The River Tol"  # and the next one is read


@pytest.mark.parametrize(
    ("body", "declared"),
    [
        ("Łódź, café".encode(), "utf-8"),
        ("Łódź, café".encode(), ""),
        ("Łódź, café".encode(), "latin-1 but not really"),
        ("Łódź, café".encode("utf-16"), ""),
        ("Łódź, café".encode("iso8859-2"), "iso-8859-2"),
        (b'<meta charset="iso-8859-2">' + "Łódź, café".encode("iso8859-2"), ""),
        (b"\xef\xbb\xbf" + "Łódź, café".encode(), "iso-8859-1"),
    ],
)
def test_charsets(body: bytes, declared: str) -> None:
    assert decode(body, declared).endswith("Łódź, café")


def test_wrong_charsets() -> None:
    assert decode("café, naïve, Zürich".encode("cp1252"), "utf-8") == "café, naïve, Zürich"
    assert decode("“quoted”".encode("cp1252"), "iso-8859-1") == "“quoted”"
    assert decode(("café " * 200).encode() + b"\xff", "utf-8").startswith("café café")  # one bad byte
    for name in ("punycode", "idna", "unicode_escape", "zip", "rot13", "utf-7", "no-such"):
        assert decode(b"\\x41 a-b", name) == "\\x41 a-b"


@given(st.binary(max_size=300), st.text(max_size=20))
def test_any_bytes_decode(body: bytes, declared: str) -> None:
    assert isinstance(decode(body, declared), str)


def test_long_texts_are_cut_and_say_so() -> None:
    text = tidy("word " * 100_000)
    assert len(text) < 200_100
    assert text.endswith("[the page goes on; no more of it is read]")


# ---------------------------------------------------------------------- local pages

PAGES = [
    Page("1", "Varn", "City on the Tol.", "https://w.test/Varn"),
    Page("2", "Kel 2", "Twin of Varn."),
    Page("3", "varn", "Another Varn.", "https://w.test/other/"),
]


def test_local_pages_by_url_and_by_title() -> None:
    pages = LocalPages(PAGES)
    assert isinstance(pages, PageSource)
    assert pages.deterministic
    for address in ("https://w.test/Varn", "HTTPS://W.test/varn#x", "Varn", " varn "):
        assert pages.page(address).id == "1"
    assert pages.page("https://w.test/other").id == "3"
    assert pages.page("kel 2").id == "2"
    for address in ("", "Kel", "https://w.test/"):
        with pytest.raises(Refusal, match="no such page"):
            pages.page(address)


def test_the_pages_behind_a_backend(tmp_path: Path) -> None:
    index = BM25Index.build(PAGES)
    index.save(tmp_path / "index")
    cached = CachedBackend(BM25Index.load(tmp_path / "index"), Cassette(tmp_path / "tape"), "record")
    for backend in (index, cached):
        pages = LocalPages.of(backend)
        assert pages.page("Kel 2").text == "Twin of Varn."
        assert pages.fingerprint == index.fingerprint
    with pytest.raises(ConfigError, match="NoneType has no pages to browse"):
        LocalPages.of(None)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["train", "validation", "test"]), st.integers(0, 119))
def test_every_page_of_a_world_is_found_by_its_url(split: str, number: int) -> None:
    world = World(WorldSpec(pages=120, split=split, distractors=1.0, aliases=0.5))
    page = world[number]
    assert WorldPages(world).page(page.url) == page
    assert LocalPages(world).page(page.url) == page
    for address in (page.url + "0000", page.url.replace(split, "other"), page.title, page.url.replace("https", "ftp")):
        with pytest.raises(Refusal):
            WorldPages(world).page(address)


def test_search_and_browse_of_a_world_show_the_same_pages() -> None:
    family = DeepSearchFamily(pages=120)
    pages = WorldPages(family.world("test"))
    for hit in family.backend("test").search("river", 5):
        assert pages.page(hit.url).title == hit.title


# ---------------------------------------------------------------------- recorded pages


class Source:
    deterministic = False
    fingerprint = "source"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def page(self, address: str) -> Page:
        self.asked.append(address)
        if "down" in address:
            raise PageFault("the server is down")
        if "gone" in address:
            raise Refusal("there is no such page")
        return Page(address, "T", f"read {len(self.asked)} times", address)


def test_what_was_recorded_replays_and_faults_are_not_recorded(tmp_path: Path) -> None:
    tape, source = Cassette(tmp_path / "tape.sqlite"), Source()
    recorded = RecordedPages(source, tape, "record")
    first = recorded.page("http://a/")
    assert recorded.page("http://a/") == first
    for _ in range(2):
        with pytest.raises(Refusal, match="there is no such page"):
            recorded.page("http://gone/")
        with pytest.raises(PageFault):
            recorded.page("http://down/")
    assert source.asked == ["http://a/", "http://gone/", "http://down/", "http://down/"]
    assert not recorded.deterministic
    strict = RecordedPages(None, Cassette(tmp_path / "tape.sqlite", read_only=True), "strict")
    assert strict.deterministic
    assert strict.page("http://a/") == first
    with pytest.raises(Refusal, match="there is no such page"):
        strict.page("http://gone/")
    with pytest.raises(InfraError, match=r"holds no browse answer to {'url': 'http://down/'}"):
        strict.page("http://down/")
    assert RecordedPages(source, tape, "off").page("http://a/") != first


def test_a_page_of_the_live_web_survives_its_server(tmp_path: Path) -> None:
    with serving() as site:
        site.page("/tol", ARTICLE)
        live, _ = reader(site, tmp_path)
        url = f"{site.url}/tol"
        page = RecordedPages(live, Cassette(tmp_path / "tape.sqlite"), "record").page(url)
    strict = RecordedPages(None, Cassette(tmp_path / "tape.sqlite", read_only=True), "strict")
    assert strict.page(url) == page
