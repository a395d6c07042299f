"""The inverted index: exact pruned search, blocks, and bm25s's numbers."""

from itertools import pairwise
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.search.postings import Postings, PostingsBuilder
from arpo_env.tasks.deepsearch import World, WorldSpec

#: Few terms, so that lists are long and common words common: where pruning has something to prune.
DOCUMENTS = st.lists(
    st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5]), max_size=9), min_size=1, max_size=40
)


def build(documents: list[list[int]], folder: Path | None = None, block: int = 1 << 22) -> Postings:
    numbers: dict[int, int] = {}
    builder = PostingsBuilder(folder, block=block)
    for document in documents:
        builder.add([numbers.setdefault(term, len(numbers)) for term in document])
    return builder.finish(1.5, 0.75)


def every_score(postings: Postings, query: list[int]) -> np.ndarray:
    total = np.zeros(postings.pages)
    for term in query:
        here = slice(postings.starts[term], postings.starts[term + 1])
        total[postings.docs[here]] += postings.scores[here]
    return total


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS, st.data(), st.integers(1, 6))
def test_pruned_search_is_exhaustive_search(documents: list[list[int]], data: st.DataObject, k: int) -> None:
    if not any(documents):
        return
    postings = build(documents)
    query = data.draw(st.lists(st.integers(0, postings.terms - 1), max_size=8))
    scores = every_score(postings, query)
    expected = sorted((-scores[page], page) for page in np.flatnonzero(scores))[:k]
    got = postings.top(query, k)
    assert [page for page, _ in got] == [page for _, page in expected]
    assert [score for _, score in got] == pytest.approx([-score for score, _ in expected], rel=1e-12)
    assert postings.top(query[::-1], k) == got


@pytest.mark.parametrize("seed", range(6))
def test_pruned_search_is_exhaustive_search_where_much_is_pruned(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word counts as in a language: a few words everywhere, many rare; and lists just long enough to matter."""
    rng = np.random.default_rng(seed)
    documents = [(rng.zipf(1.3, rng.integers(1, 30)) % 60).tolist() for _ in range(400)]
    postings = build(documents)
    pruned = []
    finish = Postings._finish
    monkeypatch.setattr(Postings, "_finish", lambda self, *rest: pruned.append(1) or finish(self, *rest))
    for _ in range(300):
        query = rng.integers(0, postings.terms, rng.integers(1, 7)).tolist()
        scores = every_score(postings, query)
        k = int(rng.integers(1, 8))
        expected = sorted((-scores[page], page) for page in np.flatnonzero(scores))[:k]
        assert [page for page, _ in postings.top(query, k)] == [page for _, page in expected]
    assert len(pruned) > 30


def test_long_lists_are_only_looked_up_and_ties_survive_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Term 1 is rare and strong; term 0 stands everywhere and cannot lift a page that lacks term 1.
    documents = [[0, 2]] * 500 + [[0, 1]] * 3 + [[0, 2]] * 500 + [[0, 1]]
    postings = build(documents)
    pruned = []
    finish = Postings._finish
    monkeypatch.setattr(Postings, "_finish", lambda self, *rest: pruned.append(1) or finish(self, *rest))
    got = postings.top([0, 2], 2)
    assert [page for page, _ in got] == [500, 501]
    assert pruned == [1]
    monkeypatch.undo()
    assert got == [(500, got[0][1]), (501, got[0][1])]


@pytest.mark.parametrize("block", [1, 7, 50, 1 << 22])
def test_blocks_do_not_show(tmp_path: Path, block: int) -> None:
    rng = np.random.default_rng(block)
    documents = [rng.integers(0, 30, rng.integers(0, 12)).tolist() for _ in range(80)]
    whole, cut = build(documents), build(documents, tmp_path, block)
    for name in ("scores", "docs", "starts", "peaks"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(cut, name))
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), getattr(whole, name))
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["docs", "peaks", "scores", "starts"]
    for start, end in pairwise(whole.starts.tolist()):
        assert all(a < b for a, b in pairwise(whole.docs[start:end].tolist()))
        assert whole.scores[start:end].max() in whole.peaks


def test_scores_are_bm25s_s_to_the_last_bit() -> None:
    from arpo_env.search.text import terms

    words: dict[str, int] = {}
    documents = [
        [words.setdefault(word, len(words)) for word in terms(f"{page.title} {page.text}")]
        for page in World(WorldSpec(pages=500))
    ]
    theirs = bm25s.BM25(k1=1.2, b=0.6, method="lucene", backend="numpy", csc_backend="numpy").build_index_from_ids(
        unique_token_ids=list(range(len(words))), corpus_token_ids=documents, show_progress=False
    )
    builder = PostingsBuilder(None)
    for document in documents:
        builder.add(document)
    ours = builder.finish(1.2, 0.6)
    np.testing.assert_array_equal(ours.scores, theirs["data"])
    np.testing.assert_array_equal(ours.docs, theirs["indices"])
    np.testing.assert_array_equal(ours.starts, theirs["indptr"])


def test_parts_that_do_not_fit_are_refused() -> None:
    good = build([[0, 1], [1]])
    with pytest.raises(ValueError, match="cut short"):
        Postings(good.scores[:-1], good.docs, good.starts, good.peaks, 2)
    with pytest.raises(ValueError, match="cut short"):
        Postings(good.scores, good.docs, good.starts, good.peaks[:-1], 2)
    with pytest.raises(ValueError, match="no terms"):
        PostingsBuilder(None).finish(1.5, 0.75)
