"""What all forks of an environment hold in common."""

from __future__ import annotations

from typing import Any, Self


class Shared:
    """Read-only or thread-safe: a deep copy of an environment holds this very object, never a copy of it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
