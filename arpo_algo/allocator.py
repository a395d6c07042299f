"""glibc told to keep the memory that an update frees, as a GPU's caching allocator does.

By default glibc maps each tensor above 32 MB afresh and returns it to the kernel when it is freed, and the kernel
clears all its pages again for the next one: a fifth of an update's time on CPUs (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h
_NEVER = -1  # becomes the largest size_t; a positive int would stop at 2 GiB
_PAD = 256 << 20  # bytes the heap grows by at least


def keep_freed_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Let this process keep what it frees, for its next allocations; True if the allocator was told.

    The resident size then stays at its peak. Nothing is done where the user has set the allocator up (``MALLOC_*_``,
    ``GLIBC_TUNABLES``, a preloaded allocator) or the C library is not glibc.
    """
    if environ.get("LD_PRELOAD") or "glibc.malloc" in environ.get("GLIBC_TUNABLES", ""):
        return False
    if any(name.startswith("MALLOC_") and name.endswith("_") for name in environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version, libc.mallopt  # noqa: B018  # musl and macOS lack them
    except (OSError, AttributeError, TypeError):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _PAD))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)
