"""The generated encyclopaedia as a source of pages: a URL names its page, so nothing is built or kept."""

from __future__ import annotations

import re

from arpo_env.search.base import Page
from arpo_env.shared import Shared
from arpo_env.tasks.deepsearch.world import Entity, World
from arpo_env.web.base import Refusal

_PATH = re.compile(r"https?://[a-z]+\.world\.invalid/([a-z]+)/(\d{1,9})/?", re.IGNORECASE)


class WorldPages(Shared):
    """The pages of one world, by their URLs (``https://train.world.invalid/city/3``)."""

    deterministic = True

    def __init__(self, world: World) -> None:
        self._world = world
        self.fingerprint = repr(world.spec)

    def page(self, address: str) -> Page:
        """
        Raises:
            Refusal: the world has no such page.
        """
        match = _PATH.fullmatch(address.strip().partition("#")[0])
        if match is not None:
            kind, number = match[1].lower(), int(match[2])
            if number < self._world.counts.get(kind, 0):
                page = self._world.page(Entity(kind, number))
                if page.url == address.strip().partition("#")[0].rstrip("/").lower():
                    return page
        raise Refusal("there is no such page")
