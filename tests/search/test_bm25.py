"""BM25Index: against the formula by brute force, on disk, and under threads."""

import copy
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.errors import ConfigError
from arpo_env.search.base import Hit, Page, SearchBackend
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.text import terms

K1, B, WEIGHT = 1.5, 0.75, 3


def brute_force(pages: list[Page], query: str) -> list[float]:
    """The documented formula, page by page."""
    documents = []
    for page in pages:
        title = terms(page.title)
        whole = ["=" + " ".join(title)]
        documents.append(Counter((title + whole) * WEIGHT * bool(title) + terms(page.text)))
    lengths = [sum(document.values()) for document in documents]
    average = sum(lengths) / len(lengths)
    scores = []
    words = terms(query)
    for document, length in zip(documents, lengths, strict=True):
        score = 0.0
        for word in [*words, "=" + " ".join(words)]:
            frequency = document[word]
            if frequency:
                holders = sum(word in other for other in documents)
                idf = math.log(1 + (len(pages) - holders + 0.5) / (holders + 0.5))
                score += idf * frequency / (frequency + K1 * (1 - B + B * length / average))
        scores.append(score)
    return scores


WORDS = st.sampled_from(["red", "blue", "river", "city", "mara", "the", "of", "北京", "1932"])
TEXTS = st.lists(WORDS, max_size=8).map(" ".join)
PAGES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12).map(
    lambda rows: [Page(str(i), title, text) for i, (title, text) in enumerate(rows)]
)


@settings(max_examples=150, deadline=None)
@given(PAGES, TEXTS, st.integers(1, 14))
def test_it_ranks_as_the_formula_says(pages: list[Page], query: str, k: int) -> None:
    if not any(terms(page.title) or terms(page.text) for page in pages):
        with pytest.raises(ConfigError, match="nothing to index"):
            BM25Index.build(pages)
        return
    expected = brute_force(pages, query)
    got = BM25Index.build(pages).rank(query, k)
    assert len(got) == min(k, sum(score > 0 for score in expected))
    for number, score in got:
        assert score == pytest.approx(expected[number], rel=1e-5)
    # Nothing left out beats what is in, and equal pages stand in page order.
    left_out = [score for number, score in enumerate(expected) if number not in dict(got)]
    assert max(left_out, default=0.0) <= (got[-1][1] if got else 0.0) + 1e-5
    assert all(a[1] > b[1] or (a[1] == b[1] and a[0] < b[0]) for a, b in pairwise(got))


def test_ties_fall_by_page_order_also_at_the_cut() -> None:
    index = BM25Index.build([Page(str(i), "Same", "words here") for i in range(50)])
    assert [number for number, _ in index.rank("same words", 7)] == list(range(7))


def test_the_page_whose_title_is_the_query_comes_first() -> None:
    pages = [
        Page("0", "New Varn", "Varn Varn Varn"),
        Page("1", "Varn", "a much longer text about many other things in many other places " * 3),
        Page("2", "Old", "Varn"),
    ]
    assert BM25Index.build(pages).rank("varn", 1)[0][0] == 1
    assert BM25Index.build(pages).rank("New Varn", 1)[0][0] == 0


def test_chinese_is_found_by_its_bigrams() -> None:
    index = BM25Index.build([Page("0", "上海", "上海是城市"), Page("1", "北京", "北京是首都")])
    assert [hit.title for hit in index.search("首都", 5)] == ["北京"]


def test_nothing_found_is_an_empty_list_and_k_is_checked() -> None:
    index = BM25Index.build([Page("0", "A", "b", "u")])
    assert index.search("zzz", 3) == index.search("", 3) == index.search("!!!", 3) == []
    assert index.search("b", 3) == [Hit("A", "u", "b", index.rank("b", 1)[0][1])]
    with pytest.raises(ConfigError, match="k must be >= 1, got 0"):
        index.search("b", 0)


@pytest.mark.parametrize("options", [{"k1": 0.0}, {"b": 1.1}, {"title_weight": 0}])
def test_parameters_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="need k1 > 0"):
        BM25Index.build([Page("0", "A", "b")], **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing to index: 0 pages"):
        BM25Index.build([])


def test_copies_are_the_index_itself() -> None:
    index = BM25Index.build([Page("0", "A", "b")])
    assert copy.deepcopy([index])[0] is copy.copy(index) is index.clone() is index
    assert isinstance(index, SearchBackend)
    assert index.deterministic


# ---------------------------------------------------------------------- on disk

CORPUS = [Page(str(i), f"Title {i % 7} é{i}", f"text {i} 北京 {'x' * (i % 5)}", f"u{i}") for i in range(60)]
QUERIES = ["title 3", "text 41", "北京", "é7", "nothing", "x xx xxx"]


def test_a_loaded_index_answers_exactly_alike(tmp_path: Path) -> None:
    built = BM25Index.build(CORPUS, b=0.5)
    built.save(tmp_path / "index")
    loaded = BM25Index.load(tmp_path / "index")
    for query in QUERIES:
        assert loaded.search(query, 5) == built.search(query, 5)
    assert loaded.fingerprint == built.fingerprint
    assert loaded.parameters == built.parameters
    assert list(loaded.pages) == CORPUS
    assert loaded.pages[-1] == CORPUS[-1]
    with pytest.raises(IndexError):
        loaded.pages[60]
    # A loaded index can be saved again.
    loaded.save(tmp_path / "again")
    assert BM25Index.load(tmp_path / "again").search("北京", 9) == built.search("北京", 9)


def test_a_streamed_build_gives_the_same_files(tmp_path: Path) -> None:
    BM25Index.build(CORPUS).save(tmp_path / "saved")
    streamed = BM25Index.build(iter(CORPUS), tmp_path / "streamed")
    files = [
        {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()} for name in ("saved", "streamed")
    ]
    assert files[0] == files[1]
    assert isinstance(streamed._postings.scores, np.memmap)
    assert list(streamed.pages) == CORPUS


def test_a_streamed_build_that_fails_leaves_the_old_index(tmp_path: Path) -> None:
    BM25Index.build(CORPUS[:10], tmp_path)

    def broken() -> Iterator[Page]:
        yield CORPUS[0]
        raise ConfigError("line 2: not JSON")

    with pytest.raises(ConfigError, match="line 2"):
        BM25Index.build(broken(), tmp_path)
    with pytest.raises(ConfigError, match="nothing to index"):
        BM25Index.build(iter(()), tmp_path)
    assert len(BM25Index.load(tmp_path)) == 10
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["index.json", BM25Index.load(tmp_path).fingerprint[:16]]
    )
    # What a killed build left is no reason to refuse the folder.
    (tmp_path / "b" / "partial-x").mkdir(parents=True)
    assert len(BM25Index.build(CORPUS[:3], tmp_path / "b")) == 3
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="an index is a folder"):
        BM25Index.build(CORPUS, tmp_path / "file")


def test_it_is_mapped_not_read(tmp_path: Path) -> None:
    BM25Index.build(CORPUS).save(tmp_path)
    loaded = BM25Index.load(tmp_path)
    assert isinstance(loaded._postings.scores, np.memmap)
    assert isinstance(loaded.pages._rows._bytes, np.memmap)  # type: ignore[attr-defined]


def test_saving_over_an_index_keeps_readers_of_the_old_one(tmp_path: Path) -> None:
    BM25Index.build(CORPUS[:10]).save(tmp_path)
    reader = BM25Index.load(tmp_path)
    before = reader.search("title 3", 5)
    BM25Index.build(CORPUS).save(tmp_path)
    assert reader.search("title 3", 5) == before
    assert len(BM25Index.load(tmp_path)) == 60
    assert not list(tmp_path.glob("*partial*"))


def test_a_failed_save_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    BM25Index.build(CORPUS[:10]).save(tmp_path)

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("arpo_env.search.bm25.save_pages", broken)
    with pytest.raises(OSError, match="no space"):
        BM25Index.build(CORPUS).save(tmp_path)
    assert len(BM25Index.load(tmp_path)) == 10
    assert not list(tmp_path.glob("partial-*"))


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds no index"):
        BM25Index.build(CORPUS).save(tmp_path)


def test_missing_damaged_and_foreign_indexes_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no search index in"):
        BM25Index.load(tmp_path / "nothing")
    BM25Index.build(CORPUS).save(tmp_path / "a")
    data = next(p for p in (tmp_path / "a").iterdir() if p.is_dir())
    for victim in sorted(data.iterdir()):
        shutil.copytree(tmp_path / "a", tmp_path / victim.name)
        torn = tmp_path / victim.name / data.name / victim.name
        torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
        with pytest.raises(ConfigError, match="is damaged"):
            BM25Index.load(tmp_path / victim.name)
    manifest = tmp_path / "a" / "index.json"
    manifest.write_text(manifest.read_text().replace('"version": 2', '"version": 99'))
    with pytest.raises(ConfigError, match="index format 99"):
        BM25Index.load(tmp_path / "a")
    manifest.write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        BM25Index.load(tmp_path / "a")


def test_the_fingerprint_names_corpus_and_parameters() -> None:
    prints = {
        BM25Index.build(CORPUS).fingerprint,
        BM25Index.build(CORPUS[:-1]).fingerprint,
        BM25Index.build(CORPUS[::-1]).fingerprint,
        BM25Index.build(CORPUS, k1=1.2).fingerprint,
    }
    assert len(prints) == 4
    assert BM25Index.build(list(CORPUS)).fingerprint in prints


def test_many_threads_get_the_answers_of_one(tmp_path: Path) -> None:
    BM25Index.build(CORPUS).save(tmp_path)
    index = BM25Index.load(tmp_path)
    expected = {query: index.search(query, 4) for query in QUERIES}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: (QUERIES[i % 6], index.search(QUERIES[i % 6], 4)), range(600)))
    assert all(hits == expected[query] for query, hits in answers)
