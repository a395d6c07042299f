"""An algorithm of the user's own by where its class stands: ``package.module:Class`` or ``path/to/file.py:Class``."""

from __future__ import annotations

import dataclasses

from arpo_algo.errors import ConfigError
from arpo_env.own import find_own


def own_class(name: str) -> type:
    """The dataclass that ``name`` points at.

    Raises:
        ConfigError: there is no such module, file or class, importing it fails, or it is no dataclass.
    """
    found = find_own("algorithm", name)
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise ConfigError(
            f"algorithm {name!r} is not a dataclass; derive it from arpo_algo.algorithms.base.Clipped (or Base), under "
            "@dataclass(frozen=True)"
        )
    return found
