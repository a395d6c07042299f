"""Daemon threads that environments step in; a thread that never comes back can be given up.

``concurrent.futures.ThreadPoolExecutor`` joins its threads when the interpreter exits, so one hanging tool would
keep a finished run from ending. Here a hanging call is abandoned: another thread takes its place, and whatever the
call returns later is thrown away.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Submitted(Future[T]):
    """A call in a :class:`DaemonPool`. ``began``: monotonic time at which a thread took it; None: it waits for one."""

    began: float | None = None

    def left(self, seconds: float) -> float:
        """What is left of ``seconds``, which count from when the call began."""
        return seconds if self.began is None else self.began + seconds - time.monotonic()


class DaemonPool:
    """A fixed number of worker threads; :meth:`abandon` replaces one that hangs."""

    def __init__(self, workers: int, name: str = "arpo-env") -> None:
        self._work: queue.SimpleQueue[tuple[Submitted[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._name = name
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, Future[Any] | None] = {}
        self._unfinished = 0  # calls that wait or run; abandoned ones not
        self._started = 0
        self._width = workers
        self._closed = False

    def submit(self, call: Callable[..., T], *args: Any) -> Submitted[T]:
        """Run ``call(*args)`` in a worker."""
        future: Submitted[T] = Submitted()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._unfinished += 1
            if len(self._threads) < min(self._width, self._unfinished):
                self._start()
        self._work.put((future, lambda: call(*args)))
        return future

    def abandon(self, future: Future[Any]) -> None:
        """Stop waiting for a running call: its thread is replaced and ends when the call returns, if ever."""
        with self._lock:
            for thread, own in self._threads.items():
                if own is future:
                    del self._threads[thread]
                    self._unfinished -= 1
                    if not self._closed:
                        self._start()
                    return

    def shutdown(self, *, wait: bool = True) -> None:
        """End the idle threads and (``wait``) wait for the calls that run, but not for abandoned ones. Idempotent."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        for _ in threads:
            self._work.put(None)
        for thread in threads if wait else ():
            thread.join()

    def _start(self) -> None:
        thread = threading.Thread(target=self._loop, name=f"{self._name}-{self._started}", daemon=True)
        self._started += 1
        self._threads[thread] = None
        thread.start()

    def _loop(self) -> None:
        me = threading.current_thread()
        while (item := self._work.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                with self._lock:
                    self._unfinished -= 1
                continue
            with self._lock:
                self._threads[me] = future
            future.began = time.monotonic()
            try:
                result = call()
            except BaseException as error:  # the caller gets it from the future
                future.set_exception(error)
            else:
                future.set_result(result)
            del item, call, future
            with self._lock:
                if me not in self._threads:
                    return  # abandoned meanwhile; another thread has taken over
                self._threads[me] = None
                self._unfinished -= 1
