"""The processes of one run: who am I, and how do we agree.

Started by ``accelerate launch`` or ``torchrun``, which set RANK, WORLD_SIZE and MASTER_ADDR; started plainly, a run is
a world of one and every method below is free. Each process holds the whole model, or a part of every layer
(:mod:`arpo_algo.sharding`). Losses are sums that were divided by
the *global* number of terms, so gradients are added, not averaged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from arpo_algo.errors import TrainingError

T = TypeVar("T")

#: How long a process waits for the others: to start; later, since one's rollouts may take much longer than another's.
MEETING = timedelta(minutes=10)
PATIENCE = timedelta(hours=3)
_BUCKET = 64 * 1024 * 1024  # elements added in one message at most


@dataclass(frozen=True)
class World:
    """The processes of a run; the default is a single one."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> World:
        """Meet the other processes, if the launcher started any.

        Raises:
            DistError: they did not come within :data:`MEETING`.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size <= 1:
            return cls()
        if not dist.is_initialized():
            # Two backends on GPUs: gradients travel by NCCL, Python objects by gloo, without a detour over the GPU.
            backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
            store, rank, size = next(rendezvous("env://", timeout=MEETING))
            store.set_timeout(PATIENCE)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def local_device(self, device: str) -> str:
        """This process's own GPU, when ``device`` only says that there are some."""
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and self.size > 1 else device

    def gather(self, item: T) -> list[T]:
        """Everybody's item, by rank, to everybody."""
        if self.size == 1:
            return [item]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, item)
        return out

    def agree(self, item: T) -> T:
        """The main process's item."""
        if self.size == 1:
            return item
        box = [item]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))

    def barrier(self) -> None:
        if self.size > 1:
            self.gather(None)

    def part(self, n: int) -> range:
        """This process's block of 0 … n−1; blocks differ by at most one."""
        return even_parts(n, self.size)[self.rank]

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every whole gradient by its sum over the processes, in a few large messages.

        A parameter without a gradient here may have one elsewhere: it counts as zero.
        """
        if self.size == 1:
            return
        bucket: list[torch.Tensor] = []
        for parameter in parameters:
            if isinstance(parameter, DTensor):
                continue  # FSDP has added them
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(g.numel() for g in bucket) >= _BUCKET:
                _add(bucket)
                bucket = []
        if bucket:
            _add(bucket)

    def add_numbers(self, values: dict[str, float]) -> dict[str, float]:
        """Sum each number over the processes; keys may differ."""
        if self.size == 1:
            return values
        out: dict[str, float] = {}
        for part in self.gather(values):
            for key, value in part.items():
                out[key] = out.get(key, 0.0) + value
        return out


@contextmanager
def explained() -> Iterator[None]:
    """Say it plainly when another process of the run has died or did not come; also a decorator.

    Raises:
        TrainingError: the block could not reach another process.
    """
    try:
        yield
    except TrainingError:
        raise
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # which has no class for it
            raise
        raise TrainingError(
            "another process of this run has died, or cannot be reached any more; its own output says why. Start all "
            f"of them again with --resume ({str(error).splitlines()[0][:200]})"
        ) from error


def even_parts(n: int, parts: int) -> list[range]:
    """0 … n−1 in so many blocks; they differ by at most one."""
    return [range(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


def shares(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Deal items to ``parts`` so that the sums of their sizes are close: largest first, to the emptiest part.

    Deterministic; each part's indices are in order.
    """
    load = [0] * parts
    out: list[list[int]] = [[] for _ in range(parts)]
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        part = min(range(parts), key=lambda p: (load[p], p))
        load[part] += sizes[i]
        out[part].append(i)
    return [sorted(part) for part in out]


def _add(gradients: list[torch.Tensor]) -> None:
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
