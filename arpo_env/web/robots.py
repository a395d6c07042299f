"""What a site asks of robots (RFC 9309), read once a day and origin, and obeyed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from arpo_env.errors import ToolUnavailable
from arpo_env.web.address import Target
from arpo_env.web.base import PageFault, Refusal

if TYPE_CHECKING:
    from arpo_env.web.fetch import Document

try:
    from protego import Protego  # type: ignore[import-untyped,unused-ignore]
except ImportError as error:
    raise ToolUnavailable(f"reading the live web needs protego: pip install 'arpo[web]' ({error})") from None

#: Longest pause between two requests that a site is granted, in seconds.
_MAX_DELAY = 30.0


class Robots:
    """The rules of every origin met lately; thread-safe.

    Args:
        agent: the product token that rules name (``arpo-browse``).
        seconds: how long rules are kept.
        origins: how many are kept.
        clock: monotonic seconds (tests pass their own).
    """

    def __init__(
        self,
        agent: str,
        *,
        seconds: float = 86_400.0,
        origins: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agent, self._seconds, self._origins, self._clock = agent, seconds, origins, clock
        self._kept: OrderedDict[str, tuple[float, Protego]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, target: Target, fetch: Callable[[str], Document]) -> float:
        """Seconds that the site wants between two requests (0: it does not say).

        ``fetch`` gets the file when it is not known; what it raises passes through.

        Raises:
            Refusal: the site does not want ``target`` read by robots.
            PageFault: the site's wishes cannot be learned, so nothing is read from it.
        """
        rules = self._rules(target, fetch)
        if not rules.can_fetch(target.url, self._agent):
            raise Refusal(f"the robots.txt of {target.host} asks that this page is not read by robots")
        return min(float(rules.crawl_delay(self._agent) or 0.0), _MAX_DELAY)

    def _rules(self, target: Target, fetch: Callable[[str], Document]) -> Protego:
        with self._lock:
            known = self._kept.get(target.origin)
            if known is not None and known[0] > self._clock():
                return known[1]
        rules = Protego.parse(self._text(target, fetch))
        with self._lock:
            self._kept[target.origin] = (self._clock() + self._seconds, rules)
            self._kept.move_to_end(target.origin)
            while len(self._kept) > self._origins:
                self._kept.popitem(last=False)
        return rules

    def _text(self, target: Target, fetch: Callable[[str], Document]) -> str:
        try:
            document = fetch(f"{target.origin}/robots.txt")
        except PageFault as fault:
            raise PageFault(
                f"the robots.txt of {target.host} cannot be read, so neither is the page: {fault}",
                may_pass=fault.may_pass,
                retry_after=fault.retry_after,
            ) from fault
        if 400 <= document.status < 500 and document.status != 429:
            return ""  # "unavailable": everything is allowed
        if document.status not in (200, 203):
            raise PageFault(
                f"the robots.txt of {target.host} cannot be read, so neither is the page: HTTP {document.status}",
                may_pass=True,
                retry_after=document.retry_after,
            )
        return document.body.decode("utf-8-sig", "replace")
