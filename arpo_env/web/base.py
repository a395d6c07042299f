"""The one small interface behind everything that can be read page by page, and its two kinds of "no"."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from arpo_env.errors import ArpoEnvError, InfraError
from arpo_env.search.base import Page


class Refusal(ArpoEnvError):
    """There is no such page to read: a bad or forbidden address, "not found", robots.txt, no text in it.

    An honest outcome of the policy's choice. It is told to the policy, and never a fault.
    """


class PageFault(InfraError):
    """A page could not be read through no fault of the policy: the server is down, throttles, or misbehaves.

    ``may_pass``: another attempt may succeed; ``retry_after``: seconds the server asked to be left alone.
    """

    def __init__(self, message: str, *, may_pass: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.may_pass, self.retry_after = may_pass, retry_after


@runtime_checkable
class PageSource(Protocol):
    """``page`` is thread-safe, and deterministic unless ``deterministic`` is False (the live web).

    ``fingerprint`` names the source for the cassette.
    """

    deterministic: bool
    fingerprint: str

    def page(self, address: str) -> Page:
        """The page at ``address``: a URL, or whatever else the source knows its pages by (a title).

        Raises:
            Refusal: there is none that may be read.
            InfraError: it could not be read.
        """
        ...
