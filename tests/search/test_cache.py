"""The cassette: modes, exact replay, and nothing lost between threads, processes and kill -9."""

import copy
import json
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.cassette import Cassette, arguments_key
from arpo_env.errors import ConfigError, InfraError
from arpo_env.search.base import Hit, Page, SearchBackend
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.cache import CachedBackend, import_json


class Live:
    """A backend that never answers the same twice and counts its calls."""

    deterministic = False
    fingerprint = "live"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails = 0

    def search(self, query: str, k: int) -> list[Hit]:
        self.calls.append(query)
        if self.fails:
            self.fails -= 1
            raise InfraError("throttled")
        return [Hit(f"{query} {len(self.calls)}", "u", "snip\ud800 é", 0.1 + i) for i in range(k)]


@pytest.fixture
def cassette(tmp_path: Path) -> Iterator[Cassette]:
    tape = Cassette(tmp_path / "tape.sqlite")
    yield tape
    tape.close()


def test_record_asks_once_and_gives_what_was_stored(cassette: Cassette) -> None:
    live = Live()
    cached = CachedBackend(live, cassette, "record")
    first = cached.search("x", 2)
    assert first == cached.search("  x ", 2) == cached.search("x", 2)
    assert live.calls == ["x"]
    assert cached.search("x", 3) != first
    assert cached.search("X", 2) != first
    assert len(cassette) == 3
    assert not cached.deterministic
    assert isinstance(cached, SearchBackend)


def test_nothing_found_is_an_answer_and_a_fault_is_none(cassette: Cassette) -> None:
    live = Live()
    live.fails = 1
    cached = CachedBackend(live, cassette, "record")
    with pytest.raises(InfraError, match="throttled"):
        cached.search("x", 1)
    assert len(cassette) == 0
    assert len(cached.search("x", 1)) == 1
    index = BM25Index.build([Page("1", "A", "b")])
    local = CachedBackend(index, cassette, "record")
    assert local.search("zzz", 3) == local.search("zzz", 3) == []
    assert len(cassette) == 2


def test_modes(cassette: Cassette) -> None:
    live = Live()
    recorded = CachedBackend(live, cassette, "record").search("x", 1)
    replay = CachedBackend(live, cassette, "replay")
    assert replay.search("x", 1) == recorded
    assert replay.search("new", 1) != replay.search("new", 1)
    off = CachedBackend(live, cassette, "off")
    assert off.search("x", 1) != recorded
    assert len(cassette) == 1
    strict = CachedBackend(None, cassette, "strict")
    assert strict.deterministic
    assert strict.search("x", 1) == recorded
    with pytest.raises(InfraError, match=r"holds no search answer to {'query': 'new', 'k': 1} \(corpus 'live'\)"):
        strict.search("new", 1)


def test_corpora_are_kept_apart(cassette: Cassette) -> None:
    a, b = (BM25Index.build([Page("1", title, "x")]) for title in ("A", "B"))
    assert CachedBackend(a, cassette, "record").search("x", 1)[0].title == "A"
    assert CachedBackend(b, cassette, "record").search("x", 1)[0].title == "B"
    with pytest.raises(ConfigError, match="which corpus"):
        CachedBackend(None, cassette, "strict")
    assert CachedBackend(None, cassette, "strict", corpus=a.fingerprint).search("x", 1)[0].title == "A"


def test_a_read_only_cassette_replays_and_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "tape.sqlite"
    tape = Cassette(path)
    recorded = CachedBackend(Live(), tape, "record").search("x", 2)
    tape.close()
    assert [p.name for p in tmp_path.iterdir()] == ["tape.sqlite"]
    before = path.read_bytes()
    old = Cassette(path, read_only=True)
    assert CachedBackend(None, old, "strict").search("x", 2) == recorded
    with pytest.raises(InfraError, match="cannot write"):
        old.put("search", "live", "{}", [])
    with pytest.raises(ConfigError, match="opened read_only"):
        CachedBackend(Live(), old, "record")
    old.close()
    assert path.read_bytes() == before
    with pytest.raises(ConfigError, match="no cassette at"):
        Cassette(tmp_path / "none", read_only=True)


def test_the_first_answer_stays(cassette: Cassette) -> None:
    assert cassette.put("search", "c", "k", [1]) == [1]
    assert cassette.put("search", "c", "k", [2]) == [1]
    assert cassette.get("search", "c", "k") == [1]
    assert cassette.get("browse", "c", "k") is None


@settings(deadline=None)
@given(st.text(), st.text())
def test_keys_are_one_to_one_up_to_blanks_and_normal_form(a: str, b: str) -> None:
    def tidy(text: str) -> str:
        return json.loads(arguments_key({"q": text}))["q"]

    assert tidy(tidy(a)) == tidy(a)
    assert (arguments_key({"q": a}) == arguments_key({"q": b})) == (tidy(a) == tidy(b))


def test_foreign_and_damaged_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all, only a text that is long enough to have a header" * 20)
    foreign = tmp_path / "foreign.sqlite"
    other = sqlite3.connect(foreign)
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    newer = tmp_path / "newer.sqlite"
    Cassette(newer).close()
    tape = sqlite3.connect(newer)
    tape.execute("PRAGMA user_version = 9")
    tape.commit()
    tape.close()
    for path, message in ((text, "cannot be used"), (foreign, "no cassette"), (newer, "of version 9")):
        before = path.read_bytes()
        for read_only in (False, True):
            with pytest.raises(ConfigError, match=message):
                Cassette(path, read_only=read_only)
        assert path.read_bytes() == before
    with pytest.raises(ConfigError, match="does not exist"):
        Cassette(tmp_path / "no" / "folder.sqlite")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_thread_that_cannot_open_the_file_met_a_fault_and_no_mistake(
    cassette: Cassette, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    cassette.put("search", "c", "k", 1)
    tape = Cassette(cassette.path, read_only=read_only)
    operations: list[Callable[[], object]] = [
        lambda: tape.get("search", "c", "k"), lambda: tape.put("search", "c", "k", 2), lambda: len(tape), tape.check,
        lambda: tape.put_many("search", "c", [("k", 1)]), lambda: tape.corpora("search"),
    ]  # fmt: skip

    def no_descriptor(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", no_descriptor)
        for operation in operations:
            with pytest.raises(InfraError, match=r"tape.sqlite cannot be opened for one more thread: unable to open"):
                pool.submit(operation).result(60)
        with pytest.raises(ConfigError, match="cannot be used as a cassette: unable to open"):
            Cassette(cassette.path)
        patch.undo()
        assert pool.submit(operations[0]).result(60) == 1  # and it passes
    tape.close()


def test_a_file_that_was_replaced_meanwhile_is_a_fault_too(tmp_path: Path) -> None:
    path = tmp_path / "tape.sqlite"
    tape = Cassette(path)
    tape.close()
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(InfraError, match="is a database, but no cassette"):
        tape.get("search", "c", "k")


@pytest.mark.parametrize(
    ("backend", "mode", "message"),
    [(None, "record", "asks a source on a miss, but there is none"), (Live(), "rec", "record")],
)
def test_bad_set_ups_are_refused(cassette: Cassette, backend: Live | None, mode: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CachedBackend(backend, cassette, mode)  # type: ignore[arg-type]


def test_clones_share_and_a_pickle_opens_the_same_file(cassette: Cassette) -> None:
    cached = CachedBackend(Live(), cassette, "record")
    assert copy.deepcopy([cached])[0] is copy.copy(cached) is cached.clone() is cached
    cassette.put("search", "c", "k", 7)
    twin = pickle.loads(pickle.dumps(cassette))
    assert twin.get("search", "c", "k") == 7
    twin.close()


def test_equal_misses_at_once_ask_once(cassette: Cassette) -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(Live):
        def search(self, query: str, k: int) -> list[Hit]:
            entered.set()
            assert release.wait(30)
            return super().search(query, k)

    live = Slow()
    cached = CachedBackend(live, cassette, "record")
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(cached.search, "x", 1) for _ in range(8)]
        assert entered.wait(30)
        release.set()
        answers = [future.result(30) for future in futures]
    assert live.calls == ["x"]
    assert all(answer == answers[0] for answer in answers)


def test_a_miss_that_comes_to_its_turn_late_looks_again(tmp_path: Path) -> None:
    """The leader stores and leaves between another thread's miss and its turn: that thread must not ask again."""
    missed, stored = threading.Event(), threading.Event()

    class SlowReader(Cassette):
        def get(self, tool: str, corpus: str, arguments: str) -> object:
            value = super().get(tool, corpus, arguments)
            if threading.current_thread().name.startswith("late") and not missed.is_set() and "k" in arguments:
                missed.set()
                assert stored.wait(60)
            return value

    live = Live()
    tape = SlowReader(tmp_path / "tape.sqlite")
    cached = CachedBackend(live, tape, "record")
    with ThreadPoolExecutor(1, thread_name_prefix="late") as pool:
        late = pool.submit(cached.search, "x", 1)
        assert missed.wait(60)
        first = cached.search("x", 1)
        stored.set()
        assert late.result(60) == first
    assert live.calls == ["x"]
    tape.close()


def test_import_of_a_published_json_cache(cassette: Cassette, tmp_path: Path) -> None:
    source = tmp_path / "cache.json"
    source.write_text(json.dumps({"who wrote it": "Page 1: Ann\nPage 2", "b": ""}))
    assert import_json(source, cassette, corpus="bing") == 2
    assert import_json(source, cassette, corpus="bing") == 0
    strict = CachedBackend(None, cassette, "strict")
    assert strict.search("who  wrote it", 7) == [Hit("", "", "Page 1: Ann\nPage 2", 0.0)]
    for text, message in (("[", "no JSON"), ("[]", "one object"), ('{"a": "x", "q": 1}', "entry of 'q'")):
        source.write_text(text)
        with pytest.raises(ConfigError, match=message):
            import_json(source, cassette, corpus="other")
    assert len(cassette) == 2
    with pytest.raises(ConfigError, match="no JSON cache"):
        import_json(tmp_path / "gone", cassette, corpus="x")


# ---------------------------------------------------------------------- many processes

HAMMER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from arpo_env.cassette import Cassette

path, worker, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
tape = Cassette(path)

def work(thread):
    for i in range(count):
        number = (i * 7 + thread) % count  # all write the same keys, in different orders
        stored = tape.put("search", "c", str(number), {"by": [worker, thread], "n": number})
        assert stored["n"] == number
        assert tape.get("search", "c", str(number)) == stored
    tape.close()

with ThreadPoolExecutor(4) as pool:
    list(pool.map(work, range(4)))
tape.close()
"""

WRITE_FOREVER = """
import itertools, os, sys
from arpo_env.cassette import Cassette

tape = Cassette(sys.argv[1])
for i in itertools.count():
    tape.put("search", "c", f"{sys.argv[2]}:{i}", "x" * (i % 500))
    os.write(1, f"{sys.argv[2]}:{i}\\n".encode())
"""

FORK = """
import os, sys
from arpo_env.cassette import Cassette

tape = Cassette(sys.argv[1])
tape.put("search", "c", "parent", 1)
parents = tape._connection()
child = os.fork()
if child == 0:
    good = tape._connection() is not parents
    good = good and tape.get("search", "c", "parent") == 1 and tape.put("search", "c", "child", 2) == 2
    os._exit(0 if good else 1)
assert os.waitpid(child, 0)[1] == 0
assert tape.get("search", "c", "child") == 2
tape.close()
"""


def test_threads_and_processes_lose_and_double_nothing(cassette: Cassette) -> None:
    # 61 is no multiple of 7, so every thread meets every key.
    workers = [subprocess.Popen([sys.executable, "-c", HAMMER, str(cassette.path), str(w), "61"]) for w in range(3)]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    cassette.check()
    assert len(cassette) == 61
    assert all(cassette.get("search", "c", str(n))["n"] == n for n in range(61))


def test_what_was_acknowledged_survives_kill_9(cassette: Cassette) -> None:
    keys: list[str] = []
    for worker in range(3):
        command = [sys.executable, "-c", WRITE_FOREVER, str(cassette.path), str(worker)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            keys += [process.stdout.readline().strip() for _ in range(30 + 17 * worker)]
            process.kill()
            keys += process.stdout.read().split()
        assert process.returncode == -signal.SIGKILL
    cassette.check()
    assert len(cassette) >= len(keys) >= 140
    for key in keys:
        assert cassette.get("search", "c", key) == "x" * (int(key.split(":")[1]) % 500)


def test_a_forked_child_opens_its_own_connection(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORK, str(tmp_path / "tape.sqlite")], check=True, timeout=60)
