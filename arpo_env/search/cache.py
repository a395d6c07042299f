"""One cache and cassette for everything that is searched or fetched: SQLite in WAL mode.

The published code keeps its search cache as one JSON file that is rewritten on every miss and loses entries when
two processes do so at once. A database has none of these problems: a write is a transaction that survives
``kill -9`` whole or not at all, any number of threads and processes read and write together, and a look-up costs
some tens of microseconds however large the file grows.

Two layers. :class:`Cassette` maps (tool, corpus, arguments) to a JSON value; the first value stored for a key
stays, so that all readers of a key see the same. :class:`Recorder` decides whether to ask; :class:`CachedBackend`
puts one in front of a search backend, ``arpo_env.web.recorded`` in front of pages:

=========  =====================  ======================================
mode       stored answer          nothing stored
=========  =====================  ======================================
``off``    ignored                asked
``record``  given                  asked, then stored
``replay``  given                  asked, not stored (the file is not written)
``strict``  given                  ``InfraError``: nothing is ever asked
=========  =====================  ======================================

Only answers are stored, never faults: an :class:`~arpo_env.errors.InfraError` passes through.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from arpo_env.errors import ConfigError, InfraError, unknown
from arpo_env.search.base import Hit, SearchBackend, SharedBackend

CacheMode = Literal["off", "record", "replay", "strict"]
MODES: tuple[str, ...] = get_args(CacheMode)

_APPLICATION_ID = 0x4152504F  # "ARPO"
_VERSION = 1
_BUSY_MS = 60_000
#: Each connection serves one thread, but the collector may close it from another.
_OPTIONS: dict[str, Any] = {"timeout": _BUSY_MS / 1000, "isolation_level": None, "check_same_thread": False}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    tool TEXT NOT NULL, corpus TEXT NOT NULL, arguments TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (tool, corpus, arguments)
) WITHOUT ROWID
"""
#: Connections of a parent process, kept from the garbage collector in a forked child: SQLite forbids closing them.
_inherited: list[sqlite3.Connection] = []


class _Held:
    """A thread's connection: closed when the thread ends, and never by a process that did not open it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection, self.pid = connection, os.getpid()

    def __del__(
        self,
        getpid: Callable[[], int] = os.getpid,
        keep: Callable[[sqlite3.Connection], None] = _inherited.append,
    ) -> None:
        if self.pid == getpid():
            self.connection.close()
        else:
            keep(self.connection)


def arguments_key(arguments: Mapping[str, Any]) -> str:
    """The canonical form of a call's arguments: sorted ASCII JSON, texts in NFC with single blanks.

    Case is kept: not every engine ignores it.
    """
    tidy = {
        name: " ".join(unicodedata.normalize("NFC", value).split()) if isinstance(value, str) else value
        for name, value in arguments.items()
    }
    return json.dumps(tidy, sort_keys=True, separators=(",", ":"))


class Cassette:
    """A file of recorded answers, shared by threads and processes.

    Args:
        path: the SQLite file; made when it is missing, unless ``read_only``.
        read_only: open without ever writing, also from a read-only medium.

    Raises:
        ConfigError: the file is no cassette, or of another version, or missing and ``read_only``.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._local = threading.local()
        if read_only and not self.path.is_file():
            raise ConfigError(f"no cassette at {self.path}; record one first (mode='record')")
        if not self.path.parent.is_dir():
            raise ConfigError(f"the folder of the cassette {self.path} does not exist; create it first")
        try:
            self._local.held = _Held(self._connect())
        except sqlite3.Error as error:
            raise ConfigError(f"{self.path} cannot be used as a cassette: {error}") from None

    def get(self, tool: str, corpus: str, arguments: str) -> Any:
        """The stored value, or None.

        Raises:
            InfraError: the file cannot be read.
        """
        with self._faults("read"):
            row = (
                self._connection()
                .execute(
                    "SELECT value FROM answers WHERE tool = ? AND corpus = ? AND arguments = ?",
                    (tool, corpus, arguments),
                )
                .fetchone()
            )
        return None if row is None else json.loads(row[0])

    def put(self, tool: str, corpus: str, arguments: str, value: Any) -> Any:
        """Store ``value`` unless the key has one already; returns what is stored now (and on disk).

        Raises:
            InfraError: the file cannot be written.
        """
        text = json.dumps(value)
        with self._faults("write"):
            added = self._connection().execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", (tool, corpus, arguments, text)
            )
        if added.rowcount == 1:
            return json.loads(text)
        return self.get(tool, corpus, arguments)

    def put_many(self, tool: str, corpus: str, rows: Iterable[tuple[str, Any]]) -> int:
        """Store many (arguments, value) pairs in one transaction, all or none; returns how many were new.

        Raises:
            InfraError: the file cannot be written.
        """
        connection = self._connection()
        with self._faults("write"):
            before = connection.total_changes
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)",
                    ((tool, corpus, arguments, json.dumps(value)) for arguments, value in rows),
                )
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            return connection.total_changes - before

    def corpora(self, tool: str) -> list[str]:
        """The corpora that answers of ``tool`` were recorded from."""
        with self._faults("read"):
            rows = self._connection().execute("SELECT DISTINCT corpus FROM answers WHERE tool = ? ORDER BY 1", (tool,))
            return [row[0] for row in rows]

    def __len__(self) -> int:
        with self._faults("read"):
            return int(self._connection().execute("SELECT count(*) FROM answers").fetchone()[0])

    def check(self) -> None:
        """Read the whole file and prove it sound.

        Raises:
            InfraError: it is damaged.
        """
        with self._faults("read"):
            verdict = self._connection().execute("PRAGMA integrity_check").fetchone()[0]
        if verdict != "ok":
            raise InfraError(f"the cassette {self.path} is damaged: {verdict}")

    def close(self) -> None:
        """Close this thread's connection; the file is then complete in itself once all others are closed too."""
        self._local.__dict__.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "read_only": self.read_only}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], read_only=state["read_only"])  # type: ignore[misc]

    # ------------------------------------------------------------------ inside

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection (SQLite connections belong to one thread and never cross a fork).

        Raises:
            InfraError: none can be opened. The file was a cassette when this object was made, so a new thread that
                cannot open it met a fault of the machine (no descriptor left, a lock, a full disk).
        """
        held: _Held | None = getattr(self._local, "held", None)
        if held is not None and held.pid == os.getpid():
            return held.connection
        try:
            held = self._local.held = _Held(self._connect())
        except (sqlite3.Error, ConfigError) as error:
            raise InfraError(f"the cassette {self.path} cannot be opened for one more thread: {error}") from error
        return held.connection

    def _connect(self) -> sqlite3.Connection:
        return self._open_read_only() if self.read_only else self._open()

    def _open(self) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(self.path, **_OPTIONS)
        try:
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            if not self._is_ours(connection):
                connection.execute("BEGIN IMMEDIATE")
                # Another process may have been faster between the look and the lock.
                if not self._is_ours(connection):
                    connection.execute(_SCHEMA)
                    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {_VERSION}")
                connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
            # Safe against kill -9; only a power cut may lose the last answers, and never damages the file.
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_read_only(self) -> sqlite3.Connection:
        # `immutable` reads a WAL database from a medium where no lock file can be made; it is the second choice,
        # because it would not notice another process writing.
        for option in ("mode=ro", "mode=ro&immutable=1"):
            uri = f"{self.path.resolve().as_uri()}?{option}"
            connection: sqlite3.Connection = sqlite3.connect(uri, uri=True, **_OPTIONS)
            try:
                if not self._is_ours(connection):
                    raise ConfigError(f"{self.path} is an empty database, no cassette")
                return connection
            except sqlite3.OperationalError:
                connection.close()
                if option != "mode=ro":
                    raise
            except BaseException:
                connection.close()
                raise
        raise AssertionError("unreachable")

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """False for a new, empty database; raises for a foreign one."""
        ours = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if ours == _APPLICATION_ID:
            if version != _VERSION:
                raise ConfigError(f"{self.path} is a cassette of version {version}; this release reads {_VERSION}")
            return True
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise ConfigError(f"{self.path} is a database, but no cassette; name another file")
        return False

    @contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise InfraError(f"cannot {doing} the cassette {self.path}: {error}") from error


class Recorder:
    """The rules of the module's table for one tool and one corpus: when to ask, and what to store. Thread-safe.

    Equal calls that miss at the same time ask once a process: the others wait for that answer.

    Args:
        tool: names the kind of answers in the cassette.
        source: who answers; says whether it is ``deterministic``, and may name its corpus (``fingerprint``). None in
            mode ``strict``.
        cassette, mode, corpus: see :class:`CachedBackend`.

    Raises:
        ConfigError: an unknown mode, or nothing says which corpus.
    """

    def __init__(self, tool: str, source: Any, cassette: Cassette, mode: CacheMode, corpus: str | None = None) -> None:
        if mode not in MODES:
            raise unknown("cache mode", str(mode), MODES)
        if source is None and mode != "strict":
            raise ConfigError(f"mode={mode!r} asks a source on a miss, but there is none; use mode='strict'")
        if mode == "record" and cassette.read_only:
            raise ConfigError(f"mode='record' writes, but the cassette {cassette.path} was opened read_only")
        self.tool, self.cassette, self.mode = tool, cassette, mode
        self.fingerprint = _corpus(source, cassette, corpus, tool)
        #: Replayed strictly, even the live web is deterministic.
        self.deterministic = mode == "strict" or (source is not None and bool(source.deterministic))
        #: There is nobody to ask, so nobody whose health could be checked.
        self.replays_only = mode == "strict"
        self._guard = threading.Lock()
        self._under_way: dict[str, threading.Event] = {}

    def answer(
        self, arguments: Mapping[str, Any], ask: Callable[[], Any], also: Mapping[str, Any] | None = None
    ) -> Any:
        """The stored answer to ``arguments`` (else to ``also``), or what ``ask`` gives: a JSON value.

        Raises:
            InfraError: mode ``strict``, and it was never recorded; or the cassette cannot be used.
        """
        if self.mode == "off":
            return ask()
        keys = [arguments_key(arguments)] + ([] if also is None else [arguments_key(also)])
        while (answer := self._stored(keys)) is None:
            if self.mode == "strict":
                raise InfraError(
                    f"the cassette {self.cassette.path} holds no {self.tool} answer to {dict(arguments)} (corpus "
                    f"{self.fingerprint!r}); strict replay asks nobody: record it first (mode='record')"
                )
            if self.mode == "replay":
                return ask()
            with self._guard:
                leader = self._under_way.get(keys[0])
                if leader is None:
                    mine = self._under_way[keys[0]] = threading.Event()
            if leader is not None:
                leader.wait()
                continue  # its answer is stored now; or it failed, and it is our turn to ask
            try:
                # Between this thread's miss and its turn, another may have stored the answer: look again.
                answer = self._stored(keys)
                return self.cassette.put(self.tool, self.fingerprint, keys[0], ask()) if answer is None else answer
            finally:
                with self._guard:
                    del self._under_way[keys[0]]
                mine.set()
        return answer

    def _stored(self, keys: Iterable[str]) -> Any:
        for key in keys:
            answer = self.cassette.get(self.tool, self.fingerprint, key)
            if answer is not None:
                return answer
        return None


class CachedBackend(SharedBackend):
    """A search backend with a cassette in front; itself a :class:`~arpo_env.search.base.SearchBackend`.

    Args:
        backend: who is asked on a miss; may be None in mode ``strict``.
        cassette: where answers are kept (not used in mode ``off``).
        mode: see the module docstring.
        corpus: what the answers are about; default the backend's ``fingerprint``. Without a backend, the one
            corpus that the cassette holds.

    Raises:
        ConfigError: an unknown mode, or nothing says which corpus.
    """

    tool = "search"

    def __init__(
        self, backend: SearchBackend | None, cassette: Cassette, mode: CacheMode, *, corpus: str | None = None
    ) -> None:
        self._recorder = Recorder(self.tool, backend, cassette, mode, corpus)
        self.backend, self.cassette, self.mode = backend, cassette, mode
        self.fingerprint, self.deterministic = self._recorder.fingerprint, self._recorder.deterministic
        self.replays_only = self._recorder.replays_only

    def search(self, query: str, k: int) -> list[Hit]:
        """The stored hits, or the backend's.

        Raises:
            InfraError: the backend's own, or in mode ``strict`` a query that was never recorded.
        """
        # Imported caches do not say how many hits were asked for.
        rows = self._recorder.answer({"query": query, "k": k}, lambda: self._ask(query, k), also={"query": query})
        return [Hit(*row) for row in rows]

    def _ask(self, query: str, k: int) -> list[list[Any]]:
        assert self.backend is not None
        return [[hit.title, hit.url, hit.snippet, hit.score] for hit in self.backend.search(query, k)]


def _corpus(source: Any, cassette: Cassette, corpus: str | None, tool: str) -> str:
    own: str | None = getattr(source, "fingerprint", None)
    if corpus is not None or own is not None:
        return corpus if corpus is not None else str(own)
    held = cassette.corpora(tool) if source is None else []
    if len(held) != 1:
        raise ConfigError(
            f"which corpus do the answers belong to? The cassette {cassette.path} holds {held or 'none'} and "
            f"{type(source).__name__ if source is not None else 'no source'} does not say; pass corpus='…'"
        )
    return held[0]


def import_json(source: str | Path, cassette: Cassette, *, corpus: str) -> int:
    """Import a ``{query: text}`` JSON cache (the published code's format); returns how many entries were new.

    Each text becomes a single hit without title, given for any ``k``.

    Raises:
        ConfigError: the file is missing or is not such a cache; nothing is then imported.
    """
    source = Path(source)
    try:
        table = json.loads(source.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"no JSON cache at {source}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is no JSON file: {error}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{source} must hold one object {{query: text}}, got {type(table).__name__}")
    for query, text in table.items():
        if not isinstance(text, str):
            raise ConfigError(f"{source}: the entry of {query[:80]!r} must be a text, got {type(text).__name__}")
    rows = ((arguments_key({"query": query}), [["", "", text, 0.0]]) for query, text in table.items())
    return cassette.put_many(CachedBackend.tool, corpus, rows)
