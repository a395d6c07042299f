"""Where a corpus can come from, and what is said when it cannot."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_env.errors import ConfigError, InfraError
from arpo_env.search.base import Page
from arpo_env.search.corpus import write_jsonl
from arpo_env.search.sources import fetch_hub, passages, read_source

ROWS = [Page("1", "A", "one two three four five"), Page("2", "B", "six")]


def test_parquet_and_csv_tables(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"id": [1, 2], "title": ["A", "B"], "text": ["x", "y"], "views": [7, 8]})
    parquet.write_table(table, tmp_path / "part.parquet")
    (tmp_path / "more.csv").write_text("id,title,text\n3,C,z\n")
    assert list(read_source(tmp_path)) == [Page("3", "C", "z"), Page("1", "A", "x"), Page("2", "B", "y")]
    (tmp_path / "part.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ConfigError, match=r"part\.parquet is not a readable Parquet file"):
        list(read_source(tmp_path))


def test_a_folder_of_documents(tmp_path: Path) -> None:
    pytest.importorskip("trafilatura")
    (tmp_path / "sub").mkdir()
    (tmp_path / "plain.txt").write_text("Only text.")
    (tmp_path / "note.md").write_text("# The *Title* #\n\nBody.\n\n## Not this\n")
    (tmp_path / "sub" / "page.html").write_text(
        "<html><head><title>T &amp; U</title><style>x{}</style></head><body><p>Hello</p><script>no()</script>you</body>"
    )
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert list(read_source(tmp_path)) == [
        Page("note.md", "The *Title*", "Body.\n\n## Not this", "note.md"),
        Page("plain.txt", "plain", "Only text.", "plain.txt"),
        Page("sub/page.html", "T & U", "Hello\nyou", "sub/page.html"),
    ]
    assert [page.id for page in read_source(tmp_path / "plain.txt")] == ["plain.txt"]
    (tmp_path / "plain.txt").write_bytes(b"Z\xfcrich")
    with pytest.raises(ConfigError, match=r"plain\.txt: not UTF-8"):
        list(read_source(tmp_path))


def test_long_pages_are_cut_into_passages(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(" ".join(f"w{i}" for i in range(250)))
    found = list(read_source(tmp_path))
    assert [(p.id, p.title, p.url, len(p.text.split())) for p in found] == [
        (f"long.txt#{n}", "long", "long.txt", words) for n, words in ((1, 100), (2, 100), (3, 50))
    ]
    assert [p.id for p in read_source(tmp_path, passage_words=0)] == ["long.txt"]
    write_jsonl(ROWS, tmp_path / "c.jsonl")
    assert list(read_source(tmp_path / "c.jsonl")) == ROWS
    assert [p.id for p in read_source(tmp_path / "c.jsonl", passage_words=3)] == ["1#1", "1#2", "2"]


@given(st.text(), st.integers(1, 5))
def test_passages_lose_no_word(text: str, words: int) -> None:
    pieces = list(passages([Page("p", "T", text)], words))
    assert [word for piece in pieces for word in piece.text.split()] == text.split()
    assert all(len(piece.text.split()) <= words for piece in pieces)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passage_words": -1}, "passage_words must be >= 0"),
        ({"fields": {"body": "text"}}, r"a page has no field \['body'\]; its fields are id, title, text, url"),
        ({}, "no corpus at .*: expected .jsonl"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_source(tmp_path, **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- the Hub (its client is replaced)


def test_a_data_set_of_the_hub_is_a_folder_once_it_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    write_jsonl(ROWS, tmp_path / "c.jsonl")
    asked: list[tuple[str, str | None, Sequence[str]]] = []

    def download(name: str, *, repo_type: str, revision: str | None, allow_patterns: Sequence[str]) -> str:
        assert repo_type == "dataset"
        asked.append((name, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert list(read_source("hub:me/my-pages@v1")) == ROWS
    assert asked == [("me/my-pages", "v1", ["*.jsonl", "*.jsonl.gz", "*.parquet", "*.csv"])]
    assert fetch_hub("hub:me/my-pages") == tmp_path
    assert asked[1][1] is None

    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(InfraError, match=r"could not be downloaded \(OSError: no route to host\).*name their folder"):
        read_source("hub:me/my-pages")


@pytest.mark.parametrize("name", ["hub:", "hub:only", "hub:../../etc", "hub:a/b/c"])
def test_a_malformed_hub_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is named hub:OWNER/NAME"):
        read_source(name)
