"""``KEY=VALUE`` anywhere on a command line: before, between and after the options.

argparse takes a command's positionals in one piece, and gives what follows ``--seeds 0 1`` to ``--seeds``. So the
assignments are picked out before it looks.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

METAVAR = "KEY=VALUE"
_ASSIGNMENT = re.compile(r"[^\s=-][^\s=]*=")


class IntermixedParser(argparse.ArgumentParser):
    """A parser of one command. Its positional with the metavar ``KEY=VALUE`` (if any) gets every assignment."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        target = next((a.dest for a in self._actions if a.metavar == METAVAR and not a.option_strings), None)
        if args is None or target is None:
            return super().parse_known_args(args, namespace)
        rest, assignments = self._split(args)
        found, unknown = super().parse_known_args(rest, namespace)
        setattr(found, target, [*(getattr(found, target) or ()), *assignments])
        return found, unknown

    def _split(self, args: Sequence[str]) -> tuple[list[str], list[str]]:
        """(what argparse is to read, the assignments), each in order."""
        rest: list[str] = []
        assignments: list[str] = []
        is_value = False  # the word belongs to the option before it, e.g. --out a=b
        for word in args:
            chosen = assignments if _ASSIGNMENT.match(word) and not is_value else rest
            chosen.append(word)
            is_value = not is_value and self._takes_one(word)
        return rest, assignments

    def _takes_one(self, word: str) -> bool:
        """Whether ``word`` is an option, perhaps abbreviated, whose one value comes next."""
        if not word.startswith("-") or "=" in word:
            return False
        named = self._option_string_actions
        near = [named[word]] if word in named else [a for name, a in named.items() if name.startswith(word)]
        return bool(near) and all(a.nargs is None for a in near)
