"""The browse tool: what may stand between the tags, what comes back, faults, forks, environments. No network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env import registration
from arpo_env.cassette import Cassette
from arpo_env.env import AgentEnv
from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.protocol import answer_turn, result_body, tool_turn
from arpo_env.search import live as live_search
from arpo_env.search.base import Hit, Page
from arpo_env.search.bm25 import BM25Index
from arpo_env.tools.browse import BrowseTool
from arpo_env.tools.search import SearchTool
from arpo_env.web import live as live_pages
from arpo_env.web.base import PageFault, Refusal
from arpo_env.web.chunks import find, split
from arpo_env.web.local import LocalPages
from arpo_env.web.summary import Summariser

LONG = "\n".join(f"Paragraph {n} says that the {n}th river is {n * 7} km long." for n in range(1, 61))
PAGES = [
    Page("1", "The Rivers", LONG, "https://w.test/rivers"),
    Page("2", "Varn", "City on the Tol. Founded in 1432.", "https://w.test/varn"),
    Page("3", "Apollo 11", "A mission.", ""),
]
RIVERS = "https://w.test/rivers"


class Pages:
    """A source that fails as it is told."""

    deterministic = True
    fingerprint = "pages"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[str] = []

    def page(self, address: str) -> Page:
        self.asked.append(address)
        if self.error is not None:
            raise self.error
        return LocalPages(PAGES).page(address)


def browse(*arguments: str, **options: Any) -> list[str]:
    session = BrowseTool(LocalPages(PAGES), **{"chars": 300, **options}).open(0)
    return [session.call(argument).text for argument in arguments]


# ---------------------------------------------------------------------- what may be written


def test_a_page_its_chunks_and_what_is_found_in_it() -> None:
    first, second, again, found, here, other = browse(
        RIVERS, f"{RIVERS} 2", "1", f"{RIVERS} find: 21th river", "find: 33th  RIVER", "https://w.test/varn"
    )
    assert first.startswith("The Rivers (chunk 1 of 15)\nParagraph 1 says")
    assert second.startswith("The Rivers (chunk 2 of 15)\nParagraph 6 says")
    assert again == first
    assert found.splitlines()[:2] == [
        "The Rivers (found)",
        "[chunk 5] Paragraph 21 says that the 21th river is 147 km long.",
    ]
    assert "[chunk 8] Paragraph 33 says" in here
    assert other == "Varn\nCity on the Tol. Founded in 1432."


@pytest.mark.parametrize(
    "argument", ["2", "#2", "chunk 2", "Chunk #2", f"{RIVERS} chunk 2", f" {RIVERS}\n2 ", "the rivers 2"]
)
def test_ways_to_write_a_chunk(argument: str) -> None:
    assert browse(RIVERS, argument)[1].startswith("The Rivers (chunk 2 of 15)")


def test_a_title_that_ends_in_a_number() -> None:
    assert browse("Apollo 11", "apollo 11 1", "Apollo") == [
        "Apollo 11\nA mission.",
        "Apollo 11\nA mission.",
        "Error: there is no such page.",
    ]


def test_mistakes_are_told_and_change_nothing() -> None:
    session = BrowseTool(LocalPages(PAGES), chars=300).open(0)
    for argument, told in (
        ("", "nothing to open"),
        ("3", "no page is open yet"),
        ("find: x", "no page is open yet"),
        ("find:", "no page is open yet"),
    ):
        result = session.call(argument)
        assert not result.ok
        assert result.text.startswith(f"Error: {told}"), result.text
    session.call(RIVERS)
    for argument, told in (
        ("16", "Error: the page has 15 chunks, there is no chunk 16."),
        ("0", "Error: the page has 15 chunks, there is no chunk 0."),
        ("find:", "Error: nothing to find; write words after find:."),
        ("https://w.test/none", "Error: there is no such page."),
        ("http://127.0.0.1/", "Error: there is no such page."),
    ):
        result = session.call(argument)
        assert (result.ok, result.fault, result.text) == (False, False, told)
    assert session.call("2").text.startswith("The Rivers (chunk 2")
    assert session.call("find: volcano").ok  # nothing found is an honest outcome
    assert session.call("find: volcano").text == "The Rivers: nothing found about 'volcano' on this page."


@settings(max_examples=200)
@given(st.lists(st.text(max_size=30) | st.sampled_from([RIVERS, "2", "find: 7", f"{RIVERS} 99"]), max_size=5))
def test_any_argument_gives_a_bounded_result(arguments: list[str]) -> None:
    for text in browse(*arguments, chars=200):
        assert 0 < len(text) <= 400  # what is told about an argument may quote it


@given(st.text(alphabet=st.sampled_from("ab .\n。é"), max_size=400), st.integers(20, 60))
def test_chunks_lose_nothing_but_white_space(text: str, chars: int) -> None:
    pieces = split(text, chars)
    assert all(0 < len(piece) <= chars for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_chunks_end_where_sentences_do() -> None:
    assert split("One two three. Four five. Six", 20) == ["One two three.", "Four five. Six"]
    assert split("One two three.\nFour. Five. Six", 20) == ["One two three.", "Four. Five. Six"]
    assert split("One. Three four five", 15) == ["One. Three", "four five"]  # too early a full stop
    assert [len(piece) for piece in split("x" * 50, 20)] == [20, 20, 10]


def test_found_passages_are_the_best_ones_in_page_order() -> None:
    pieces = ["The river is long. A city.", "Its river port is in the city of Kel. Nothing.", "The CITY river, again."]
    found = find(pieces, "city river", limit=2, chars=100)
    assert [(f.chunk, f.text) for f in found] == [
        (2, "Its river port is in the city of Kel."),
        (3, "The CITY river, again."),
    ]
    assert find(pieces, "café", limit=2, chars=100) == []
    long = find(["word " * 50 + "needle in here " + "word " * 50], "needle", limit=1, chars=60)[0].text
    assert "needle in here" in long
    assert len(long) <= 60
    assert long[0] == long[-1] == "…"


# ---------------------------------------------------------------------- faults


def test_a_fault_is_raised_or_told_as_the_user_chose() -> None:
    fault = PageFault("server 10.0.0.7 is down")
    with pytest.raises(PageFault):
        BrowseTool(Pages(fault)).open(0).call("https://w.test/")
    tool = BrowseTool(Pages(fault), on_fault="tell")
    result = tool.open(0).call("https://w.test/")
    assert (result.ok, result.fault) == (False, True)
    assert result.text == "The page could not be read. Try again later, or go on without it."
    assert tool.faults.told == {"PageFault": 1}
    with pytest.raises(ConfigError, match="did you mean 'tell'"):
        BrowseTool(Pages(), on_fault="tel")  # type: ignore[arg-type]


def test_the_search_tool_has_the_same_choice() -> None:
    class Down:
        deterministic = True

        def search(self, query: str, k: int) -> list[Hit]:
            raise live_search.Throttled("HTTP 429 for user me")

    with pytest.raises(live_search.Throttled):
        SearchTool(Down()).open(0).call("q")
    tool = SearchTool(Down(), on_fault="tell")
    result = tool.open(0).call("q")
    assert (result.ok, result.fault, "429" in result.text) == (False, True, False)
    assert tool.faults.told == {"Throttled": 1}


def test_a_source_that_does_not_answer_stops_the_run() -> None:
    with pytest.raises(ToolUnavailable, match="the pages of Pages cannot be read: the disk is gone"):
        BrowseTool(Pages(InfraError("the disk is gone"))).check()
    BrowseTool(Pages(Refusal("none"))).check()
    for options in ({"chars": 100}, {"keep": 0}):
        with pytest.raises(ConfigError):
            BrowseTool(Pages(), **options)  # type: ignore[arg-type]


def test_a_fault_is_no_mistake_of_the_policy_in_an_episode(tmp_path: Path) -> None:
    env = dataset(tmp_path, browse=Pages(), on_fault="tell")
    env.reset(seed=0)
    pages = env.unwrapped._toolbox("test")["browse"].pages  # type: ignore[attr-defined]
    info = env.step(tool_turn("t", "browse", "https://w.test/none"))[4]
    assert (info["tool_error"], info["tool_faults"]) == (True, 0)
    pages.error = PageFault("down")
    observation, _, _, _, info = env.step(tool_turn("t", "browse", RIVERS))
    assert (info["tool_error"], info["tool_faults"]) == (False, 1)
    assert "could not be read" in observation
    twin = env.unwrapped.clone()  # type: ignore[attr-defined]
    assert twin.step(tool_turn("t", "browse", RIVERS))[4]["tool_faults"] == 2
    assert env.step(answer_turn("t", "6"))[4]["tool_faults"] == 1
    pages.error = None
    void = dataset(tmp_path, browse=pages)
    void.reset(seed=0)
    pages.error = PageFault("down")
    with pytest.raises(PageFault):
        void.step(tool_turn("t", "browse", RIVERS))
    with pytest.raises(gymnasium.error.ResetNeeded):
        void.step(answer_turn("t", "6"))


# ---------------------------------------------------------------------- sessions


def test_forks_read_on_their_own_and_states_come_back() -> None:
    tool = BrowseTool(LocalPages(PAGES), chars=300)
    session = tool.open(0)
    session.call(f"{RIVERS} 3")
    twin = session.fork()
    twin.call("varn")
    assert session.call("2").text.startswith("The Rivers (chunk 2")
    assert twin.call("1").text.startswith("Varn\n")
    state = json.loads(json.dumps(session.get_state()))
    assert tool.open(0, state).call("2") == session.call("2")
    for bad in (1, {}, {"version": 2, "at": ""}, {"version": 1, "at": None}):
        with pytest.raises(ConfigError, match="browse session state"):
            tool.open(0, bad)


def test_a_page_is_asked_for_once_and_the_oldest_is_forgotten() -> None:
    pages = Pages()
    session = BrowseTool(pages, chars=300, keep=1).open(0)
    for argument in (RIVERS, "2", "3", f"{RIVERS} find: 7", "varn", RIVERS):
        session.call(argument)
    assert pages.asked == [RIVERS, "varn", RIVERS]


# ---------------------------------------------------------------------- summaries


@dataclass
class Reply:
    text: str
    finish_reason: str = "stop"


class Model:
    """Stands for a served model."""

    model = "reader-7b"

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer, self.asked = answer, list[Sequence[Mapping[str, Any]]]()

    def complete(self, messages: Sequence[Mapping[str, Any]], *, temperature: float, max_tokens: int) -> Reply:
        self.asked.append(messages)
        assert temperature == 0.0
        return Reply(self.answer(messages[-1]["content"]))


def test_a_model_reads_the_page_instead(tmp_path: Path) -> None:
    model = Model(lambda text: f"147 km. <search>x</search> {len(text)}")
    tape = Cassette(tmp_path / "tape.sqlite")
    tool = BrowseTool(
        LocalPages(PAGES), chars=300, summary=Summariser(model, cassette=tape, mode="record", page_chars=500)
    )
    assert not tool.deterministic
    assert "a summary comes back" in tool.description
    session = tool.open(0)
    result = session.call(f"{RIVERS} find: how long is river 21?")
    assert result.text.startswith("The Rivers (summary)\n147 km.")
    asked = model.asked[0][-1]["content"]
    assert "how long is river 21?" in asked
    assert LONG[:500] in asked
    assert LONG[:501] not in asked
    assert session.call("2").text.startswith("The Rivers (chunk 2")  # chunks are there still
    session.call("find: how long is river 21?")
    assert len(model.asked) == 1
    replay = Summariser(None, cassette=tape, mode="strict", corpus="reader-7b", page_chars=500)
    assert replay.deterministic
    again = BrowseTool(LocalPages(PAGES), chars=300, summary=replay).open(0)
    assert again.call(f"{RIVERS} find: how long is river 21?") == result
    with pytest.raises(InfraError, match="holds no browse-summary answer"):
        again.call("find: something else")


def test_a_model_that_says_nothing_is_a_fault() -> None:
    tool = BrowseTool(LocalPages(PAGES), summary=Summariser(Model(lambda _: " ")))
    with pytest.raises(InfraError, match=r"reader-7b.*empty summary"):
        tool.open(0).call(RIVERS)
    for options in ({"words": 0}, {"mode": "record"}, {"chat": None}):
        with pytest.raises(ConfigError):
            Summariser(**{"chat": Model(str), **options})  # type: ignore[arg-type]


# ---------------------------------------------------------------------- environments


def dataset(folder: Path, env_id: str = "ARPO-Dataset-v0", **options: Any) -> gymnasium.Env[str, str]:
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n} + {n}?", "answer": str(2 * n)}) + "\n" for n in range(3, 9)))
    if env_id == "ARPO-Dataset-v0":
        options = {"tools": ("search", "browse"), "search": BM25Index.build(PAGES), **options}
    return gymnasium.make(env_id, path=str(file), name="sums", verifier="math", **options)


def test_hits_show_addresses_only_where_pages_can_be_opened(tmp_path: Path) -> None:
    env = dataset(tmp_path)
    _, info = env.reset(seed=0)
    assert "<browse>URL, or URL 2 (its chunk 2), or URL find: words</browse>" in info["messages"][0]["content"]
    assert env.unwrapped.stop_strings == ("</browse>", "</search>", "</answer>")  # type: ignore[attr-defined]
    hits = env.step(tool_turn("t", "search", "Varn"))[0]
    assert result_body(hits) == "[1] Varn: City on the Tol. Founded in 1432.\nhttps://w.test/varn"
    assert result_body(env.step(tool_turn("t", "browse", "https://w.test/varn"))[0]).startswith("Varn\nCity")
    off = dataset(tmp_path, tools=("search",))
    _, info = off.reset(seed=0)
    assert "browse" not in info["messages"][0]["content"]
    assert result_body(off.step(tool_turn("t", "search", "Varn"))[0]) == "[1] Varn: City on the Tol. Founded in 1432."


def test_without_browse_nothing_has_changed() -> None:
    env = gymnasium.make("ARPO-DeepSearch-v0", pages=120, tools=("search",), arithmetic=0.0)
    _, info = env.reset(seed=0)
    assert "browse" not in json.dumps(info["messages"])
    assert "http" not in env.step(tool_turn("t", "search", "river"))[0]
    assert env.unwrapped.max_tool_calls == 6  # type: ignore[attr-defined]
    paper = {"pages": 120, "arithmetic": 0.0, "prompt": "paper"}
    first = gymnasium.make("ARPO-DeepSearch-v0", tools=("search",), **paper).reset(seed=0)[1]["messages"][0]["content"]
    more = gymnasium.make("ARPO-DeepSearch-v0", tools=("search", "browse"), **paper).reset(seed=0)[1]["messages"][0]
    assert more["content"].startswith(first)
    assert more["content"].removeprefix(first).startswith(" You can also use the browse tool: <browse> URL")


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown tool 'brows'; did you mean 'browse'"):
        dataset(tmp_path, tools=("search", "brows"))
    with pytest.raises(ConfigError, match="browse_chars=2000 does not fit into max_result_chars=1000"):
        dataset(tmp_path, browse_chars=2000)
    with pytest.raises(ConfigError, match="leaves out"):
        dataset(tmp_path, tools=("search",), browse=LocalPages(PAGES))
    with pytest.raises(ConfigError, match="has no pages to browse"):
        dataset(tmp_path, tools=("browse",), search=None)
    dataset(tmp_path, browse_chars=2000, max_result_chars=None)


def test_a_corpus_without_search_can_be_browsed(tmp_path: Path) -> None:
    env = dataset(tmp_path, tools=("browse",), search=None, browse=LocalPages(PAGES))
    check_env(env.unwrapped)
    env.reset(seed=0)
    assert "A mission." in env.step(tool_turn("t", "browse", "Apollo 11"))[0]


@pytest.mark.parametrize("hard", [{}, {"stale": 0.5, "aliases": 1.0, "distractors": 1.0}])
def test_the_expert_of_deep_search_opens_pages_and_stays_right(hard: dict[str, float]) -> None:
    env = gymnasium.make(
        "ARPO-DeepSearch-v0", pages=400, arithmetic=0.0, tools=("search", "browse"), split="test", **hard
    ).unwrapped
    assert isinstance(env, AgentEnv)
    opened = 0
    for index in range(40):
        env.reset(seed=3, options={"index": index})
        expert = env.family.expert(env.task)
        turn, done = next(expert), False
        while not done:
            opened += "<browse>" in turn
            observation, _, terminated, truncated, info = env.step(turn)
            done = terminated or truncated
            turn = turn if done else expert.send(observation)
        assert info["is_success"], info["messages"]
    assert opened > 40


# ---------------------------------------------------------------------- live and replayed


class Engine:
    """Stands for the live web: search and pages."""

    deterministic = False
    fingerprint = "ddgs:test"

    def __init__(self, *_: Any, **__: Any) -> None:
        self.count = 0

    def search(self, query: str, k: int) -> list[Hit]:
        self.count += 1
        if "throttle" in query:
            raise live_search.Throttled("HTTP 429")
        return [Hit("The Rivers", RIVERS, f"asked {self.count} times", 1.0)]

    def page(self, address: str) -> Page:
        return LocalPages(PAGES).page(address)


@pytest.fixture
def no_web(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_search, "LiveSearch", Engine)
    monkeypatch.setattr(live_pages, "LivePages", Engine)


CALLS = [
    ("search", "rivers"), ("browse", RIVERS), ("browse", "2"), ("browse", "https://w.test/none"),
    ("search", "throttle"), ("browse", f"{RIVERS} find: 21th river"),
]  # fmt: skip


def transcript(env: gymnasium.Env[str, str]) -> list[str]:
    env.reset(seed=0)
    return [env.step(tool_turn("t", tool, argument))[0] for tool, argument in CALLS]


@pytest.mark.usefixtures("no_web")
def test_a_recorded_run_replays_without_the_web(tmp_path: Path) -> None:
    options: dict[str, Any] = {"tools": ("search", "browse"), "cassette": tmp_path / "tape.sqlite", "on_fault": "tell"}
    live = dataset(tmp_path, "ARPO-Web-v0", **options)
    assert gymnasium.spec("ARPO-Web-v0").nondeterministic
    assert live.spec is not None
    assert live.spec.nondeterministic
    recorded = transcript(live)
    assert "did not answer" in recorded[4]
    replayed = dataset(tmp_path, "ARPO-WebReplay-v0", **options)
    assert replayed.spec is not None
    assert not replayed.spec.nondeterministic
    assert transcript(replayed) == recorded
    check_env(replayed.unwrapped)
    replayed.reset(seed=0)
    replayed.step(tool_turn("t", "browse", RIVERS))
    twin = replayed.unwrapped.clone()  # type: ignore[attr-defined]
    assert twin.step(tool_turn("t", "browse", "2"))[0] == replayed.step(tool_turn("t", "browse", "2"))[0] == recorded[2]


@pytest.mark.usefixtures("no_web")
def test_what_an_environment_is_made_of_decides_what_it_is_called(tmp_path: Path) -> None:
    for options, deterministic in (
        ({}, True),
        ({"search": Engine(), "browse": LocalPages(PAGES)}, False),
        ({"browse": Engine()}, False),
    ):
        env = dataset(tmp_path, **options)
        assert env.spec is not None
        assert env.spec.nondeterministic is not deterministic
        inner = env.unwrapped
        assert isinstance(inner, AgentEnv)
        assert inner.deterministic is deterministic
        assert inner.clone().spec == inner.spec
    assert not gymnasium.spec("ARPO-Dataset-v0").nondeterministic
    with pytest.raises(ConfigError, match="brings its own search"):
        dataset(tmp_path, "ARPO-Web-v0", search=Engine())
    with pytest.raises(ConfigError, match="no cassette at"):
        dataset(tmp_path, "ARPO-WebReplay-v0", cassette=tmp_path / "none")
    assert set(registration.WEB_IDS) == {"ARPO-Web-v0", "ARPO-WebReplay-v0"}
