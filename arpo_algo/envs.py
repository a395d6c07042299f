"""An environment by its id, its refusals told as bad input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

import arpo_env  # noqa: F401 (registers the ids)
from arpo_algo.errors import ConfigError
from arpo_algo.sampler import TextEnv


def open_env(env_id: str, options: Mapping[str, Any], *, name: str) -> TextEnv:
    """``gymnasium.make``; ``name`` is what the caller's user calls the id.

    Raises:
        ConfigError: an id that is unknown or cannot be read, or an unknown option.
        ToolUnavailable: a tool does not work here.
    """
    try:
        env: TextEnv = gymnasium.make(env_id, disable_env_checker=True, **options)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ConfigError(f"{name}={env_id!r}: {error}") from None
    return env
