"""What a site asks of robots (RFC 9309), read once a day and origin, and obeyed."""

from __future__ import annotations

import re
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
#: What is read of one robots.txt, in bytes; RFC 9309 wants 500 KiB at least. Parsing it takes 1.5 s of CPU time at
#: worst (40,000 rules with a "$", each kept twice), and asking about a page 0.15 s.
_MAX_BYTES = 512 << 10
#: Characters of text that are kept as rules, over all origins. Small, because a rule set of short wildcards takes up to
#: 125 bytes of memory a character: hostile sites fill 250 MiB and no more. Of an ordinary 2 KiB, it is 1,000 sites.
_MAX_KEPT = 2 << 20
#: What starts a group, in all the spellings that protego takes.
_GROUP = re.compile(r"\s*user(?:-|\s+)?agent[\s:]+([^#]*)", re.IGNORECASE)
_NOBODY = "User-agent: (nobody)"


class Robots:
    """The rules of every origin met lately; thread-safe.

    Args:
        agent: the product token that rules name (``arpo-browse``).
        seconds: how long rules are kept.
        origins: how many are kept, at most.
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
        #: Origin -> (until when, rules, length of their text).
        self._kept: OrderedDict[str, tuple[float, Protego, int]] = OrderedDict()
        self._length = 0
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
        text = _only_for(self._agent, self._text(target, fetch))
        rules = Protego.parse(text)
        with self._lock:
            self._forget(target.origin)
            self._kept[target.origin] = (self._clock() + self._seconds, rules, len(text))
            self._length += len(text)
            while len(self._kept) > self._origins or self._length > _MAX_KEPT:
                self._forget(next(iter(self._kept)))
        return rules

    def _forget(self, origin: str) -> None:
        _, _, length = self._kept.pop(origin, (0.0, None, 0))
        self._length -= length

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
        return _beginning(document.body).decode("utf-8-sig", "replace")


def _beginning(body: bytes) -> bytes:
    """As much as is read, in whole lines: half a line would be another rule."""
    if len(body) <= _MAX_BYTES:
        return body
    head = body[:_MAX_BYTES]
    return head[: max(head.rfind(b"\n"), head.rfind(b"\r")) + 1]


def _only_for(agent: str, text: str) -> str:
    """``text`` with every group that is not for ``agent`` given to nobody.

    The parser keeps each rule once for each agent of its group: 250 KiB of names above as many rules would be some
    hundred million. With two names left it keeps them twice at most. The group is the one that the parser would choose:
    that of the longest name which ``agent`` begins with, or else that of ``*``.
    """
    lines = text.splitlines()
    names = [_named(agent, line) for line in lines]
    best = max(filter(None, names), key=len, default=None)
    ours = f"User-agent: {best}"
    return "\n".join(
        line if name is None else (ours if name == best else _NOBODY) for line, name in zip(lines, names, strict=True)
    )


def _named(agent: str, line: str) -> str | None:
    """Whom a line that starts a group names: ``*``, a beginning of ``agent``, or nobody (empty). None: another line."""
    match = _GROUP.match(line)
    if match is None:
        return None
    name = match[1].strip().lower()
    if name != "*":
        name = name.replace("*", "")  # as the parser does
    return name if name == "*" or agent.lower().startswith(name) else ""
