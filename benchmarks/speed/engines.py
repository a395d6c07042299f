"""The torch engine and the vLLM engine side by side: the same requests, through the same contract, in one process.

    make setup-vllm
    .venv-vllm/bin/python -m benchmarks.speed.engines                       # SmolLM2, float32 and bfloat16
    .venv-vllm/bin/python -m benchmarks.speed.engines --sequences 8 --repeats 5

The work is a forest as ARPO samples it: prompts with several roots each; when a turn ends, a tool result is appended
and the turn after it is forked once. No end token, so that every turn has its full length and both engines the same
work. Engines take turns, so that a disturbance hits all; what is printed are medians. "prefill" is tokens run to fill
caches over those that had to be (1 is ideal: each unique token once).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
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

Row = dict[str, Any]


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

    def run(self) -> float:
        """Seconds."""
        start = time.perf_counter()
        for _ in range(max(1, self.work.sequences // 8)):
            before = self.tokens(self.work.prompt)
            self.needed += len(before)
            for _ in range(min(8, self.work.sequences)):
                self.submit(before, 1, None)
        while self.engine.busy:
            for event in self.engine.step():
                if isinstance(event, Finished):
                    self.on_end(event)
        return time.perf_counter() - start

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


def build(name: str, model: Any, tokenizer: Any, source: Path, slots: int, max_length: int) -> Any:
    kind, precision = name.split()
    made: Any
    if kind == "torch":
        made = TorchEngine(model, tokenizer, slots=slots, max_length=max_length, precision=precision)  # type: ignore[arg-type]
    else:
        options = VLLMOptions(dtype=precision)  # type: ignore[arg-type]
        made = VLLMEngine(source, model, tokenizer, slots=slots, max_length=max_length, options=options)
    made.stopping = Stopping(tokenizer, frozenset())
    return made


def measure(names: Sequence[str], sizes: Sequence[int], repeats: int) -> list[Row]:
    source = models.fetch_default()
    model, tokenizer = models.load(str(source))
    weights = dict(model.named_parameters())
    rows: list[Row] = []
    for size in sizes:
        work = Work(size)
        longest = work.prompt + work.turns * (work.turn + work.result)
        times: dict[str, list[float]] = {name: [] for name in names}
        prefill: dict[str, float] = {}
        sync: dict[str, list[float]] = {name: [] for name in names}
        engines = {n: build(n, model, tokenizer, source, 2 * size + 8, longest) for n in names}
        for repeat in range(repeats + 1):
            for name, engine in engines.items():
                start = time.perf_counter()
                engine.load_weights(weights)
                sync[name].append(time.perf_counter() - start)
                engine.prefilled = 0
                forest = Forest(engine, work, len(tokenizer), repeat)
                seconds = forest.run()
                if repeat:  # the first warms up
                    times[name].append(forest.sampled / seconds)
                prefill[name] = engine.prefilled / forest.needed
        for engine in engines.values():
            engine.close()
        engines.clear()
        gc.collect()
        for name in names:
            rows.append(
                {
                    "engine": name,
                    "sequences": size,
                    "tokens_per_s": round(statistics.median(times[name]), 1),
                    "lowest": round(min(times[name]), 1),
                    "highest": round(max(times[name]), 1),
                    "times_torch": round(statistics.median(times[name]) / statistics.median(times[names[0]]), 2),
                    "prefill": round(prefill[name], 3),
                    "new_weights_s": round(statistics.median(sync[name]), 2),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    return "\n".join(lines + ["| " + " | ".join(str(v) for v in row.values()) + " |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", metavar="'KIND PRECISION'",
                        default=["torch float32", "torch bfloat16", "vllm float32", "vllm bfloat16"])  # fmt: skip
    parser.add_argument("--sequences", nargs="+", type=int, default=[8, 32], help="root trajectories at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the rows as JSON lines")
    args = parser.parse_args()
    rows = measure(args.engines, args.sequences, args.repeats)
    print("\n" + table(rows))
    if args.out is not None:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
