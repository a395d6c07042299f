"""The data card's script: its rows are what its columns say."""

import pytest

from arpo_env.tasks.deepsearch import DeepSearchFamily
from benchmarks.deepsearch_card import card, main


def test_the_card_tells_who_can_answer() -> None:
    rows = card("x", DeepSearchFamily(pages=300, stale=0.7, hops=(1, 2), arithmetic=0.3), 60)
    assert [row["questions"] for row in rows] == ["x, 1 hop", "x, 2 hops", "x, arithmetic"]
    assert sum(int(row["n"]) for row in rows) == 60
    assert {row["expert"] for row in rows} == {"100.0 %"}
    assert rows[0]["one search (name)"] == "100.0 %"
    for row in rows[1:]:
        assert float(row["one search (name)"].split()[0]) <= 15
    for row in rows:
        assert float(row["memory"].split()[0]) <= 10
        assert float(row["stale reader (n)"].split()[0]) <= 10


def test_the_script_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--pages", "120", "--questions", "12"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| questions | n | memory |")
    assert {line.count("|") for line in lines} == {9}
