"""The table of ids: what ``gymnasium.make`` knows after ``import arpo_env``.

One function an id builds its environment. Keyword arguments of ``gymnasium.make`` go to whoever declares them:
the family (``hops``, ``level`` …), the tools (``search_k``, ``sandbox`` …) or :class:`~arpo_env.env.AgentEnv`
(``max_tool_calls``, ``prompt`` …). An unknown one is refused with the nearest name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from arpo_env.env import AgentEnv
from arpo_env.errors import ConfigError, unknown
from arpo_env.suites.suite import Generated
from arpo_env.suites.table import SUITES
from arpo_env.tasks.base import TaskFamily
from arpo_env.tools.base import Tool

if TYPE_CHECKING:
    from arpo_env.search.base import SearchBackend

#: The ids of task families -> their entry points in this module.
IDS: Mapping[str, str] = {
    "ARPO-Math-v0": "make_math",
    "ARPO-Code-v0": "make_code",
    "ARPO-DeepSearch-v0": "make_deepsearch",
    "ARPO-ReasoningGym-v0": "make_reasoning_gym",
    "ARPO-Dataset-v0": "make_dataset",
}
#: The ids of the benchmark suites (:mod:`arpo_env.suites`); generated families are suites under their own ids.
SUITE_IDS = tuple(suite.env_id for suite in SUITES if not isinstance(suite.source, Generated))


def register_all() -> None:
    """Register every id with Gymnasium; called once by ``import arpo_env``."""
    for env_id, function in {**IDS, **dict.fromkeys(SUITE_IDS, "make_suite")}.items():
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
    for name, parameter in _parameters(family).items():
        if parameter.default is parameter.empty and name not in options:
            raise ConfigError(f"{env_id} needs the option {name}: gymnasium.make({env_id!r}, {name}=…)")
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
    _check_names(tools)
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


def _check_names(tools: Sequence[str]) -> None:
    if isinstance(tools, str):
        raise ConfigError(f"tools must be a sequence of tool names, got the string {tools!r}: write ({tools!r},)")
    for name in tools:
        if name not in ("search", "python"):
            raise unknown("tool", name, ("search", "python"))


def _over_a_backend(
    family: TaskFamily,
    tools: Sequence[str] = ("python",),
    search: SearchBackend | None = None,
    search_k: int = 3,
    search_chars: int = 160,
    sandbox: str = "auto",
    python_seconds: float = 5.0,
) -> Callable[[str], list[Tool]]:
    """The tools named, and none else: a file's questions bring no corpus, so search needs a backend."""
    from arpo_env.tools.search import SearchTool

    del family
    _check_names(tools)
    if ("search" in tools) != (search is not None):
        raise ConfigError(
            f"tools={tuple(tools)!r} and search={search!r} do not fit: the search tool needs a backend "
            "(search=BM25Index.build(pages), HttpRetriever(url) …), and a backend the search tool"
        )
    made: dict[str, Tool] = {}
    if search is not None:
        made["search"] = SearchTool(search, k=search_k, chars=search_chars)
    if "python" in tools:
        made["python"] = _python(sandbox, python_seconds)
    return lambda split: list(made.values())


def make_math(id: str = "ARPO-Math-v0", **options: Any) -> AgentEnv:
    """Generated arithmetic with precedence; Python."""
    return _build(id, generated_family(id), _python_only, options)


def make_code(id: str = "ARPO-Code-v0", **options: Any) -> AgentEnv:
    """Write a function; hidden unit tests; Python."""
    return _build(id, generated_family(id), _python_only, options)


def make_deepsearch(id: str = "ARPO-DeepSearch-v0", **options: Any) -> AgentEnv:
    """Multi-hop questions over a generated encyclopaedia; search and Python."""
    return _build(id, generated_family(id), _search_and_python, options)


def make_reasoning_gym(
    id: str = "ARPO-ReasoningGym-v0", config: Mapping[str, Any] | None = None, **options: Any
) -> AgentEnv:
    """A reasoning-gym data set by name (``dataset="gcd"``), seeded by our streams; Python.

    ``config``: that data set's own options (``{"max_value": 50}``).
    """
    return _build(id, functools.partial(generated_family(id), **dict(config or {})), _python_only, options)


def generated_family(id: str) -> Callable[..., TaskFamily]:
    """The family behind an id of generated tasks."""
    match id:
        case "ARPO-Math-v0":
            from arpo_env.tasks.math import MathFamily

            return MathFamily
        case "ARPO-Code-v0":
            from arpo_env.tasks.code import CodeFamily

            return CodeFamily
        case "ARPO-DeepSearch-v0":
            from arpo_env.tasks.deepsearch import DeepSearchFamily

            return DeepSearchFamily
        case "ARPO-ReasoningGym-v0":
            from arpo_env.tasks.gym import ReasoningGymFamily

            return ReasoningGymFamily
    raise ConfigError(f"{id!r} is no id of generated tasks")


def make_dataset(id: str = "ARPO-Dataset-v0", **options: Any) -> AgentEnv:
    """Questions from a JSONL or Parquet file or folder (``path=…``); Python, and search with ``search=backend``."""
    from arpo_env.tasks.dataset import DatasetFamily

    if Path(options.get("path", "")).is_file():
        options.setdefault("split", "test")  # a single file is one split, for the family and for the environment
    options.setdefault("tools", ("python",) if options.get("search") is None else ("search", "python"))
    return _build(id, DatasetFamily, _over_a_backend, options)


def make_suite(id: str, **options: Any) -> AgentEnv:
    """A benchmark suite (:mod:`arpo_env.suites`): its own tools, verifier and budget; the split is ``test``.

    A suite that is meant for search needs ``search=backend``, or ``tools=("python",)`` (or ``()``) to say that it is
    to be answered without: it never goes on silently without a tool.
    """
    from arpo_env.suites import suite

    declared = suite(id)
    options = {"split": "test", "max_tool_calls": declared.max_tool_calls} | options
    if "tools" not in options:
        if "search" in declared.tools and options.get("search") is None:
            raise ConfigError(
                f"{id} is answered with a search tool: pass search=BACKEND (BM25Index.build(pages), "
                "HttpRetriever(url), LiveSearch() …), or tools=('python',) or tools=() to go without"
            )
        options["tools"] = declared.tools if options.get("search") is None else ("search", "python")
    return _build(id, declared.family, _over_a_backend, options)
