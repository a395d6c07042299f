"""The table of ids: what ``gymnasium.make`` knows after ``import arpo_env``.

One function an id builds its environment. Keyword arguments of ``gymnasium.make`` go to whoever declares them:
the family (``hops``, ``level`` …), the tools (``search_k``, ``sandbox`` …) or :class:`~arpo_env.env.AgentEnv`
(``max_tool_calls``, ``prompt`` …). An unknown one is refused with the nearest name, and one of a type that its owner
does not declare with that type (:mod:`arpo_env.options`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from arpo_env.env import AgentEnv
from arpo_env.errors import ConfigError, unknown
from arpo_env.options import check_types, missing, parameters, plain
from arpo_env.suites.suite import Generated
from arpo_env.suites.table import SUITES
from arpo_env.tasks.base import TaskFamily
from arpo_env.tasks.generated import generated_family
from arpo_env.toolboxes import TOOL_NAMES, chosen, late_names, over_a_backend, python_only, search_and_python
from arpo_env.tools.base import Tool

if TYPE_CHECKING:
    from arpo_env.recording import CacheMode
    from arpo_env.search.base import SearchBackend
    from arpo_env.web.base import PageSource

#: The ids of task families -> their entry points in this module.
IDS: Mapping[str, str] = {
    "ARPO-Math-v0": "make_math",
    "ARPO-Code-v0": "make_code",
    "ARPO-DeepSearch-v0": "make_deepsearch",
    "ARPO-ReasoningGym-v0": "make_reasoning_gym",
    "ARPO-Dataset-v0": "make_dataset",
}
#: The ids over the web, live and replayed. Live, the same actions may give other results tomorrow.
WEB_IDS: Mapping[str, str] = {"ARPO-Web-v0": "make_web", "ARPO-WebReplay-v0": "make_web_replay"}
#: The ids of the benchmark suites (:mod:`arpo_env.suites`); generated families are suites under their own ids.
SUITE_IDS = tuple(suite.env_id for suite in SUITES if not isinstance(suite.source, Generated))


def register_all() -> None:
    """Register every id with Gymnasium; called once by ``import arpo_env``."""
    for env_id, function in {**IDS, **WEB_IDS, **dict.fromkeys(SUITE_IDS, "make_suite")}.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point=f"{__name__}:{function}",
                nondeterministic=env_id == "ARPO-Web-v0",
                # Gymnasium's passive checker breaks every later step once the first reset was refused, and what it
                # checks (spaces, types, the order of calls) AgentEnv checks itself, with errors that name the fix.
                disable_env_checker=True,
                # Not "id": gymnasium.make_vec hands these on to gymnasium.make, whose own parameter that is.
                kwargs={"env_id": env_id},
            )


_ENV_OPTIONS = set(parameters(AgentEnv.__init__)) - {"family", "tools"}


def _build(
    env_id: str,
    family: Callable[..., TaskFamily],
    tools: Callable[..., Callable[[str], Sequence[Tool]]],
    options: dict[str, Any],
) -> AgentEnv:
    """Hand ``options`` to family, tools and environment by name.

    ``tools(family, **tool_options)`` returns the environment's tool factory. An option that two of them declare
    (``sandbox``) reaches both.

    Raises:
        ConfigError: an option that nobody declares, that is missing, or of another type; what its owner says of it.
        ToolUnavailable: a tool does not work on this machine.
    """
    family_options = set(parameters(family))
    tool_options = set(parameters(tools)) - {"family"}
    known = family_options | tool_options | _ENV_OPTIONS
    for name in options:
        if name not in known:
            raise unknown(f"option of {env_id}", name, known)
    for name, parameter in parameters(family).items():
        if parameter.default is parameter.empty and name not in options:
            raise missing(env_id, name)

    def of(owner: Callable[..., Any], names: set[str]) -> dict[str, Any]:
        own = {name: plain(value) for name, value in options.items() if name in names}
        check_types(env_id, owner, own, late_names)
        return own

    # All are checked before the first is made: a family may read a large file.
    for_tools = of(tools, tool_options)
    if "tools" in for_tools:
        for_tools["tools"] = chosen(for_tools["tools"])
        options = options | {"tools": [one if isinstance(one, str) else one.name for one in for_tools["tools"]]}
    for_family = of(family, family_options)  # which is told the tags of its tools
    for_env = of(AgentEnv.__init__, _ENV_OPTIONS)
    made = family(**for_family)
    return AgentEnv(made, tools(made, **for_tools), **for_env)


def make_math(env_id: str = "ARPO-Math-v0", **options: Any) -> AgentEnv:
    """Generated arithmetic with precedence; Python."""
    return _build(env_id, generated_family(env_id), python_only, options)


def make_code(env_id: str = "ARPO-Code-v0", **options: Any) -> AgentEnv:
    """Write a function; hidden unit tests; Python."""
    return _build(env_id, generated_family(env_id), python_only, options)


def make_deepsearch(env_id: str = "ARPO-DeepSearch-v0", **options: Any) -> AgentEnv:
    """Multi-hop questions over a generated encyclopaedia; search and Python, and browse where ``tools`` names it."""
    check_types(env_id, search_and_python, options, late_names)
    if "browse" in options.get("tools", ()):
        options.setdefault("max_tool_calls", 12)  # a look-up may take two calls
    return _build(env_id, generated_family(env_id), search_and_python, options)


def make_reasoning_gym(
    env_id: str = "ARPO-ReasoningGym-v0", config: Mapping[str, Any] | None = None, **options: Any
) -> AgentEnv:
    """A reasoning-gym data set by name (``dataset="gcd"``), seeded by our streams; Python.

    ``config``: that data set's own options (``{"max_value": 50}``).
    """
    check_types(env_id, make_reasoning_gym, {"config": config})
    return _build(env_id, functools.partial(generated_family(env_id), **dict(config or {})), python_only, options)


def make_dataset(env_id: str = "ARPO-Dataset-v0", layout: str = "plain", **options: Any) -> AgentEnv:
    """Questions from a file or a folder of them (``path=…``); Python, and search with ``search=backend``.

    ``layout="published"``: a training file of the authors, which is refused when a question of an evaluation suite
    stands in it (:func:`arpo_env.suites.training_set`).
    """
    from arpo_env.suites.training import training_set
    from arpo_env.tasks.dataset import DatasetFamily

    families: dict[str, Callable[..., TaskFamily]] = {"plain": DatasetFamily, "published": training_set}
    check_types(env_id, make_dataset, {"layout": layout})
    if layout not in families:
        raise unknown("layout", layout, families)
    path = options.get("path")
    if layout == "plain" and isinstance(path, str | Path) and Path(path).is_file():
        options.setdefault("split", "test")  # a single file is one split, for the family and for the environment
    options.setdefault("tools", ("python",) if options.get("search") is None else ("search", "python"))
    return _build(env_id, families[layout], over_a_backend, options)


def make_web(
    env_id: str = "ARPO-Web-v0",
    tools: Sequence[str | Tool] = TOOL_NAMES,
    engine: str = "duckduckgo",
    region: str = "us-en",
    contact: str = "",
    cassette: str | Path | None = None,
    cache: CacheMode = "record",
    **options: Any,
) -> AgentEnv:
    """Questions from a file or folder (``path=…``), searched and browsed on the live web; Python.

    ``engine``, ``region``: see :class:`~arpo_env.search.live.LiveSearch`; ``contact``: see
    :class:`~arpo_env.web.live.LivePages`. ``cassette`` names a file where everything is recorded (``cache`` is its
    mode), for ``ARPO-WebReplay-v0``.
    """
    from arpo_env.search.live import LiveSearch
    from arpo_env.web.live import LivePages

    _check_own(env_id, options)
    own = {"tools": tools, "engine": engine, "region": region, "contact": contact, "cassette": cassette, "cache": cache}
    check_types(env_id, make_web, own, late_names)
    tools = chosen(tools)
    search: SearchBackend | None = LiveSearch(engine, region=region) if "search" in tools else None
    browse: PageSource | None = LivePages(contact=contact) if "browse" in tools else None
    if cassette is not None:
        from arpo_env.cassette import Cassette
        from arpo_env.search.cache import CachedBackend
        from arpo_env.web.recorded import RecordedPages

        tape = Cassette(cassette)
        search = None if search is None else CachedBackend(search, tape, cache)
        browse = None if browse is None else RecordedPages(browse, tape, cache)
    return make_dataset(env_id, tools=tools, search=search, browse=browse, **options)


def make_web_replay(
    env_id: str = "ARPO-WebReplay-v0",
    *,
    cassette: str | Path | None = None,
    tools: Sequence[str | Tool] = TOOL_NAMES,
    **options: Any,
) -> AgentEnv:
    """The same, replayed from ``cassette`` alone: no network, and deterministic."""
    from arpo_env.cassette import Cassette
    from arpo_env.search.cache import CachedBackend
    from arpo_env.web.recorded import RecordedPages

    _check_own(env_id, options)
    check_types(env_id, make_web_replay, {"cassette": cassette, "tools": tools})
    tools = chosen(tools)
    if cassette is None:
        raise missing(env_id, "cassette")
    tape = Cassette(cassette, read_only=True)
    search = CachedBackend(None, tape, "strict") if "search" in tools else None
    browse = RecordedPages(None, tape, "strict") if "browse" in tools else None
    return make_dataset(env_id, tools=tools, search=search, browse=browse, **options)


def _check_own(env_id: str, options: Mapping[str, Any]) -> None:
    for name in ("search", "browse"):
        if name in options:
            raise ConfigError(f"{env_id} brings its own {name}; ARPO-Dataset-v0 takes {name}={options[name]!r}")


def make_suite(env_id: str, **options: Any) -> AgentEnv:
    """A benchmark suite (:mod:`arpo_env.suites`): its own tools, verifier and budget; the split is ``test``.

    A suite that is meant for search needs ``search=backend``, or ``tools=("python",)`` (or ``()``) to say that it is
    to be answered without: it never goes on silently without a tool.
    """
    from arpo_env.suites import suite

    declared = suite(env_id)
    options = {"split": "test", "max_tool_calls": declared.max_tool_calls} | options
    if "tools" not in options:
        if "search" in declared.tools and options.get("search") is None:
            raise ConfigError(
                f"{env_id} is answered with a search tool: pass search=BACKEND (a corpus folder, "
                "BM25Index.build(pages), HttpRetriever(url), LiveSearch() …), or tools=('python',) or tools=() to go "
                "without"
            )
        options["tools"] = declared.tools if options.get("search") is None else ("search", "python")
    return _build(env_id, declared.family, over_a_backend, options)
