"""Child processes that do dangerous work and can be killed: for code that no thread can be saved from.

Some libraries take quadratic time, or all memory, on inputs made for it, inside one C call. A worker is a script of
its own that serves requests one after the other (:func:`serve`). The kernel bounds it: ITIMER_PROF counts its *CPU*
time, and SIGPROF's default action ends it, so that neither a busy machine nor a slow start can change an outcome;
RLIMIT_AS bounds its memory. Workers are kept, since importing such libraries takes half a second; they end with their
parent, and a forked child of the parent starts its own.

Protocol: one JSON object a line, either way; the worker's first line says that it is ready.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from arpo_env.errors import ConfigError, InfraError

#: A stopped machine, far above any CPU bound: reaching it says nothing about the request.
_PATIENCE = 120.0


class WorkerLost(Exception):
    """The request ended its worker, and why."""

    def __init__(self, reason: Literal["time", "memory", "crash"]) -> None:
        super().__init__(reason)
        self.reason = reason


class _Gone(Exception):
    """The worker's channel closed; carries the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Worker:
    """One child process and its channel. Used by one thread at a time."""

    def __init__(self, command: list[str], seconds: float) -> None:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONHASHSEED": "0",
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        self._buffer = bytearray()
        self._patience = _PATIENCE + 20.0 * seconds
        try:
            self._read()
        except BaseException:
            self.end()
            raise

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        view = memoryview(json.dumps(request).encode() + b"\n")
        try:
            while view:
                view = view[self.process.stdin.write(view) :]
        except BrokenPipeError:
            raise _Gone(self.process.wait()) from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + self._patience
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([descriptor], [], [], remaining)[0]:
                raise InfraError(f"a worker gave no reply within {self._patience:.0f} s")
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise _Gone(self.process.wait())
            self._buffer += chunk
        reply: dict[str, Any] = json.loads(self._buffer[:end])
        del self._buffer[: end + 1]
        return reply

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close our ends. Alone (in a forked child) it leaves the process to the parent."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self.process.returncode is None:
            self.process.returncode = 0  # not ours to wait for: keeps Popen.__del__ silent


class WorkerPool:
    """At most ``size`` workers of one script, started when they are needed; thread-safe.

    Args:
        script: the file to run; it calls :func:`serve`.
        size: most workers at a time; default the machine's cores, four at most.
        seconds: CPU seconds a request may take.
        memory_bytes: address space of a worker.

    Raises:
        ConfigError: a bound that is not positive.
    """

    def __init__(
        self, script: Path, *, size: int | None = None, seconds: float = 5.0, memory_bytes: int = 2 << 30
    ) -> None:
        size = min(4, os.cpu_count() or 1) if size is None else size
        if size < 1 or seconds <= 0 or memory_bytes <= 0:
            raise ConfigError(f"size, seconds and memory_bytes must be positive: {size}, {seconds}, {memory_bytes}")
        self.seconds = seconds
        # -P: the script's folder stays off sys.path, where its neighbours would shadow standard modules.
        self._command = [sys.executable, "-P", str(script), str(seconds), str(memory_bytes)]
        self._name = script.stem
        self._size = size
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(size)
        self._hooked = False

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's reply.

        Raises:
            WorkerLost: the request used up its time or memory, or crashed the worker.
            InfraError: workers die for reasons that are not this request's.
        """
        with self._slots:
            for attempt in (1, 2):
                worker = self._take()
                try:
                    reply = worker.ask(request)
                except _Gone as gone:
                    self._drop(worker)
                    if -gone.status == signal.SIGPROF:
                        raise WorkerLost("time") from None
                    if -gone.status in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
                        raise WorkerLost("crash") from None
                    # Killed from outside (out of memory, an operator): not the request's fault, so try once more.
                    if attempt == 2:
                        raise InfraError(f"{self._name} died twice, exit status {gone.status}") from None
                    continue
                except BaseException:
                    self._drop(worker)
                    raise
                if reply.get("error") == "MemoryError":
                    self._drop(worker)  # what a library holds after that is anybody's guess
                    raise WorkerLost("memory")
                with self._lock:
                    self._idle.append(worker)
                return reply
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End all workers. Idempotent; a later request starts new ones."""
        with self._lock:
            workers, self._all, self._idle = self._all, set(), []
        for worker in workers:
            worker.end()

    def _take(self) -> _Worker:
        with self._lock:
            if not self._hooked:
                atexit.register(self.close)
                os.register_at_fork(after_in_child=self._after_fork)
                self._hooked = True
            if self._idle:
                return self._idle.pop()
        try:
            worker = _Worker(self._command, self.seconds)
        except _Gone as gone:
            raise InfraError(f"{self._name} could not start, exit status {gone.status}") from None
        with self._lock:
            self._all.add(worker)
        return worker

    def _drop(self, worker: _Worker) -> None:
        worker.end()
        with self._lock:
            self._all.discard(worker)

    def _after_fork(self) -> None:
        for worker in self._all:
            worker.forget()
        self._idle, self._all = [], set()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._size)


def serve(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The worker's side: answer requests until the parent is gone. Import what is slow before calling it.

    What ``handle`` raises becomes ``{"error": name of the exception}``.
    """
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The channel is a private copy of stdout, so that nothing a library prints can be taken for a reply.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    _write(channel, {"ready": True})
    buffer = bytearray()
    while True:
        seen = 0
        while (end := buffer.find(b"\n", seen)) < 0:
            seen = len(buffer)
            if not select.select([0], [], [], 2.0)[0]:
                if os.getppid() != parent:
                    return
                continue
            chunk = os.read(0, 1 << 16)
            if not chunk:
                return
            buffer += chunk
        request = json.loads(buffer[:end])
        del buffer[: end + 1]
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            reply = handle(request)
        except Exception as error:
            reply = {"error": type(error).__name__}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        _write(channel, reply)


def _write(channel: Any, reply: dict[str, Any]) -> None:
    channel.write(json.dumps(reply).encode() + b"\n")
    channel.flush()
