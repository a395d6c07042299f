"""The machine's own rates, which a share of its peak is a share of; measured in the process that is compared."""

from __future__ import annotations

from collections.abc import Callable

import torch

from arpo_algo.engines.workingcopy import PackedLinear, packs

#: Seconds: of the process (CPU seconds), or of the wall.
Clock = Callable[[], float]


def fastest(run: Callable[[], object], clock: Clock, repeats: int = 5) -> float:
    """Seconds of the quickest of several runs, after one to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = clock()
        run()
        seconds.append(clock() - start)
    return min(seconds)


def product_rate(dtype: torch.dtype, clock: Clock, size: int = 2048) -> float:
    """Floating-point operations a second of a size³ product, by the faster of torch's two libraries."""
    a, b = torch.randn(size, size, dtype=dtype), torch.nn.Linear(size, size, bias=False, dtype=dtype)
    ways: list[torch.nn.Module] = [b]
    if packs(dtype, a.device):
        ways.append(PackedLinear(b, dtype))
    return 2 * size**3 / min(fastest(lambda way=way: way(a), clock) for way in ways)  # type: ignore[misc]


def copy_rate(clock: Clock, size: int = 256 * 2**20) -> float:
    """Bytes a second, read and written, of a copy that no cache holds."""
    source = torch.zeros(size, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * size / fastest(lambda: target.copy_(source), clock, repeats=30)
