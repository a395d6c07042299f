"""The host's end of a sandbox: one stream to a supervisor, shared by any number of threads and sessions.

A server lives and dies as a whole. When it dies every call in flight and every later call on its sessions
raises :class:`InfraError`; the sandbox that owns it starts another one for the next session. A process that was
forked from this one can use nothing here (its own sandbox starts at its first call): the descriptors are closed
in the child, so that a killed parent really ends the stream.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import asdict
from typing import Any, Literal, Self, cast

from ..errors import ConfigError, InfraError, ToolUnavailable
from .base import ExecResult, Limits, SandboxSession
from .inside import wire
from .pool import FairGate

#: Code longer than this many characters is refused with a result, not run.
MAX_CODE = 4_000_000
#: Seconds beyond a cell's own limit after which a silent server counts as dead.
PATIENCE = 30.0


class Transport(ABC):
    """A byte stream to a supervisor and the means to end it."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """All of ``data``; ``OSError`` when the other end is gone."""

    @abstractmethod
    def receive(self) -> bytes:
        """Some bytes, blocking; empty when the stream ended."""

    @abstractmethod
    def close(self) -> None:
        """End the stream and whatever runs behind it. Idempotent."""

    @abstractmethod
    def hang_up(self) -> None:
        """End the stream without waiting for anything; the supervisor then ends by itself."""

    @abstractmethod
    def abandon(self) -> None:
        """Close this process's descriptors only: called in a forked child."""

    def obituary(self) -> str:
        """What is known of why it ended."""
        return ""


class _Call:
    __slots__ = ("lock", "reply")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.reply: dict[str, Any] | None = None


_servers: weakref.WeakSet[Server] = weakref.WeakSet()


class Server:
    """One running supervisor. Thread-safe."""

    def __init__(self, transport: Transport, tier: str, start_seconds: float) -> None:
        """Waits until the supervisor is ready.

        Raises:
            ToolUnavailable: it said that it cannot start, or said nothing for ``start_seconds``.
        """
        self.tier = tier
        self.pid = os.getpid()
        self.features: dict[str, Any] = {}
        self._transport = transport
        self._ids = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._dead = ""
        self.orphans: deque[int] = deque()
        ready = _Call()
        self._calls[0] = ready
        self._reader = threading.Thread(target=self._read, name=f"arpo-sandbox-{tier}", daemon=True)
        _servers.add(self)
        self._reader.start()
        if not ready.lock.acquire(timeout=start_seconds) or ready.reply is None or "ready" not in ready.reply:
            why = (ready.reply or {}).get("failed") or self._dead or f"no answer in {start_seconds:g} s"
            self.close("it did not start")
            raise ToolUnavailable(f"the {tier} sandbox did not start: {why}")
        self.features = ready.reply["ready"]

    @property
    def alive(self) -> bool:
        return not self._dead and self.pid == os.getpid()

    def call(self, op: str, patience: float, **fields: Any) -> dict[str, Any]:
        """One request and its reply. Raises ``InfraError`` when the server is dead, silent, or refuses."""
        while self.orphans:
            with contextlib.suppress(IndexError):
                self.post("close", sid=self.orphans.popleft())
        call = _Call()
        number = self._post(op, call, fields)
        if not call.lock.acquire(timeout=patience):
            self.close(f"it gave no answer to {op!r} for {patience:g} s")
        with self._lock:
            self._calls.pop(number, None)
        if call.reply is None:
            raise InfraError(f"the {self.tier} sandbox died: {self._dead}. Open a new session to restart it.")
        if "error" in call.reply:
            raise InfraError(f"{self.tier} sandbox: {call.reply['error']}")
        return call.reply

    def post(self, op: str, **fields: Any) -> None:
        """A request whose reply nobody waits for."""
        with contextlib.suppress(InfraError):
            self._post(op, None, fields)

    def _post(self, op: str, call: _Call | None, fields: dict[str, Any]) -> int:
        if self.pid != os.getpid():
            raise InfraError("this sandbox belongs to the parent process; a forked process opens its own sessions")
        number = next(self._ids)
        frame = wire.pack({"id": number, "op": op, **fields})
        with self._lock:
            if self._dead:
                raise InfraError(f"the {self.tier} sandbox died: {self._dead}. Open a new session to restart it.")
            if call is not None:
                self._calls[number] = call
        try:
            with self._send_lock:
                self._transport.send(frame)
        except OSError as error:
            self._end(f"the stream broke: {error}")
        return number

    def _read(self) -> None:
        buffer = bytearray()
        why = "its stream ended"
        try:
            while data := self._transport.receive():
                buffer += data
                while (body := wire.take(buffer)) is not None:
                    message = json.loads(body)
                    with self._lock:
                        call = self._calls.pop(message.get("id", 0), None)
                    if call is not None:
                        call.reply = message
                        call.lock.release()
        except (OSError, ValueError) as error:
            why = f"its stream broke: {error}"
        self._end(why)

    def _end(self, why: str) -> None:
        with self._lock:
            if self._dead:
                return
            note = self._transport.obituary()
            self._dead = f"{why}{f' ({note})' if note else ''}"
            waiting, self._calls = self._calls, {}
        for call in waiting.values():
            with contextlib.suppress(RuntimeError):
                call.lock.release()

    def close(self, why: str = "it was closed") -> None:
        """Stop the supervisor and with it every session. Idempotent; in a forked child it only lets go."""
        if self.pid != os.getpid():
            return
        self._end(why)
        self._transport.close()

    def hang_up(self) -> None:
        self._transport.hang_up()

    def abandon(self) -> None:
        self._dead = self._dead or "it belongs to the parent process"
        self._transport.abandon()


def _after_fork_in_child() -> None:
    for server in list(_servers):
        server.abandon()
    _servers.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


class ServerSession(SandboxSession):
    """One live interpreter behind a :class:`Server`."""

    _sids = itertools.count(1)

    def __init__(self, server: Server, gate: FairGate, sid: int, limits: Limits) -> None:
        self._server = server
        self._gate = gate
        self._sid = sid
        self._limits = limits
        self._open = True

    @classmethod
    def start(cls, server: Server, gate: FairGate, seed: int, limits: Limits) -> Self:
        sid = next(cls._sids)
        server.call("new", PATIENCE, sid=sid, seed=seed, limits=asdict(limits))
        return cls(server, gate, sid, limits)

    def run(self, code: str, *, seconds: float | None = None) -> ExecResult:
        if not isinstance(code, str):
            raise ConfigError(f"code must be a str, got {type(code).__name__}")
        wanted = self._limits.seconds if seconds is None else seconds
        if not 0 < wanted < float("inf"):
            raise ConfigError(f"seconds must be a positive number, got {seconds!r}")
        self._check_open()
        if len(code) > MAX_CODE:
            message = f"the cell was not run: it has {len(code)} characters, the limit is {MAX_CODE}"
            return ExecResult(message, "error")
        with self._gate:  # bounded and first come first served; the cell's clock starts only inside
            reply = self._server.call("run", wanted + PATIENCE, sid=self._sid, code=code, seconds=wanted)
        status = cast(Literal["ok", "error", "timeout", "killed"], reply["status"])
        return ExecResult(reply["output"], status)

    def fork(self) -> Self:
        self._check_open()
        sid = next(self._sids)
        self._server.call("fork", PATIENCE, sid=self._sid, new=sid)
        return type(self)(self._server, self._gate, sid, self._limits)

    def close(self) -> None:
        if self._open:
            self._open = False
            if self._server.alive:
                self._server.post("close", sid=self._sid)

    def _check_open(self) -> None:
        if not self._open:
            raise InfraError("this sandbox session is closed; open a new one")
        if self._server.pid != os.getpid():
            raise InfraError("this session belongs to the parent process; a forked process opens its own")

    def __del__(self) -> None:
        # The collector may run this inside any allocation, so no lock may be taken: leave a note.
        if getattr(self, "_open", False):
            self._server.orphans.append(self._sid)
