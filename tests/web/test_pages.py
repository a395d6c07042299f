"""The live reader as a whole: robots.txt, limits, retries, extraction; and local, recorded and generated pages."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile import ARTICLE, Handler, Site, Waits, reader, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.cassette import Cassette
from arpo_env.charsets import decode
from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.search.base import Page
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.cache import CachedBackend
from arpo_env.tasks.deepsearch import DeepSearchFamily
from arpo_env.tasks.deepsearch.pages import WorldPages
from arpo_env.tasks.deepsearch.world import World, WorldSpec
from arpo_env.web import extract, robots
from arpo_env.web.address import Target, parse_url
from arpo_env.web.base import PageFault, PageSource, Refusal
from arpo_env.web.extract import Extractor, tidy
from arpo_env.web.fetch import Budget, Document
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


def test_a_robots_txt_that_redirects_to_no_url(site: Site, tmp_path: Path) -> None:
    site.redirect("/robots.txt", "http://[")
    pages, _ = reader(site, tmp_path)
    with pytest.raises(PageFault, match=r"robots\.txt of 127\.0\.0\.1 cannot be read.*redirects to no URL"):
        pages.page(f"{site.url}/")


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


def rules(body: bytes, *paths: str) -> list[bool]:
    """Which of the paths a robots.txt allows."""

    def allows(path: str) -> bool:
        try:
            known.check(parse_url(f"http://a.test{path}"), lambda url: Document(parse_url(url), 200, "", "", body))
        except Refusal:
            return False
        return True

    known = Robots("arpo-browse")
    return [allows(path) for path in paths]


def test_a_robots_txt_without_end_is_read_to_512_kib_and_in_whole_lines() -> None:
    line = b"Disallow: /%07d/private-and-more\n"
    body = b"User-agent: *\n" + b"".join(line % n for n in range(90_000))
    inside = ((512 << 10) - 14) // len(line % 0)  # lines that fit whole
    paths = [f"/{n:07d}/private-and-more" for n in (0, inside - 1, inside, 89_999)]
    start = time.process_time()
    assert rules(body, *paths, f"/{inside:07d}/p", "/other") == [False, False, True, True, True, True]
    assert time.process_time() - start < 20  # 0.2 s
    assert rules(body.replace(b"\n", b"\r"), *paths) == [False, False, True, True]
    assert rules(b"Disallow: /" + b"x" * (600 << 10), "/x") == [True]


def test_many_names_above_many_rules_are_no_bomb() -> None:
    names = b"".join(b"useragent %x\n" % n for n in range(2000))
    body = names + b"User-agent: *\n" + b"".join(b"disallow:/%x/\n" % n for n in range(2000))
    text = robots._only_for("arpo-browse", body.decode())
    kept = sum(len(group._rules) for group in robots.Protego.parse(text)._user_agents.values())
    assert kept <= 4000  # and not four million
    assert rules(body, "/7cf/", "/7d0/") == [False, True]


_NAMES = ["*", "arpo", "Arpo-Browse", "arpo*", "**", "a*r*p", "browse", "other", "arpo-browse/1.0", "", "a # b"]
_LINES = st.one_of(
    st.tuples(st.sampled_from(["User-agent: ", "useragent:", "USER AGENT ", "user  agent "]), st.sampled_from(_NAMES)),
    st.tuples(st.sampled_from(["Disallow: ", "Allow:"]), st.sampled_from(["/", "/a", "/a/*b", "/a$", "", "/b"])),
    st.tuples(st.sampled_from(["Crawl-delay: "]), st.sampled_from(["1", "7", "x"])),
    st.tuples(
        st.sampled_from(["Sitemap: ", "Unknown: ", "# User-agent: ", "", "no sense "]), st.sampled_from(["*", "/a"])
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_LINES.map("".join), max_size=12).map("\n".join))
def test_striking_out_other_names_changes_nothing_for_us(text: str) -> None:
    whole, ours = (robots.Protego.parse(one) for one in (text, robots._only_for("arpo-browse", text)))
    for path in ("/", "/a", "/a/xb", "/b"):
        url = f"http://a.test{path}"
        assert whole.can_fetch(url, "arpo-browse") == ours.can_fetch(url, "arpo-browse"), text
    assert whole.crawl_delay("arpo-browse") == ours.crawl_delay("arpo-browse")


def test_what_is_kept_of_hostile_sites_is_bounded() -> None:
    body = b"User-agent: *\n" + b"Disallow: /x\n" * 60_000
    asked: list[str] = []

    def fetch(url: str) -> Document:
        asked.append(url)
        return Document(parse_url(url), 200, "", "", body)

    known = Robots("arpo-browse")
    for number in range(12):
        known.check(parse_url(f"http://{number}.test/"), fetch)
    assert known._length == sum(length for _, _, length in known._kept.values()) <= robots._MAX_KEPT
    assert 3 <= len(known._kept) < 5
    known.check(parse_url("http://11.test/"), fetch)
    assert len(asked) == 12  # the latest are still known
    known.check(parse_url("http://0.test/"), fetch)
    assert len(asked) == 13


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


class Hosts:
    """A web of hosts that redirect: where each URL leads (a fault is raised), and no robots.txt anywhere."""

    def __init__(self, folder: Path) -> None:
        self.leads: dict[str, str | PageFault] = {}
        self.waits = Waits()
        self.pages = LivePages(
            fetcher=self,  # type: ignore[arg-type]
            gates=folder,
            sleep=self.waits.sleep,
            clock=self.waits.clock,
            retries=0,
        )

    def fetch(self, url: str, budget: Budget, before: Callable[[Target], None]) -> Document:
        if url.endswith("/robots.txt"):
            before(parse_url(url))
            return Document(parse_url(url), 404, "", "", b"")
        while True:
            before(parse_url(url))
            found = self.leads.get(url)
            if isinstance(found, PageFault):
                raise found
            if found is None:
                return Document(parse_url(url), 200, "text/plain", "", b"a text")
            url = found

    def fail(self, url: str, times: int) -> None:
        for _ in range(times):
            with pytest.raises(PageFault):
                self.pages.page(url)
            self.waits.now += 5

    def failures(self) -> list[int]:
        """Of each host met, how many in a row its gate knows of."""
        return sorted(json.loads(file.read_text())["failures"] for file in self.pages._gates.iterdir())


DOWN = PageFault("down", may_pass=True)


@pytest.mark.parametrize("robots_known", [True, False])
@pytest.mark.parametrize("to", ["https://www.a.test/page", "https://a.test/page", "https://b.test/page"])
def test_a_host_that_redirects_is_left_alone_no_longer_than_it_fails(
    tmp_path: Path, to: str, robots_known: bool
) -> None:
    web = Hosts(tmp_path)
    web.leads["https://a.test/"] = DOWN
    web.fail("https://a.test/", 5)
    with pytest.raises(InfraError, match=r"reading a\.test is paused"):
        web.pages.page("https://a.test/")
    web.leads["https://a.test/"] = to
    if not robots_known:
        web.pages._robots = Robots("arpo-browse")
    web.waits.now += 120
    for _ in range(4):  # the probe, and everybody after it
        assert web.pages.page("https://a.test/").text == "a text"
    assert set(web.failures()) == {0}


def test_a_redirect_that_works_does_not_hide_that_the_host_fails(tmp_path: Path) -> None:
    web = Hosts(tmp_path)
    web.leads = {"http://a.test/": "https://a.test/", "https://a.test/": DOWN}
    web.fail("http://a.test/", 5)
    with pytest.raises(InfraError, match=r"reading a\.test is paused for .* after 5 failures"):
        web.pages.page("http://a.test/")


def test_only_the_host_that_failed_is_said_to_have_failed(tmp_path: Path) -> None:
    web = Hosts(tmp_path)
    web.leads = {"https://a.test/": "https://b.test/", "https://b.test/": "https://a.test/x", "https://a.test/x": DOWN}
    web.fail("https://a.test/", 1)
    assert web.failures() == [0, 1]
    web.leads = {"https://a.test/": "https://b.test/", "https://b.test/": DOWN}
    web.fail("https://a.test/", 5)
    assert web.failures() == [0, 5]


def test_a_host_that_leads_to_one_left_alone_has_answered_all_the_same(tmp_path: Path) -> None:
    web = Hosts(tmp_path)
    web.leads = {"https://a.test/": DOWN, "https://b.test/": DOWN}
    web.fail("https://a.test/", 5)
    web.waits.now += 60
    web.fail("https://b.test/", 5)
    assert web.failures() == [5, 5]
    web.leads["https://a.test/"] = "https://b.test/"
    with pytest.raises(InfraError, match=r"reading b\.test is paused"):
        web.pages.page("https://a.test/")  # the probe of a.test
    assert web.failures() == [0, 5]


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
