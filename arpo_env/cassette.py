"""A file of recorded answers of everything that is searched, fetched or judged: SQLite in WAL mode.

The published code keeps its search cache as one JSON file that is rewritten on every miss and loses entries when
two processes do so at once. A database has none of these problems: a write is a transaction that survives
``kill -9`` whole or not at all, any number of threads and processes read and write together, and a look-up costs
some tens of microseconds however large the file grows.

:class:`Cassette` maps (tool, corpus, arguments) to a JSON value; the first value stored for a key stays, so that all
readers of a key see the same. When to ask and when to look is :mod:`arpo_env.recording`'s to say.
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
from typing import Any

from arpo_env.errors import ConfigError, InfraError

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
