"""The exceptions of the suite.

One rule decides which is which: a mistake of the *caller* is a ``ValueError`` subclass that names the
value, what was expected and the fix; a fault of the *machinery* (a tool server that died, a sandbox
that cannot start) is an :class:`InfraError`, which a trainer retries or masks and never books as
reward 0; a mistake of the *policy* (bad tag, failing code) is no exception at all but an observation.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArpoEnvError(Exception):
    """Base class of every exception raised on purpose by ``arpo_env``."""


class ConfigError(ArpoEnvError, ValueError):
    """A value the caller gave cannot be used. The message names the value, the expectation and the fix."""


class InfraError(ArpoEnvError, RuntimeError):
    """The machinery behind an environment failed; says nothing about the policy.

    A trainer retries or masks the episode. It is never a reward of 0.
    """


class ToolUnavailable(InfraError):
    """A tool cannot start on this machine (missing package, no isolation, no index). Raised before the run."""


def unknown(kind: str, value: str, known: Iterable[str]) -> ConfigError:
    """A :class:`ConfigError` for a name that is not in ``known``, with the nearest name given.

    >>> str(unknown("tool", "serch", ["search", "python"]))
    "unknown tool 'serch'; did you mean 'search'? Known: python, search"
    """
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.5)
    # Two swapped letters are the commonest slip, and difflib does not see them as nearer than another letter.
    near.sort(key=lambda name: sorted(name) != sorted(value))
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return ConfigError(f"unknown {kind} {value!r}{hint} Known: {', '.join(names)}")
