"""Math-Verify behind a wall: a few persistent child processes, each killable, shared by all threads.

Why processes: Math-Verify bounds itself with SIGALRM, which works on a main thread only, and some inputs
hold the interpreter inside one C call. Why persistent: importing SymPy costs half a second, a verdict some
milliseconds. See ``_math_verify_worker.py`` for how the bound is kept (CPU time, by the kernel).

Workers start on first use, at most ``size`` of them; they end with their parent, and a forked child of the
parent starts its own.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

from arpo_env.errors import ConfigError, InfraError, ToolUnavailable

_SCRIPT = Path(__file__).with_name("_math_verify_worker.py")
#: What :meth:`MathVerifyPool.compare` says.
Outcome = Literal["equal", "different", "unreadable", "time", "memory", "crash"]


class _Gone(Exception):
    """The worker's channel closed; carries the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Worker:
    """One child process and its channel. Used by one thread at a time."""

    def __init__(self, seconds: float, memory_bytes: int) -> None:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONHASHSEED": "0",  # the order of SymPy's sets, hence what it tries first
        }
        # -P: the script's folder stays off sys.path, where our math.py would shadow the standard one.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT), str(seconds), str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        self._buffer = b""
        # A safety net for a stopped machine, far above the CPU bound: reaching it is no verdict but an InfraError.
        self._patience = 120.0 + 20.0 * seconds
        try:
            self._read()
        except BaseException:
            self.end()
            raise

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + self._patience
        while b"\n" not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([descriptor], [], [], remaining)[0]:
                raise InfraError(f"the Math-Verify worker gave no reply within {self._patience:.0f} s")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise _Gone(self.process.wait())
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def ask(self, gold: str, answer: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        line = json.dumps({"gold": gold, "answer": answer}).encode() + b"\n"
        try:
            view = memoryview(line)
            while view:
                view = view[self.process.stdin.write(view) :]
        except BrokenPipeError:
            raise _Gone(self.process.wait()) from None
        return self._read()

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


class MathVerifyPool:
    """Compare LaTeX expressions by Math-Verify. Thread-safe.

    Args:
        size: most workers at a time; default the machine's cores, four at most.
        seconds: CPU seconds a comparison may take.
        memory_bytes: address space of a worker.

    Raises:
        ConfigError: a bound that is not positive.
    """

    def __init__(self, size: int | None = None, seconds: float = 5.0, memory_bytes: int = 2 * 2**30) -> None:
        size = min(4, os.cpu_count() or 1) if size is None else size
        if size < 1 or seconds <= 0 or memory_bytes <= 0:
            raise ConfigError(f"size, seconds and memory_bytes must be positive: {size}, {seconds}, {memory_bytes}")
        self.seconds = seconds
        self._size = size
        self._memory = memory_bytes
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(size)
        self._hooked = False

    def compare(self, gold: str, answer: str) -> Outcome:
        """How ``answer`` stands to ``gold`` (both LaTeX, without delimiters).

        Raises:
            ToolUnavailable: math-verify is not installed.
            InfraError: workers die for reasons that are not this input's.
        """
        with self._slots:
            for attempt in (1, 2):
                worker = self._take()
                try:
                    reply = worker.ask(gold, answer)
                except _Gone as gone:
                    self._drop(worker)
                    if -gone.status == signal.SIGPROF:
                        return "time"
                    if -gone.status in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
                        return "crash"
                    # Killed from outside (out of memory, an operator): not the answer's fault, so try once more.
                    if attempt == 2:
                        raise InfraError(f"the Math-Verify worker died twice, exit status {gone.status}") from None
                    continue
                except BaseException:
                    self._drop(worker)
                    raise
                with self._lock:
                    self._idle.append(worker)
                if "equal" in reply:
                    return "equal" if reply["equal"] else "different"
                return "memory" if reply["error"] == "MemoryError" else "unreadable"
        raise AssertionError("unreachable")

    def _take(self) -> _Worker:
        with self._lock:
            if not self._hooked:
                if importlib.util.find_spec("math_verify") is None:
                    raise ToolUnavailable(
                        "this answer needs Math-Verify, which is not installed: pip install 'arpo[tasks]'"
                    )
                atexit.register(self.close)
                os.register_at_fork(after_in_child=self._after_fork)
                self._hooked = True
            if self._idle:
                return self._idle.pop()
        try:
            worker = _Worker(self.seconds, self._memory)
        except _Gone as gone:
            raise InfraError(f"the Math-Verify worker could not start, exit status {gone.status}") from None
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

    def close(self) -> None:
        """End all workers. Idempotent; a later comparison starts new ones."""
        with self._lock:
            workers, self._all, self._idle = self._all, set(), []
        for worker in workers:
            worker.end()
