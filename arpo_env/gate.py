"""One gate for all processes of a machine that ask one server: a token bucket and a circuit breaker.

Users of live search elsewhere see half their queries fail under load, because every worker keeps its own limit, or
none. Here the limit is a small file under a lock: whoever enters takes a token, or is told how long to wait for the
one it has reserved (so waiting is fair, and nobody polls). When several calls in a row have failed, the circuit opens:
for a while nobody asks at all, then a single probe decides whether it closes.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from arpo_env.errors import ConfigError, InfraError

_RECORD_BYTES = 256


class CircuitOpen(InfraError):
    """Nobody is let in for a while, after failures in a row."""


@dataclass
class _State:
    tokens: float
    updated: float
    failures: int = 0
    open_until: float = 0.0


class Gate:
    """Limits calls per second, over all threads and processes that name the same file.

    Args:
        path: the shared file; made when it is missing. A file that cannot be read as a state starts afresh.
        rate: calls a second in the long run.
        burst: calls that may come at once after a quiet time.
        max_wait: seconds a caller may be asked to wait; with more in the queue, :meth:`enter` refuses.
        trip_after: failures in a row that open the circuit.
        cool_down: seconds it stays open.
        label: what passes here, for messages.
        clock, sleep: the wall clock (shared by processes), and how to wait; tests pass their own.

    Raises:
        ConfigError: a number out of range, or a path that cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rate: float,
        burst: int = 1,
        max_wait: float = 60.0,
        trip_after: int = 5,
        cool_down: float = 60.0,
        label: str = "search",
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not (rate > 0 and burst >= 1 and max_wait >= 0 and trip_after >= 1 and cool_down >= 0):
            raise ConfigError(
                "need rate > 0, burst >= 1, max_wait >= 0, trip_after >= 1, cool_down >= 0; "
                f"got {rate=}, {burst=}, {max_wait=}, {trip_after=}, {cool_down=}"
            )
        self.path = Path(path)
        self._rate, self._burst, self._max_wait = rate, burst, max_wait
        self._trip_after, self._cool_down = trip_after, cool_down
        self._label, self._clock, self._sleep = label, clock, sleep
        try:
            with self._locked():
                pass
        except OSError as error:
            raise ConfigError(f"the rate limit's file {self.path} cannot be used: {error}") from None

    def enter(self, *, again: bool = False) -> None:
        """Wait for one's turn, and then report with :meth:`leave`.

        Args:
            again: another request of a caller that is inside. It takes its turn like any other, but the circuit lets
                it pass (it may be the probe), and one report counts for them all.

        Raises:
            CircuitOpen: it failed too often lately.
            InfraError: the queue is longer than ``max_wait``.
        """
        with self._locked() as state:
            now = self._clock()
            if state.open_until > now and not again:
                left = state.open_until - now
                raise CircuitOpen(
                    f"{self._label} is paused for {left:.0f} s more after {state.failures} failures in a row"
                )
            # A clock that was set back must not freeze the bucket.
            elapsed = max(0.0, now - state.updated)
            tokens = min(self._burst, state.tokens + elapsed * self._rate) - 1
            wait = max(0.0, -tokens / self._rate)
            if wait > self._max_wait:
                raise InfraError(
                    f"{self._label}: too many requests at once, the next turn is {wait:.0f} s away "
                    f"(rate {self._rate:g}/s)"
                )
            if state.failures >= self._trip_after:
                # This call is the probe; the others stay out until it has reported.
                state.open_until = now + self._cool_down
            state.tokens, state.updated = tokens, now
        if wait:
            self._sleep(wait)

    def leave(self, ok: bool) -> None:
        """Report how the call went (a failure is a throttled or unreachable engine, not an empty result)."""
        with self._locked() as state:
            if ok:
                state.failures, state.open_until = 0, 0.0
                return
            state.failures += 1
            if state.failures >= self._trip_after:
                state.open_until = self._clock() + self._cool_down

    @contextmanager
    def _locked(self) -> Iterator[_State]:
        """The state, under the lock; written back unless the block raises."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                state = _State(**json.loads(os.pread(descriptor, _RECORD_BYTES, 0)))
            except (ValueError, TypeError):
                state = _State(float(self._burst), self._clock())
            yield state
            # One short write of fixed length: a kill cannot leave half a record behind.
            os.pwrite(descriptor, json.dumps(asdict(state)).ljust(_RECORD_BYTES).encode(), 0)
        finally:
            os.close(descriptor)


def cache_folder() -> Path:
    """Where the gates of this user are: ``arpo`` in ``$XDG_CACHE_HOME`` or ``~/.cache``, made when missing.

    Raises:
        ConfigError: it cannot be made.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arpo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the cache folder {folder} cannot be made ({error}); set XDG_CACHE_HOME") from None
    return folder
