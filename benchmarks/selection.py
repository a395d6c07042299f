"""Which suites a run takes and with which tools: environments that are ready, and what cannot be had and why."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from arpo_algo.envs import TextEnv, agent
from arpo_algo.options import override
from arpo_algo.presets import Preset
from arpo_env.errors import ConfigError, ToolUnavailable, unknown
from arpo_env.suites import METRICS, Suite, list_suites, suite
from arpo_env.suites.sources import HUB, VARIABLE
from arpo_env.suites.suite import Domain, Generated

if TYPE_CHECKING:
    from arpo_env.rewards.judge import LLMJudge
    from arpo_env.tasks.base import TaskFamily

#: Value of ``--search`` that says: answer without searching.
NO_SEARCH = "none"
#: Options and code decide what an endless family asks: so many of its questions show a change of either.
_FEW = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asks of the suites.

    Args:
        suites: names, ``all`` (what can be had here), ``paper`` (the thirteen), or ``domain:NAME``.
        tasks: at most so many a suite; None: all (of endless families, their default).
        task_seed: which sample of tasks, where not all are taken. Never the sampling seed: runs stay comparable.
        data_dir: folder in the published evaluation layout; None: ``$ARPO_DATA``, else the Hub.
        search: what :func:`~arpo_env.search.backends.open_backend` takes, ``none``, or None (not said).
        metric: of question suites, see :data:`arpo_env.suites.METRICS`. judge: ``URL#MODEL``, for ``judge``.
        max_tool_calls, prompt: of the environments; None: the preset's, else each suite's own.
        preset: of the checkpoint that plays.
        options: suite name -> further options of its environment.
    """

    suites: Sequence[str] = ("all",)
    tasks: int | None = None
    task_seed: int = 0
    data_dir: str | None = None
    search: str | None = None
    retriever: str = "bm25"
    metric: str = "default"
    judge: str | None = None
    max_tool_calls: int | None = None
    prompt: str | None = None
    preset: Preset | None = None
    on_broken: str = "error"
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selected:
    """One suite, ready. ``env``: the prototype that episodes clone; ``record``: what decides tasks and verdicts."""

    suite: Suite
    env: TextEnv
    tasks: Sequence[str]
    record: Mapping[str, Any]


def names(words: Sequence[str]) -> tuple[list[str], set[str]]:
    """(suite names in the paper's order, those of them that were named one by one).

    Raises:
        ConfigError: a word that is no suite, group or domain.
    """
    named: set[str] = set()
    grouped: set[str] = set()
    for word in words:
        if word == "all":
            grouped.update(list_suites())
        elif word == "paper":
            grouped.update(list_suites(paper=True))
        elif word.startswith("domain:"):
            domain = word.removeprefix("domain:").replace("-", " ")
            if domain not in get_args(Domain):
                raise unknown("domain", domain, get_args(Domain))
            grouped.update(list_suites(domain=domain))
        else:
            try:
                named.add(suite(word).name)
            except ConfigError:
                raise unknown("suite", word, ["all", "paper", *list_suites()]) from None
    return [name for name in list_suites() if name in named | grouped], named


def select(wanted: Wanted, judge: LLMJudge | None = None) -> tuple[list[Selected], dict[str, str]]:
    """The suites that can be had, and for the others of a group (``all`` …) the reason, which says how to get them.

    ``judge``: the one that ``wanted.judge`` names.

    Raises:
        ConfigError: a suite that was named cannot be had, a broken row, a wrong option.
        ToolUnavailable: a tool of a suite that was named does not work here.
    """
    chosen, named = names(wanted.suites)
    for name in wanted.options:
        if suite(name).name not in chosen:
            raise ConfigError(f"options are given for {name}, which is not among the suites of this run")
    selected: list[Selected] = []
    missing: dict[str, str] = {}
    for name in chosen:
        one = suite(name)
        reason = _available(one, wanted.data_dir) or _needs_search(one, wanted)
        if reason is None:
            try:
                selected.append(_ready(one, wanted, judge))
                continue
            except ToolUnavailable as error:
                reason = str(error)
        if name in named:
            raise ConfigError(reason)
        missing[name] = reason
    if not selected:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in missing.items())
        raise ConfigError(f"none of the suites can be had here:\n{listed}")
    return selected, missing


def _available(one: Suite, data_dir: str | None) -> str | None:
    """Why the suite cannot be had, in the words of the command line."""
    reason = one.available(data_dir)
    return None if reason is None else reason.replace("data_dir='hub'", "--data hub").replace("data_dir=", "--data ")


def _needs_search(one: Suite, wanted: Wanted) -> str | None:
    if "search" not in one.tools or isinstance(one.source, Generated) or wanted.search is not None:
        return None
    return (
        f"{one.name} is answered with a search tool: pass --search WHERE (a folder that `arpo corpus build` wrote, or "
        f"the URL of a retriever), or --search {NO_SEARCH} to go without"
    )


def _ready(one: Suite, wanted: Wanted, judge: LLMJudge | None) -> Selected:
    from_file = not isinstance(one.source, Generated)
    searching = "search" in one.tools and not (from_file and wanted.search == NO_SEARCH)
    options = {} if wanted.preset is None else wanted.preset.env_options(search=searching)
    for name, value in (("max_tool_calls", wanted.max_tool_calls), ("prompt", wanted.prompt)):
        if value is not None:
            options[name] = value
    if from_file and "search" in one.tools:
        options |= {"search": wanted.search, "retriever": wanted.retriever} if searching else {"tools": ("python",)}
    judged = wanted.metric if from_file and one.domain != "code" else "default"
    if judged != "default":
        options["metric"] = judged
    options |= next((dict(o) for name, o in wanted.options.items() if suite(name).name == one.name), {})
    reading = {"data_dir": wanted.data_dir, "on_broken": wanted.on_broken} if from_file else {}
    asked = {"judge": judge} if judged == "judge" else {}
    env = one.make(disable_env_checker=True, **options, **reading, **asked)
    family = agent(env).family
    tasks = one.first_tasks(family, wanted.tasks, seed=wanted.task_seed)
    if judged == "judge":
        options["judge"] = wanted.judge
    record = {
        "title": one.title,
        "domain": one.domain,
        "size": one.size,
        "env_id": one.env_id,
        "options": json.loads(json.dumps(options)),
        "provenance": str(getattr(family, "provenance", "generated")),
        "task_seed": wanted.task_seed,
        "first_task": _fingerprint(family.task(wanted.task_seed, "test", 0).question),
        "questions": _questions(family, wanted.task_seed),
    }
    return Selected(one, env, tasks, record)


def _questions(family: TaskFamily, task_seed: int) -> str:
    """Of all questions with their golds, whatever part of them is run; of endless families, of the first few."""
    size = family.size("test")
    tasks = (family.task(task_seed, "test", i) for i in range(_FEW if size is None else size))
    return _fingerprint([(task.question, task.answer) for task in tasks])


def _fingerprint(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def table(data_dir: str | None = None) -> list[tuple[Suite, str | None]]:
    """Every suite, and why it cannot be had here (None: it can)."""
    folder = _folder(data_dir)
    return [(suite(name), _available(suite(name), folder)) for name in list_suites()]


def wanted_of(args: argparse.Namespace, preset: Preset | None) -> Wanted:
    """From the command line of ``run``; ``preset``: of the checkpoint that plays.

    Raises:
        ConfigError: values out of range or that contradict each other.
    """
    for name, value, least in (("--tasks", args.tasks, 1), ("--max-tool-calls", args.max_tool_calls, 0)):
        if value is not None and value < least:
            raise ConfigError(f"{name} must be >= {least}, got {value}")
    if args.metric not in METRICS:
        raise unknown("metric", args.metric, METRICS)
    if (args.metric == "judge") != (args.judge is not None):
        raise ConfigError("--metric judge and --judge URL#MODEL go together")
    options = override({}, args.set)
    for name, value in options.items():
        if not isinstance(value, dict):
            raise ConfigError(f"--set {name}=… must name a suite and a key, e.g. --set DeepSearch.hops=[1,2]")
    return Wanted(
        suites=[word.strip() for word in args.suites.split(",") if word.strip()],
        tasks=args.tasks,
        task_seed=args.task_seed,
        data_dir=_folder(args.data),
        search=args.search,
        retriever=args.retriever,
        metric=args.metric,
        judge=args.judge,
        max_tool_calls=args.max_tool_calls,
        prompt=args.prompt,
        preset=preset,
        on_broken=args.on_broken,
        options=options,
    )


def _folder(value: str | None) -> str | None:
    """Checked early: with a wrong folder every suite of ``all`` would merely be missing."""
    named = os.environ.get(VARIABLE) if value is None else value
    if named and named != HUB and not Path(named).expanduser().is_dir():
        what = VARIABLE if value is None else "--data"
        raise ConfigError(f"{what}={named!r} is no folder; it should hold gsm8k/test.jsonl and so on, or be {HUB!r}")
    return value
