"""From the options of ``gymnasium.make`` to an environment's tools.

One function a kind of environment; it returns the tool factory (split -> tools). The option ``tools`` takes the names
of the tools that ``arpo_env`` has, and any other tool, itself (a :class:`~arpo_env.tools.base.Tool`) or by where its
class stands (:mod:`arpo_env.own`). A text can be written down with the environment's id, a tool itself cannot.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arpo_env.errors import ConfigError, unknown
from arpo_env.own import FORMS, find_own
from arpo_env.tasks.base import TaskFamily
from arpo_env.tools.base import Tool

if TYPE_CHECKING:
    from arpo_env.search.base import SearchBackend
    from arpo_env.tools.faults import OnFault
    from arpo_env.web.base import PageSource
    from arpo_env.web.summary import Summariser

TOOL_NAMES = ("search", "browse", "python")


def late_names() -> dict[str, Any]:
    """What annotations of options name and only type checkers import (SQLite hangs on some of it)."""
    from arpo_env.recording import CacheMode
    from arpo_env.search.base import SearchBackend
    from arpo_env.tools.faults import OnFault
    from arpo_env.web.base import PageSource
    from arpo_env.web.summary import Summariser

    return {one.__name__: one for one in (SearchBackend, PageSource, Summariser)} | {
        "CacheMode": CacheMode,
        "OnFault": OnFault,
    }


def chosen(tools: Sequence[str | Tool], names: Collection[str] = TOOL_NAMES) -> tuple[str | Tool, ...]:
    """``tools`` with those that are named by where their class stands made; names of built-in tools stay.

    Raises:
        ConfigError: a name that is not in ``names``, or an own tool that cannot be made.
    """
    return tuple(_own(one, names) if isinstance(one, str) and one not in names else one for one in tools)


def _own(name: str, names: Collection[str]) -> Tool:
    if ":" not in name:
        raise ConfigError(f"{unknown('tool', name, names)}; or one of your own: a Tool, or {FORMS}")
    found = find_own("tool", name)
    try:
        made = found() if callable(found) and not isinstance(found, Tool) else found
    except TypeError as error:
        raise ConfigError(
            f"tool {name!r} cannot be made without arguments ({error}); name a function that makes it with them"
        ) from error
    if not isinstance(made, Tool):
        raise ConfigError(
            f"tool {name!r} is {made!r}, no tool; name a subclass of arpo_env.tools.base.Tool, or a function without "
            "arguments that returns one"
        )
    return made


def python_only(
    family: TaskFamily,
    sandbox: str = "auto",
    python_seconds: float = 5.0,
    tools: Sequence[str | Tool] = ("python",),
) -> Callable[[str], list[Tool]]:
    """Python, and own tools; there is nothing to search."""
    del family
    made = _with_python(chosen(tools, ("python",)), sandbox, python_seconds)
    return lambda split: made


def _with_python(tools: Sequence[str | Tool], sandbox: str, seconds: float) -> list[Tool]:
    """Python where it is named, then own tools."""
    python = [_python(sandbox, seconds)] if "python" in tools else []
    return [*python, *(one for one in tools if isinstance(one, Tool))]


def _python(sandbox: str, seconds: float) -> Tool:
    from arpo_env.sandbox import Limits
    from arpo_env.tools.python import PythonTool

    return PythonTool(sandbox, limits=Limits(seconds=seconds))


def _search(backend: SearchBackend, k: int, chars: int, tools: Sequence[str | Tool], on_fault: OnFault) -> Tool:
    from arpo_env.tools.search import SearchTool

    return SearchTool(backend, k=k, chars=chars, urls="browse" in tools, on_fault=on_fault)


def _browse(
    pages: PageSource, chars: int, cap: int | None, on_fault: OnFault, summary: Summariser | None = None
) -> Tool:
    from arpo_env.tools.browse import BrowseTool

    if cap is not None and chars > cap:
        raise ConfigError(
            f"browse_chars={chars} does not fit into max_result_chars={cap}, which would cut chunks: raise that one too"
        )
    return BrowseTool(pages, chars=chars, summary=summary, on_fault=on_fault)


def search_and_python(
    family: TaskFamily,
    search_k: int = 3,
    search_chars: int | None = None,
    sandbox: str = "auto",
    python_seconds: float = 5.0,
    tools: Sequence[str | Tool] = ("search", "python"),
    browse_chars: int = 900,
    max_result_chars: int | None = 1000,
) -> Callable[[str], list[Tool]]:
    """Tools over the family's own encyclopaedia.

    ``search_chars``: by default a whole page of it, or with browse on the beginning of one.
    """
    from arpo_env.tasks.deepsearch import DeepSearchFamily
    from arpo_env.tasks.deepsearch.pages import WorldPages

    assert isinstance(family, DeepSearchFamily)
    shared = _with_python(tools, sandbox, python_seconds)
    if search_chars is None:
        search_chars = 40 if "browse" in tools else family.snippet_chars

    @functools.cache
    def factory(split: str) -> list[Tool]:
        made: list[Tool] = []
        if "search" in tools:
            made.append(_search(family.backend(split), search_k, search_chars, tools, "raise"))
        if "browse" in tools:
            made.append(_browse(WorldPages(family.world(split)), browse_chars, max_result_chars, "raise"))
        return made + shared

    return factory


def over_a_backend(
    family: TaskFamily,
    tools: Sequence[str | Tool] = ("python",),
    search: SearchBackend | str | Path | None = None,
    retriever: str = "bm25",
    browse: PageSource | None = None,
    search_k: int = 3,
    search_chars: int = 160,
    browse_chars: int = 900,
    browse_summary: Summariser | None = None,
    on_fault: OnFault = "raise",
    sandbox: str = "auto",
    python_seconds: float = 5.0,
    max_result_chars: int | None = 1000,
) -> Callable[[str], list[Tool]]:
    """The tools named, and none else: a file's questions bring no corpus, so search needs a backend.

    ``search`` is a backend, or what :func:`~arpo_env.search.backends.open_backend` opens (``retriever`` says how).
    Browse reads the pages of ``browse``, or else those that the search backend was built from.
    """
    del family
    if ("search" in tools) != (search is not None):
        raise ConfigError(
            f"tools={tools!r} and search={search!r} do not fit: the search tool needs a backend "
            "(search='corpora/hotpotqa', BM25Index.build(pages), HttpRetriever(url) …), and a backend the search tool"
        )
    if isinstance(search, (str, Path)):
        from arpo_env.search.backends import open_backend

        search = open_backend(search, retriever=retriever)
    elif retriever != "bm25":
        raise ConfigError(f"retriever={retriever!r} says how a corpus named by search='…' is searched; got {search!r}")
    if browse is not None and "browse" not in tools:
        raise ConfigError(
            f"browse={browse!r} is a source of pages for the browse tool, which tools={tools!r} leaves out"
        )
    made: list[Tool] = []
    if search is not None:
        made.append(_search(search, search_k, search_chars, tools, on_fault))
    if "browse" in tools:
        from arpo_env.web.local import LocalPages

        pages = LocalPages.of(search) if browse is None else browse
        made.append(_browse(pages, browse_chars, max_result_chars, on_fault, browse_summary))
    made += _with_python(tools, sandbox, python_seconds)
    return lambda split: made
