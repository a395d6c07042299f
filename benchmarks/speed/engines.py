"""The torch engine and the vLLM engine side by side: the same requests, through the same contract, in one process.

    make setup-vllm
    .venv-vllm/bin/python -m benchmarks.speed.engines                       # SmolLM2, float32 and bfloat16
    .venv-vllm/bin/python -m benchmarks.speed.engines --sequences 8 --repeats 5

The work is a forest as ARPO samples it: prompts with several roots each; when a turn ends, a tool result is appended
and the turn after it is forked once. No end token, so that every turn has its full length and both engines the same
work. The two take turns, so that a disturbance hits both; what is printed are medians. Seconds are the CPU's, of one
thread, which other work on the machine hardly stretches, unless ``--wall``; with ``--device cuda`` both run on the GPU.
"prefill" is tokens run to fill caches over those that had to be (1 is ideal: each unique token once).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arpo_algo import models
from arpo_algo.engines.base import Finished, Request
from arpo_algo.engines.stopping import Stopping
from arpo_algo.engines.torch import TorchEngine
from arpo_algo.engines.vllm import VLLMEngine, VLLMOptions
from benchmarks.speed import machine, shapes
from benchmarks.speed.machine import Meter, timed

Row = dict[str, Any]
KINDS = ("torch", "vllm")


@dataclass(frozen=True)
class Work:
    """``sequences`` roots over ``sequences / 8`` prompts; lengths in tokens."""

    sequences: int
    prompt: int = 300
    turn: int = 48
    result: int = 64
    turns: int = 3


class Forest:
    """Submits a :class:`Work` to an engine and follows it to its end."""

    def __init__(self, engine: Any, work: Work, vocab: int, seed: int) -> None:
        self.engine, self.work = engine, work
        self.rng = np.random.default_rng(seed)
        self.vocab = vocab
        self.next_id = seed * 1_000_000
        self.turn_of: dict[int, tuple[int, tuple[int, ...]]] = {}
        self.sampled = 0
        self.needed = 0  # tokens that some cache must be filled with: prompts once, results once

    def tokens(self, n: int) -> tuple[int, ...]:
        return tuple(int(t) for t in self.rng.integers(300, self.vocab, n))

    def submit(self, before: tuple[int, ...], turn: int, parent: int | None) -> None:
        self.next_id += 1
        self.turn_of[self.next_id] = (turn, before)
        self.engine.submit(
            Request(self.next_id, before, self.work.turn, (), (0, self.next_id), probe=20, parent=parent)
        )

    def run(self) -> None:
        for _ in range(max(1, self.work.sequences // 8)):
            before = self.tokens(self.work.prompt)
            self.needed += len(before)
            for _ in range(min(8, self.work.sequences)):
                self.submit(before, 1, None)
        while self.engine.busy:
            for event in self.engine.step():
                if isinstance(event, Finished):
                    self.on_end(event)

    def on_end(self, event: Finished) -> None:
        turn, before = self.turn_of[event.id]
        self.sampled += len(event.tokens)
        if turn == self.work.turns:
            self.engine.release(event.id)
            return
        result = self.tokens(self.work.result)
        self.needed += len(result)
        self.submit((*before, *event.tokens, *result), turn + 1, event.id)
        if turn == 1:  # the fork after the first result
            self.submit((*before, *event.tokens, *result), turn + 1, None)


def build(kind: str, precision: Any, model: Any, tokenizer: Any, source: Path, slots: int, max_length: int) -> Any:
    made: Any
    if kind == "torch":
        made = TorchEngine(model, tokenizer, slots=slots, max_length=max_length, precision=precision)
    else:
        options = VLLMOptions(dtype=precision)
        made = VLLMEngine(source, model, tokenizer, slots=slots, max_length=max_length, options=options)
    made.stopping = Stopping(tokenizer, frozenset())
    return made


def measure(precisions: Sequence[str], sizes: Sequence[int], repeats: int, clock: Meter) -> list[Row]:
    source = models.fetch_default()
    model, tokenizer = models.load(str(source))
    model.to(clock.device)  # type: ignore[arg-type]
    weights = dict(model.named_parameters())
    rows: list[Row] = []
    for precision in precisions:  # one vLLM a process at a time
        for size in sizes:
            work = Work(size)
            longest = work.prompt + work.turns * (work.turn + work.result)
            engines = {kind: build(kind, precision, model, tokenizer, source, 2 * size + 8, longest) for kind in KINDS}
            speed: dict[str, list[float]] = {kind: [] for kind in KINDS}
            sync: dict[str, list[float]] = {kind: [] for kind in KINDS}
            prefill: dict[str, float] = {}
            for repeat in range(repeats + 1):
                for kind, engine in engines.items():
                    sync[kind].append(timed(functools.partial(engine.load_weights, weights), clock))
                    engine.prefilled = 0
                    forest = Forest(engine, work, len(tokenizer), repeat)
                    seconds = timed(forest.run, clock)
                    if repeat:  # the first warms up
                        speed[kind].append(forest.sampled / seconds)
                    prefill[kind] = engine.prefilled / forest.needed
            for engine in engines.values():
                engine.close()
            for kind in KINDS:
                rows.append(
                    {
                        "engine": kind,
                        "precision": precision,
                        "sequences": size,
                        "tokens_per_s": round(statistics.median(speed[kind]), 1),
                        "lowest": round(min(speed[kind]), 1),
                        "highest": round(max(speed[kind]), 1),
                        "times_torch": round(statistics.median(speed[kind]) / statistics.median(speed["torch"]), 2),
                        "prefill": round(prefill[kind], 3),
                        "new_weights_s": round(statistics.median(sync[kind]), 2),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--sequences", nargs="+", type=int, default=[8, 32], help="root trajectories at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the rows as JSON lines")
    machine.add_options(parser, threads=1)
    args = parser.parse_args(arguments)
    meter = machine.meter(args)
    if meter.device.type == "cpu":
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{args.threads - 1}" if args.threads > 1 else "0"
    rows = measure(args.precisions, args.sequences, args.repeats, meter)
    print("\n" + shapes.table(rows))
    if args.out is not None:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
