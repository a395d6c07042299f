"""The live web as a source of pages: bounded, polite, honest about who asks.

Every site's robots.txt is obeyed under our own name, and all processes of a user share one limit a host
(:class:`~arpo_env.gate.Gate`): a request a second, or fewer where the site asks for it. A failure that may pass
is tried again after a jittered pause; what remains is a :class:`~arpo_env.web.base.PageFault`.

Record what is read (:mod:`arpo_env.web.recorded`): the live web is never the same twice.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

from arpo_env.errors import ConfigError
from arpo_env.gate import Gate, cache_folder
from arpo_env.search.base import Page
from arpo_env.shared import Shared
from arpo_env.web.address import AddressPolicy, Target
from arpo_env.web.base import PageFault
from arpo_env.web.extract import Extractor
from arpo_env.web.fetch import Budget, Document, Fetcher
from arpo_env.web.robots import Robots

AGENT = "arpo-browse"
_BARE = re.compile(r"[\w-]+(?:\.[\w-]+)+(?:[:/?#].*)?")


class LivePages(Shared):
    """Pages of the live web.

    Args:
        contact: how a site's owner reaches whoever runs this (a URL or an e-mail address); part of the agent name.
        policy: which ports and addresses may be read; default ports 80 and 443 of the public internet.
        seconds: one whole fetch, redirects and body included, waiting for its turn excluded.
        max_bytes: of a page, also decompressed.
        max_redirects: hops before giving up.
        retries: further attempts after a failure that may pass.
        backoff: seconds before the first retry; doubled each time, jittered; ``Retry-After`` is obeyed.
        max_wait: longest pause before a retry or for one's turn at a host, in seconds.
        interval: seconds between two requests to one host, in the long run; a ``Crawl-delay`` of up to 30 s is obeyed.
        extractor: ``trafilatura`` or ``beautifulsoup``.
        gates: folder of the hosts' shared limits; default in the user's cache folder.
        fetcher, sleep, clock: how pages are fetched, and time passes (tests pass their own).

    Raises:
        ConfigError: a number out of range, an unknown extractor.
        ToolUnavailable: a package is missing.
    """

    deterministic = False

    def __init__(
        self,
        *,
        contact: str = "",
        policy: AddressPolicy | None = None,
        seconds: float = 20.0,
        max_bytes: int = 3 << 20,
        max_redirects: int = 5,
        retries: int = 2,
        backoff: float = 1.0,
        max_wait: float = 60.0,
        interval: float = 1.0,
        extractor: str = "trafilatura",
        gates: str | Path | None = None,
        fetcher: Fetcher | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not (seconds > 0 and retries >= 0 and backoff >= 0 and max_wait >= 0 and interval > 0):
            raise ConfigError(
                "need seconds > 0, retries >= 0, backoff >= 0, max_wait >= 0, interval > 0; "
                f"got {seconds=}, {retries=}, {backoff=}, {max_wait=}, {interval=}"
            )
        if not re.fullmatch(r"[\x21-\x7e]*", contact):
            raise ConfigError(f"contact must be a URL or an e-mail address in plain ASCII, got {contact!r}")
        if fetcher is None:
            from arpo_env import __version__  # here, as the package itself imports what imports this module

            agent = f"{AGENT}/{__version__}" + (f" (+{contact})" if contact else "")
            fetcher = Fetcher(policy or AddressPolicy(), agent=agent, max_bytes=max_bytes, max_redirects=max_redirects)
        self.extractor = Extractor(extractor)
        #: Names the source for the cassette.
        self.fingerprint = f"web:{extractor}"
        self._fetcher, self._robots = fetcher, Robots(AGENT)
        self._seconds, self._retries, self._backoff, self._max_wait = seconds, retries, backoff, max_wait
        self._interval = interval
        self._gates = Path(gates) if gates is not None else cache_folder() / "hosts"
        try:
            self._gates.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the folder {self._gates} for rate limits cannot be made: {error}") from None
        self._sleep, self._clock = sleep, clock
        self._jitter = random.SystemRandom()  # never the global stream, which results may hang on

    def page(self, address: str) -> Page:
        """Fetch and extract. ``example.org/page`` is read as ``https://example.org/page``.

        Raises:
            Refusal: there is no such page, or it is not to be read.
            PageFault: it could not be read, after the retries.
            InfraError: the host's limit has too long a queue, or its circuit is open.
        """
        url = f"https://{address}" if "://" not in address and _BARE.fullmatch(address) else address
        wait = self._backoff
        for attempt in range(self._retries + 1):
            try:
                document = self._visit(url)
            except PageFault as fault:
                if attempt == self._retries or not fault.may_pass or fault.retry_after > self._max_wait:
                    raise
                # Jitter, so that many workers do not come back at once; it changes no result.
                pause = max(fault.retry_after, wait * self._jitter.uniform(0.5, 1.0))
                self._sleep(min(self._max_wait, pause))
                wait *= 2
            else:
                return self.extractor.page(document)
        raise AssertionError("unreachable")

    def _visit(self, url: str) -> Document:
        """One attempt, from robots.txt to a good status."""
        budget, turn = Budget(self._seconds), _Turn()

        def enter(target: Target, delay: float) -> None:
            with budget.paused():
                turn.enter(target.host, self._gate(target.host, delay))

        def polite(target: Target) -> None:
            enter(target, self._robots.check(target, rules))

        def rules(url: str) -> Document:
            return self._fetcher.fetch(url, budget, lambda target: enter(target, 0.0))

        ok = True
        try:
            document = self._fetcher.fetch(url, budget, polite)
            document.check_status()
            return document
        except PageFault as fault:
            ok = not fault.may_pass  # only that speaks against the host as a whole; a broken page is just that
            raise
        finally:
            turn.leave(ok=ok)

    def _gate(self, host: str, delay: float) -> Gate:
        name = hashlib.sha256(host.encode()).hexdigest()[:16]
        return Gate(
            self._gates / f"{name}.json",
            rate=1.0 / max(self._interval, delay),
            burst=2,  # robots.txt and the page itself
            max_wait=self._max_wait,
            label=f"reading {host}",
            clock=self._clock,
            sleep=self._sleep,
        )


class _Turn:
    """The one host that a visit is at. Redirects, and robots.txt, take it through several, or to one more than once.

    Each host is reported on once for each time the visit comes to it: what leads on to another host did answer, and
    the last host gets the outcome. A host that is not reported on would stay behind a half-open circuit.
    """

    def __init__(self) -> None:
        self._host = ""
        self._gate: Gate | None = None

    def enter(self, host: str, gate: Gate) -> None:
        """Come to ``host``, or ask it for one thing more: a redirect that works and then fails is still a failure.

        Raises:
            InfraError: as :meth:`Gate.enter`.
        """
        if host != self._host:
            self.leave(ok=True)
        gate.enter(again=self._gate is not None)
        self._host, self._gate = host, gate

    def leave(self, *, ok: bool) -> None:
        """Report on the host that the visit is at, if it is at one."""
        gate, self._host, self._gate = self._gate, "", None
        if gate is not None:
            gate.leave(ok)
