"""An environment by its id, its refusals told as bad input, and what is inside its wrappers. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

import arpo_env  # noqa: F401 (registers the ids)
from arpo_algo.errors import ConfigError
from arpo_env.env import AgentEnv

#: An AgentEnv inside whatever wrappers the user chose; ``copy.deepcopy`` forks it, wrappers included.
TextEnv = gymnasium.Env[str, str]


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


def agent(env: TextEnv) -> AgentEnv:
    """The :class:`AgentEnv` inside wrappers.

    Raises:
        ConfigError: there is none.
    """
    inner = env.unwrapped
    if not isinstance(inner, AgentEnv):
        name = type(inner).__name__ if env.spec is None else env.spec.id
        raise ConfigError(f"environment {name!r}: expected an AgentEnv, got {type(inner).__name__}; give an ARPO-… id")
    return inner
