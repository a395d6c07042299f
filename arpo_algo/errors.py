"""Exceptions of ``arpo_algo``: a value that cannot be used (as in ``arpo_env``), and a run that cannot go on."""

from __future__ import annotations

from arpo_env.errors import ConfigError as ConfigError
from arpo_env.errors import unknown as unknown


class TrainingError(RuntimeError):
    """A run had to stop (non-finite numbers, nothing to learn from); the message says what to look at."""


class NonFiniteError(TrainingError):
    """A loss or a gradient is not finite; no optimiser step was taken."""
