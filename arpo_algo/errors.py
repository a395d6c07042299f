"""Exceptions of ``arpo_algo``: a value that cannot be used, and a run that cannot go on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A value the caller gave cannot be used. The message names the value, the expectation and the fix."""


class TrainingError(RuntimeError):
    """A run had to stop (non-finite numbers, nothing to learn from); the message says what to look at."""


class NonFiniteError(TrainingError):
    """A loss or a gradient is not finite; no optimiser step was taken."""


def unknown(kind: str, value: str, known: Iterable[str]) -> ConfigError:
    """A :class:`ConfigError` for a name that is not in ``known``, with the nearest name given."""
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.5)
    # Two swapped letters are the commonest slip, and difflib does not see them as nearer than another letter.
    near.sort(key=lambda name: sorted(name) != sorted(value))
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return ConfigError(f"unknown {kind} {value!r}{hint} Known: {', '.join(names)}")
