"""The machine's own rates, which a share of its peak is a share of; measured in the process that is compared."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from arpo_algo.engines.workingcopy import PackedLinear, packs
from arpo_algo.versions import versions

#: Seconds: of the process (CPU seconds), or of the wall.
Clock = Callable[[], float]


@dataclass(frozen=True)
class Meter:
    """Seconds and memory on a device. On GPUs seconds are always wall time, after all queued work is done."""

    device: torch.device
    wall: bool = False

    def __call__(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif not self.wall:
            return time.process_time()
        return time.perf_counter()

    def start(self) -> None:
        """Peaks of memory are counted from here (on CPUs from the start of the process)."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        """MiB: largest allocated on the GPU, or largest resident size of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) >> 20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def add_options(parser: argparse.ArgumentParser, *, threads: int | None = None) -> None:
    """What a measurement runs on and how it is timed; see :func:`meter`."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--threads", type=int, default=threads or torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--wall", action="store_true", help="CPUs: wall time, not CPU seconds (an idle machine)")


def meter(options: argparse.Namespace) -> Meter:
    """For the options of :func:`add_options`; sets the threads too."""
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {options.device}: torch {torch.__version__} finds no CUDA GPU here")
    torch.set_num_threads(options.threads)
    return Meter(device, options.wall)


def described() -> dict[str, Any]:
    """What was run, by which versions and on what: to stand beside figures in JSON."""
    found = {p: v or "not installed" for p, v in versions(("arpo", "torch", "transformers", "numpy", "trl")).items()}
    here = {"platform": platform.platform(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {"command": sys.argv, "versions": found, "machine": here}


def timed(run: Callable[[], object], clock: Clock) -> float:
    """Seconds of one run."""
    start = clock()
    run()
    return clock() - start


def fastest(run: Callable[[], object], clock: Clock, repeats: int = 5) -> float:
    """Seconds of the quickest of several runs, after one to warm up."""
    run()
    return min(timed(run, clock) for _ in range(repeats))


def product_rate(dtype: torch.dtype, meter: Meter) -> float:
    """Floating-point operations a second of one large product; on CPUs by the faster of torch's two libraries."""
    device = meter.device
    size = 2048 if device.type == "cpu" else 8192
    a = torch.randn(size, size, dtype=dtype, device=device)
    b = torch.nn.Linear(size, size, bias=False, dtype=dtype, device=device)
    ways: list[torch.nn.Module] = [b]
    if packs(dtype, a.device):
        ways.append(PackedLinear(b, dtype))
    return 2 * size**3 / min(fastest(lambda way=way: way(a), meter) for way in ways)  # type: ignore[misc]


def copy_rate(meter: Meter) -> float:
    """Bytes a second, read and written, of a copy that no cache holds."""
    size = 2**28 if meter.device.type == "cpu" else 2**31
    source = torch.zeros(size, dtype=torch.uint8, device=meter.device)
    target = torch.empty_like(source)
    return 2 * size / fastest(lambda: target.copy_(source), meter, repeats=30)
