"""Pages to read: from the live web by a bounded, polite fetcher, or from a local corpus (``docs/browse.md``)."""

from arpo_env.web.base import PageFault, PageSource, Refusal

__all__ = ["PageFault", "PageSource", "Refusal"]
