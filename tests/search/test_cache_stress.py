"""One cassette under many processes, threads and kill -9: the benchmark's own harness, scaled down."""

from pathlib import Path

import pytest

from arpo_env.cassette import Cassette, arguments_key
from arpo_env.search.cache import CachedBackend
from benchmarks.speed import cassette as harness


def test_nothing_is_lost_or_doubled_though_processes_are_killed(tmp_path: Path) -> None:
    figures = harness.stress(processes=2, threads=8, searches=250, kills=4, folder=tmp_path)
    assert figures["faults"] == []
    assert figures["killed"] == 4
    assert 0 < figures["entries"] <= figures["queries"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_of_it(tmp_path: Path) -> None:
    figures = harness.stress(processes=8, threads=32, searches=1000, kills=24, folder=tmp_path, seed=1)
    assert figures["faults"] == []
    assert figures["killed"] >= 20
    assert figures["entries"] == figures["queries"]


def test_the_check_sees_what_is_lost_and_what_was_replaced(tmp_path: Path) -> None:
    tape = Cassette(tmp_path / "tape.sqlite")
    tape.put(CachedBackend.tool, "stress", arguments_key({"query": "query 1", "k": 3}), [["a", "", "", 0.0]])
    tape.close()
    notes = tmp_path / "notes-0-0"
    notes.write_text("1 a\n")
    assert harness.check(tape.path, [notes]) == []
    notes.write_text("1 b\n2 c\n1 d\n")
    assert harness.check(tape.path, [notes]) == [
        "query 1 was answered with b and with d",
        "query 1 was answered with b, and a is stored",
        "query 2 is lost",
        "2 queries were noted, 1 entries are there",
    ]
