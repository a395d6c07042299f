"""JSONL corpora: the way there and back, and every way a row can be broken."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_env.errors import ConfigError
from arpo_env.search.base import Page
from arpo_env.search.corpus import page_line, parse_page, read_jsonl, write_jsonl
from arpo_env.search.sources import read_source


def test_pages_survive_a_file(tmp_path: Path) -> None:
    pages = [Page("1", "A: b", "line\nbreak \u2028 … 北京", "https://x/1"), Page("2", "", "")]
    assert write_jsonl(pages, tmp_path / "c.jsonl") == 2
    assert list(read_jsonl(tmp_path / "c.jsonl")) == pages
    assert [p.name for p in tmp_path.iterdir()] == ["c.jsonl"]


@given(st.builds(Page, st.text(min_size=1), *[st.text(st.characters(), max_size=20)] * 3))
def test_any_text_survives_a_row(page: Page) -> None:
    line = page_line(page)
    assert line.count(b"\n") == 1
    assert parse_page(line, "row") == page


def test_integer_ids_blank_lines_and_further_fields_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": 7, "title": "T", "text": "x", "year": 3}\n\n')
    assert list(read_jsonl(path)) == [Page("7", "T", "x")]


def test_search_r1_s_contents_and_other_field_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / "wiki.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write('{"id": "0", "contents": "\\"Anarchism\\"\\nA movement."}\n')
    assert list(read_jsonl(path)) == [Page("0", "Anarchism", "A movement.")]
    other = tmp_path / "other.jsonl"
    other.write_text('{"head": "T", "body": "x", "link": null}\n{"head": "U", "body": "y"}\n')
    fields = {"id": "#", "title": "head", "text": "body", "url": "link"}
    assert list(read_jsonl(other, fields)) == [Page("1", "T", "x"), Page("2", "U", "y")]
    other.write_text('{"id": "0", "contents": 3}\n')
    with pytest.raises(ConfigError, match="line 1: the field 'contents' must be a string, got int"):
        list(read_jsonl(other))


def test_the_two_rows_of_one_id_are_named_across_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_jsonl([Page(f"{name}0", "T", "x"), Page("same", "T", "x")], tmp_path / f"{name}.jsonl")
    with pytest.raises(ConfigError, match=r"b\.jsonl, line 2: id 'same' stands already at .*a\.jsonl, line 2"):
        list(read_source(tmp_path))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"id": "1", "title": "T"', "not JSON"),
        ("[1]", "expected an object"),
        ('{"id": "1", "title": "T"}', "'text' is missing"),
        ('{"id": "1", "title": "T", "text": null}', "'text' must be a string, got NoneType"),
        ('{"id": true, "title": "T", "text": "x"}', "'id' must be a string"),
        ('{"id": "", "title": "T", "text": "x"}', "'id' is empty"),
        ('{"id": "0", "title": "T", "text": "x"}', "id '0' stands already at"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_row_names_file_line_and_reason(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps({"id": "0", "title": "A", "text": "b"}) + "\n" + row + "\n")
    with pytest.raises(ConfigError) as error:
        list(read_jsonl(path))
    assert str(path) in str(error.value)
    assert "line 2" in str(error.value)
    assert reason in str(error.value)


def test_bytes_that_are_no_text_are_a_broken_row(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"id": "1", "title": "Z\xfcrich", "text": ""}\n')
    with pytest.raises(ConfigError, match="line 1: not UTF-8"):
        list(read_jsonl(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no corpus file at .*nowhere\.jsonl"):
        list(read_jsonl(tmp_path / "nowhere.jsonl"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    write_jsonl([Page("1", "old", "x")], path)

    def broken() -> object:
        yield Page("2", "new", "y")
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError):
        write_jsonl(broken(), path)  # type: ignore[arg-type]
    assert [page.title for page in read_jsonl(path)] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["c.jsonl"]
