"""Environments with search: the clone law, Gymnasium's checker, and what a clone shares instead of copying."""

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import arpo_env  # noqa: F401 (registers the environments)
from arpo_env.cassette import Cassette
from arpo_env.env import AgentEnv
from arpo_env.search.base import Page, SearchBackend
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.cache import CachedBackend
from arpo_env.search.dense import DenseIndex
from arpo_env.search.hybrid import HybridBackend
from arpo_env.search.retriever import HttpRetriever, RetrieverServer
from arpo_env.tasks.deepsearch import World, WorldSpec

WORLD = World(WorldSpec(pages=120))
LOOK = "<think>Look.</think><search>{}</search>"


class _Lengths:
    """An embedder by letters: enough to rank."""

    dimension = 26
    fingerprint = "letters"

    def __call__(self, texts):  # type: ignore[no-untyped-def]
        import numpy as np

        rows = np.array([[1e-3 + text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(params=["bm25", "mapped", "cached", "replayed", "dense", "hybrid", "http"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SearchBackend]:
    index = BM25Index.build(WORLD)
    cached = CachedBackend(index, Cassette(tmp_path / "tape.sqlite"), "record")
    dense = DenseIndex.build(WORLD, _Lengths(), index.fingerprint)
    match request.param:
        case "bm25":
            yield index
        case "mapped":
            yield BM25Index.build(WORLD, tmp_path / "index")
        case "cached":
            yield cached
        case "replayed":
            for query in ("test", "river", "city", "person"):
                for k in (1, 3):
                    cached.search(query, k)
            yield CachedBackend(None, cached.cassette, "strict")
        case "dense":
            yield dense
        case "hybrid":
            yield HybridBackend([index, dense])
        case "http":
            with RetrieverServer(index) as server:
                yield HttpRetriever(server.url, deterministic=True)


def make(backend: SearchBackend, folder: Path) -> AgentEnv:
    path = folder / "questions.jsonl"
    path.write_text('{"question": "Who?", "answer": "Ann"}\n')
    env = gymnasium.make("ARPO-Dataset-v0", path=str(path), name="toy", search=backend, tools=("search",)).unwrapped
    assert isinstance(env, AgentEnv)
    return env


def test_a_clone_has_the_same_future_and_shares_what_is_searched(backend: SearchBackend, tmp_path: Path) -> None:
    env = make(backend, tmp_path)
    env.reset(seed=0)
    env.step(LOOK.format("river"))
    twin, third = env.clone(), copy.deepcopy(env)
    for other in (twin, third):
        assert other._toolbox("test")["search"] is env._toolbox("test")["search"]
        assert other._toolbox("test")["search"].backend is backend
    assert env.step(LOOK.format("city")) == twin.step(LOOK.format("city")) == third.step(LOOK.format("city"))
    before = env.get_state()
    twin.step(LOOK.format("person"))
    assert env.get_state() == before
    again = make(backend, tmp_path)
    again.set_state(before)
    assert again.step(LOOK.format("person")) == env.step(LOOK.format("person"))
    for each in (env, twin, third, again):
        each.close()


def test_the_checker_is_content(backend: SearchBackend, tmp_path: Path) -> None:
    env = make(backend, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its advice on render modes and Box spaces
        check_env(env, skip_render_check=True)
    env.close()


def test_a_sub_index_of_a_fusion_is_shared_too() -> None:
    index = BM25Index.build([Page("1", "A", "b")])
    hybrid = HybridBackend([index, index])
    assert copy.deepcopy(hybrid).backends[0] is index
