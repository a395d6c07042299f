"""The live web through `ddgs <https://github.com/deedy5/ddgs>`_, one pinned engine, politely.

ddgs swallows what matters here: any status but 200 becomes "no results", and ``backend="auto"`` asks a random
engine. So one engine is used directly and its status is watched: a throttled or blocked query is an
:class:`Throttled` error, an empty page that was really served is an empty list. All processes share one
:class:`~arpo_env.gate.Gate`. Nothing is sent before the first query.

What an engine sends is bounded in time (by ddgs' client) and size, and it may redirect to itself only. That client
passes for a browser and honours the proxy settings of the host, as ddgs has it; the page reader
(:mod:`arpo_env.web.live`) does neither.

Record what you search (:mod:`arpo_env.search.cache`): the live web is never the same twice.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

from arpo_env.charsets import decode
from arpo_env.errors import ConfigError, InfraError, ToolUnavailable, unknown
from arpo_env.gate import CircuitOpen, Gate, cache_folder
from arpo_env.search.base import Hit
from arpo_env.shared import Shared

#: Pages that are served with status 200 in place of results when an engine takes one for a robot.
_CHALLENGE = re.compile(
    r"captcha|unusual traffic|anomaly[-_. ]?(?:modal|detect|\.js)|are you a (?:robot|human)", re.IGNORECASE
)
#: Longest reply that is read, decompressed; a page of results has some tens of kilobytes.
_MAX_BYTES = 4 << 20
_MAX_REDIRECTS = 3
_OFFLINE = "Live search needs the network; without one, replay a recording (ARPO-WebReplay-v0 with cassette=…)"


class Throttled(InfraError):
    """The engine refused to answer (rate limit, robot check, overload); nothing is known about the query."""


@dataclass(frozen=True)
class Reply:
    """What an engine sent: the HTTP status, the page, and the results that were read from it."""

    status: int
    text: str
    hits: Sequence[Hit]


class Fetcher(Protocol):
    """Asks an engine once.

    Raises:
        OSError: it could not be reached in time.
    """

    def __call__(self, query: str) -> Reply: ...


class LiveSearch(Shared):
    """A search backend over the live web.

    Args:
        engine: the ddgs text engine, pinned (``duckduckgo``, ``brave``, ``mojeek``, ``wikipedia`` …).
        region: as in ddgs, e.g. ``us-en``, ``cn-zh``.
        timeout: seconds for one request.
        retries: further attempts after a throttled or failed one.
        backoff: seconds before the first retry; doubled each time and jittered.
        gate: the shared limit; default half a query a second, in bursts of three, kept under the user's cache folder.
        fetch: how to ask the engine; default through ddgs.
        sleep: how to wait (tests pass their own).

    Raises:
        ToolUnavailable: ddgs is not installed, or of a release this code does not know.
        ConfigError: an unknown engine, or a number out of range.
    """

    deterministic = False

    def __init__(
        self,
        engine: str = "duckduckgo",
        *,
        region: str = "us-en",
        timeout: float = 10.0,
        retries: int = 2,
        backoff: float = 2.0,
        gate: Gate | None = None,
        fetch: Fetcher | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not (timeout > 0 and retries >= 0 and backoff >= 0):
            raise ConfigError(f"need timeout > 0, retries >= 0, backoff >= 0; got {timeout=}, {retries=}, {backoff=}")
        self.fetch: Fetcher = DdgsFetcher(engine, region, timeout) if fetch is None else fetch
        self.gate = Gate(cache_folder() / f"gate-{engine}.json", rate=0.5, burst=3) if gate is None else gate
        #: Names the source for the cache.
        self.fingerprint = f"ddgs:{engine}:{region}"
        self._retries, self._backoff, self._sleep = retries, backoff, sleep
        self._jitter = random.SystemRandom()  # never the global stream, which results may hang on

    def search(self, query: str, k: int) -> list[Hit]:
        """Ask the engine; the first page holds about ten hits, whatever ``k``.

        Raises:
            Throttled: it would not answer, after the retries.
            InfraError: it cannot be reached, or the gate is closed.
        """
        if k < 1:
            raise ConfigError(f"k must be >= 1, got {k}")
        wait = self._backoff
        for attempt in range(self._retries + 1):
            try:
                self.gate.enter()
            except CircuitOpen as error:
                raise CircuitOpen(f"{error}. {_OFFLINE}") from None
            failure = self._attempt(query)
            self.gate.leave(ok=not isinstance(failure, InfraError))
            if not isinstance(failure, InfraError):
                return list(failure.hits[:k])
            if attempt == self._retries:
                raise failure
            # Jitter, so that many workers do not come back at once; it changes no result.
            self._sleep(wait * self._jitter.uniform(0.5, 1.0))
            wait *= 2
        raise AssertionError("unreachable")

    def _attempt(self, query: str) -> Reply | InfraError:
        try:
            reply = self.fetch(query)
        except OSError as error:
            return InfraError(f"{self.fingerprint} cannot be reached: {error}. {_OFFLINE}")
        if reply.status != 200:
            return Throttled(f"{self.fingerprint} answered HTTP {reply.status}")
        if not reply.hits and (not reply.text.strip() or _is_challenge(reply.text, query)):
            return Throttled(f"{self.fingerprint} sent a robot check or an empty page in place of results")
        return reply


def _is_challenge(page: str, query: str) -> bool:
    """Whether a page without results is a robot check. Engines repeat the query: what it says itself is no sign.

    Otherwise a few queries about captchas would close the circuit for all processes.
    """
    said = set(map(str.lower, _CHALLENGE.findall(" ".join(query.split()))))
    return any(sign.lower() not in said for sign in _CHALLENGE.findall(page))


class DdgsFetcher:
    """One query to one ddgs engine, its HTTP status kept.

    Raises:
        ToolUnavailable: see :class:`LiveSearch`.
        ConfigError: an unknown engine.
    """

    def __init__(self, engine: str, region: str, timeout: float, *, search_url: str | None = None) -> None:
        try:
            from ddgs.engines import ENGINES
        except ImportError as error:
            raise ToolUnavailable(f"live search needs ddgs: pip install 'arpo[web]' ({error})") from None
        engines = ENGINES.get("text", {})
        if engine not in engines:
            raise unknown("search engine", engine, engines)
        self._engine_class = engines[engine]
        self._region, self._timeout, self._search_url = region, timeout, search_url
        self._local = threading.local()
        for method in ("search", "request"):
            if not callable(getattr(self._engine_class, method, None)):
                raise _other_release(f"engine.{method}")

    def __call__(self, query: str) -> Reply:
        engine = self._engine()
        self._local.status, self._local.text = 0, ""
        try:
            results = engine.search(query, region=self._region, safesearch="moderate", timelimit=None, page=1)
        except Exception as error:
            if self._local.status == 200:
                # The page came and could not be read: a changed layout, or no HTML at all.
                return Reply(200, "", ())
            raise OSError(f"{type(error).__name__}: {error}") from error
        hits = [
            Hit(result.title, result.href, result.body, -float(place))
            for place, result in enumerate(results or ())
            if result.title or result.body
        ]
        return Reply(self._local.status, self._local.text, hits)

    def _engine(self) -> Any:
        """This thread's engine, with its requests watched."""
        if not hasattr(self._local, "engine"):
            # Whole seconds, as ddgs wants them; no proxy but the one the user gives ddgs itself.
            engine: Any = self._engine_class(timeout=max(1, round(self._timeout)))
            if self._search_url is not None:
                engine.search_url = self._search_url
            client = getattr(engine.http_client, "client", None)
            if client is None:
                raise _other_release("http_client.client")

            def request(method: str, url: str, **options: Any) -> str | None:
                self._local.status, self._local.text = 0, ""
                status, text = _read(client, method, url, options)
                self._local.status, self._local.text = status, text
                return text if status == 200 else None

            engine.request = request
            self._local.engine = engine
        return self._local.engine


def _read(client: Any, method: str, url: str, options: dict[str, Any]) -> tuple[int, str]:
    """(status, text) of a reply, read with a limit; redirects are followed within the host that was asked.

    Raises:
        OSError: the reply is too large, or leads astray.
    """
    host = urlsplit(url).netloc
    for _ in range(_MAX_REDIRECTS + 1):
        with client.request(method, url, stream=True, follow_redirects=False, **options) as reply:
            status, location = int(reply.status_code), reply.headers.get("location", "")
            if not (300 <= status < 400 and location):
                body = bytearray()
                for part in reply.iter_bytes(1 << 16):
                    body += part
                    if len(body) > _MAX_BYTES:
                        raise OSError(f"the reply is larger than {_MAX_BYTES} bytes")
                return status, decode(bytes(body), str(reply.encoding or ""))
        method, url, options = "GET", urljoin(url, location), {}
        if urlsplit(url).netloc != host:
            raise OSError(f"it redirects to another host ({urlsplit(url).netloc[:100]})")
    raise OSError(f"it redirects more than {_MAX_REDIRECTS} times")


def _other_release(missing: str) -> ToolUnavailable:
    return ToolUnavailable(f"this release of ddgs has no {missing}; use ddgs 9 (pip install 'arpo[web]')")
