"""Out of memory, said with what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from arpo_algo.errors import TrainingError


@contextmanager
def explained(advice: str) -> Iterator[None]:
    """Turn torch's out-of-memory errors into one that names the settings to change.

    Raises:
        TrainingError: the block ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError; CPUs have no class for it
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(f"out of memory: {advice} ({str(error).splitlines()[0][:200]})") from error
