"""The search tool: what the policy is told, and what is an error of whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.search.base import Hit, Page
from arpo_env.search.bm25 import BM25Index
from arpo_env.tools.base import ToolResult
from arpo_env.tools.search import NO_RESULTS, SearchTool, format_hits

INDEX = BM25Index.build([Page("1", "Varn", "City on the Tol.\nPopulation 12."), Page("2", "Kel", "Twin of Varn.")])


class Down:
    deterministic = False

    def search(self, query: str, k: int) -> list[Hit]:
        raise InfraError("throttled")


def test_one_line_a_hit() -> None:
    result = SearchTool(INDEX, k=2).open(0).call("  Varn ")
    assert result.ok
    assert result.text == "[1] Varn: City on the Tol. Population 12.\n[2] Kel: Twin of Varn."


def test_k_and_the_character_cap() -> None:
    text = SearchTool(INDEX, k=1, chars=20).open(0).call("Varn").text
    assert text == "[1] Varn: City on the Tol.…"


@given(st.lists(st.builds(Hit, st.text(), st.text(), st.text(), st.floats())), st.integers(20, 60))
def test_any_hits_give_bounded_lines(hits: list[Hit], chars: int) -> None:
    lines = format_hits(hits, chars).split("\n")
    assert len(lines) == max(len(hits), 1)
    for line, hit in zip(lines, hits, strict=False):
        assert len(line) <= len(hit.title) + chars + 10
        assert len(line.splitlines()) <= 1


def test_nothing_found_is_honest_an_empty_query_is_a_mistake() -> None:
    session = SearchTool(INDEX, max_query_chars=30).open(0)
    assert session.call("zzz") == ToolResult(NO_RESULTS, ok=True, useful=False)
    assert session.call("Varn").useful
    for query in ("???", ".", "- _ -"):
        assert not session.call(query).ok
        assert "no word" in session.call(query).text
    assert session.call("北京").ok
    assert not session.call(" \n").ok
    assert "empty" in session.call("").text
    assert not session.call("x" * 31).ok
    assert session.call("x" * 30).ok


def test_a_session_holds_nothing() -> None:
    tool = SearchTool(INDEX)
    session = tool.open(0)
    fork = session.fork()
    assert fork is not session
    assert fork.call("Varn") == session.call("Varn") == tool.open(9, session.get_state()).call("Varn")
    session.close()
    session.close()


def test_a_backend_that_is_down_is_no_empty_result() -> None:
    tool = SearchTool(Down())
    assert not tool.deterministic
    with pytest.raises(ToolUnavailable, match="Down does not answer: throttled"):
        tool.check()
    with pytest.raises(InfraError, match="throttled"):
        tool.open(0).call("x")
    SearchTool(INDEX).check()


@pytest.mark.parametrize("options", [{"k": 0}, {"chars": 19}, {"max_query_chars": 0}])
def test_numbers_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be >="):
        SearchTool(INDEX, **options)
