"""The table of ids: what ``gymnasium.make`` knows after ``import arpo_env``.

One function an id builds its environment. Keyword arguments of ``gymnasium.make`` go to whoever declares them:
the family (``hops``, ``level`` …), the tools (``search_k``, ``sandbox`` …) or :class:`~arpo_env.env.AgentEnv`
(``max_tool_calls``, ``prompt`` …). An unknown one is refused with the nearest name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium

from arpo_env.env import AgentEnv
from arpo_env.errors import unknown
from arpo_env.tasks.base import TaskFamily
from arpo_env.tools.base import Tool

#: id -> (entry point in this module, does the same seed always give the same run?)
IDS: Mapping[str, str] = {
    "ARPO-Math-v0": "make_math",
    "ARPO-Code-v0": "make_code",
    "ARPO-DeepSearch-v0": "make_deepsearch",
    "ARPO-ReasoningGym-v0": "make_reasoning_gym",
    "ARPO-Dataset-v0": "make_dataset",
}


def register_all() -> None:
    """Register every id with Gymnasium; called once by ``import arpo_env``."""
    for env_id, function in IDS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=f"{__name__}:{function}", kwargs={"id": env_id})


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


_ENV_OPTIONS = set(_parameters(AgentEnv.__init__)) - {"family", "tools"}


def _build(
    env_id: str,
    family: Callable[..., TaskFamily],
    tools: Callable[..., Callable[[str], Sequence[Tool]]],
    options: dict[str, Any],
) -> AgentEnv:
    """Hand ``options`` to family, tools and environment by name.

    ``tools(family, **tool_options)`` returns the environment's tool factory. An option that two of them declare
    (``sandbox``) reaches both.
    """
    family_options = set(_parameters(family))
    tool_options = set(_parameters(tools)) - {"family"}
    known = family_options | tool_options | _ENV_OPTIONS
    for name in options:
        if name not in known:
            raise unknown(f"option of {env_id}", name, known)
    made = family(**{k: v for k, v in options.items() if k in family_options})
    factory = tools(made, **{k: v for k, v in options.items() if k in tool_options})
    return AgentEnv(made, factory, **{k: v for k, v in options.items() if k in _ENV_OPTIONS})


def _python_only(family: TaskFamily, sandbox: str = "auto", python_seconds: float = 5.0) -> Callable[[str], list[Tool]]:
    del family
    tool = _python(sandbox, python_seconds)
    return lambda split: [tool]


def _python(sandbox: str, seconds: float) -> Tool:
    from arpo_env.sandbox import Limits
    from arpo_env.tools.python import PythonTool

    return PythonTool(sandbox, limits=Limits(seconds=seconds))


def _search_and_python(
    family: TaskFamily,
    search_k: int = 3,
    search_chars: int = 160,
    sandbox: str = "auto",
    python_seconds: float = 5.0,
    tools: tuple[str, ...] = ("search", "python"),
) -> Callable[[str], list[Tool]]:
    from arpo_env.tasks.deepsearch import DeepSearchFamily
    from arpo_env.tools.search import SearchTool

    assert isinstance(family, DeepSearchFamily)
    for name in tools:
        if name not in ("search", "python"):
            raise unknown("tool", name, ("search", "python"))
    python = _python(sandbox, python_seconds) if "python" in tools else None

    @functools.cache
    def factory(split: str) -> list[Tool]:
        made: list[Tool] = []
        if "search" in tools:
            made.append(SearchTool(family.backend(split), k=search_k, chars=search_chars))
        if python is not None:
            made.append(python)
        return made

    return factory


def make_math(id: str = "ARPO-Math-v0", **options: Any) -> AgentEnv:
    """Generated arithmetic with precedence; Python."""
    from arpo_env.tasks.math import MathFamily

    return _build(id, MathFamily, _python_only, options)


def make_code(id: str = "ARPO-Code-v0", **options: Any) -> AgentEnv:
    """Write a function; hidden unit tests; Python."""
    from arpo_env.tasks.code import CodeFamily

    return _build(id, CodeFamily, _python_only, options)


def make_deepsearch(id: str = "ARPO-DeepSearch-v0", **options: Any) -> AgentEnv:
    """Multi-hop questions over a generated encyclopaedia; search and Python."""
    from arpo_env.tasks.deepsearch import DeepSearchFamily

    return _build(id, DeepSearchFamily, _search_and_python, options)


def make_reasoning_gym(id: str = "ARPO-ReasoningGym-v0", **options: Any) -> AgentEnv:
    """A reasoning-gym data set by name (``dataset="gcd"``), seeded by our streams; Python."""
    from arpo_env.tasks.gym import ReasoningGymFamily

    return _build(id, ReasoningGymFamily, _python_only, options)


def make_dataset(id: str = "ARPO-Dataset-v0", **options: Any) -> AgentEnv:
    """Questions from a JSONL or Parquet file or folder (``path=…``); Python."""
    from arpo_env.tasks.dataset import DatasetFamily

    return _build(id, DatasetFamily, _python_only, options)
