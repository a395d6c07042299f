"""How much of the machine a decoding step reaches, and where the rest goes.

    python -m benchmarks.speed.decode                                   # SmolLM2's shape, bfloat16, one thread
    python -m benchmarks.speed.decode --precision float32 --sequences 8 32

A step of n sequences must do its matrix products and must read every weight once and every cached key and value once
(a prompt that branches share counts once). *of products* is the time that the products would take at the rate of one
large product, over the time of the step; *of bandwidth* is the time that the reading would take at the rate of a large
copy, over the time of the step. The larger of the two says how near the step is to what the machine allows. Both rates
are measured first, in the same process. Trees of 16 branches share a prompt, as in ARPO.

*before* is the same engine without packed weights and without reading shared prefixes together.

On CPUs the parts of a step stand beside it. Not on GPUs: a clock around each part would have to wait for the device
before and after it, and so describe another, serialised step.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from arpo_algo.cacheattention import CachePlan
from arpo_algo.engines import torch as torch_engine
from arpo_algo.engines.base import Request
from arpo_algo.engines.stopping import Stopping
from arpo_algo.engines.torch import TorchEngine
from arpo_algo.engines.workingcopy import PackedLinear
from benchmarks.speed import machine, plots, shapes
from benchmarks.speed.machine import Clock, Meter, copy_rate, product_rate
from benchmarks.speed.rollout import NoText

BRANCHES = 16  # of a tree
STEPS = 12  # of which the median is taken
PARTS = ("linear layers", "attention", "drawing tokens", "rest")


class Parts:
    """Seconds inside some functions while others go on being ``rest``."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            for where, name, part in (
                (PackedLinear, "forward", "linear layers"),
                (torch.nn.Linear, "forward", "linear layers"),
                (CachePlan, "attend", "attention"),
                (torch_engine, "draw", "drawing tokens"),
            ):
                stack.enter_context(mock.patch.object(where, name, self._timed(getattr(where, name), part)))
            yield

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            start = self.clock()
            try:
                return function(*args, **options)
            finally:
                self.seconds[part] += self.clock() - start

        return timed


def measure(engine: TorchEngine, sequences: int, prompt: int, clock: Meter) -> dict[str, float]:
    """Prefill of the prompts, then decoding steps of all sequences; seconds, tokens in caches, on CPUs the parts."""
    rng = np.random.default_rng(sequences)
    prompts = [tuple(rng.integers(10, 40_000, prompt).tolist()) for _ in range(-(-sequences // BRANCHES))]
    for i in range(sequences):
        engine.submit(Request(i, prompts[i // BRANCHES], STEPS * 2 + 6, (), (0, i)))
    engine.prefilled = 0
    start = clock()
    engine.step()
    prefill = (clock() - start) / engine.prefilled
    while engine._queue:
        engine.step()
    for _ in range(2):
        engine.step()
    steps = []
    for _ in range(STEPS):
        start = clock()
        engine.step()
        steps.append(clock() - start)
    shares = parts_of(engine, clock) if clock.device.type == "cpu" else {}
    own = statistics.mean(len(row.slot.tokens) for row in engine._running.values()) - prompt
    while engine.busy:
        engine.step()
    return {
        "step": statistics.median(steps),
        "prefill": prefill,
        "attended": prompt + own,
        "cached": len(prompts) * prompt + sequences * own,
        **shares,
    }


def parts_of(engine: TorchEngine, clock: Clock) -> dict[str, float]:
    """Shares of the time of some decoding steps."""
    parts = Parts(clock)
    with parts.watching():
        start = clock()
        for _ in range(STEPS // 2):
            engine.step()
        whole = clock() - start
    shares = {part: parts.seconds[part] / whole for part in PARTS[:-1]}
    return {**shares, "rest": 1 - sum(shares.values())}


def engine_for(model: Any, sequences: int, prompt: int, precision: Any, fast: bool) -> TorchEngine:
    reader: Any = NoText()
    model.generation_config.eos_token_id = None
    made = TorchEngine(
        model,
        reader,
        slots=sequences,
        max_length=prompt + STEPS * 2 + 8,
        precision=precision,
        packed=fast,
        share_reads=fast,
    )
    made.stopping = Stopping(reader, frozenset())
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, nargs="*", default=[1, 8, 16, 32, 64])
    parser.add_argument("--prompts", type=int, nargs="*", default=[256, 768], help="prompt lengths")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    machine.add_options(parser, threads=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", **plots.OPTION)
    options = parser.parse_args(arguments)
    clock = machine.meter(options)
    dtype = getattr(torch, options.precision)
    products, bandwidth = product_rate(dtype, clock), copy_rate(clock)
    print(f"product {products / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s (read and written)", flush=True)
    model = shapes.model(options.layers, device=clock.device).eval()
    config = model.config
    layers = sum(m.weight.numel() for m in model.model.modules() if isinstance(m, torch.nn.Linear))
    head = model.lm_head.weight.numel()
    heads = 4 * config.num_attention_heads * config.head_dim * options.layers  # operations a token and key
    key = 2 * config.num_key_value_heads * config.head_dim * options.layers * dtype.itemsize  # bytes a position
    rows: list[dict[str, Any]] = []
    for prompt in options.prompts:
        for n in options.sequences:
            before, now = (
                measure(engine_for(model, n, prompt, options.precision, fast), n, prompt, clock)
                for fast in (False, True)
            )
            operations = n * (2 * (layers + head) + heads * now["attended"])
            read = (layers + head) * dtype.itemsize + key * now["cached"]
            row = {
                "prompt": prompt,
                "sequences": n,
                "tok/s": round(n / now["step"]),
                "before": round(n / before["step"]),
                "ratio": round(before["step"] / now["step"], 2),
                "of products": round(operations / products / now["step"], 3),
                "of bandwidth": round(read / bandwidth / now["step"], 3),
                "prefill tok/s": round(1 / now["prefill"]),
                "prefill of products": round((2 * layers + heads * prompt / 2) / products / now["prefill"], 3),
                **{part: round(now[part], 3) for part in PARTS if part in now},
                "step ms": round(now["step"] * 1e3, 1),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    shares = {"of products", "of bandwidth", "prefill of products", *PARTS}
    shown = [{name: f"{v:.0%}" if name in shares else v for name, v in row.items()} for row in rows]
    print(shapes.table(shown))
    if options.json is not None:
        what = {**machine.described(), "precision": options.precision, "layers": options.layers}
        options.json.write_text(json.dumps({**what, "products": products, "bandwidth": bandwidth, "rows": rows}))
    if options.plot is not None:
        draw(options.plot, rows)


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Tokens a second, share of what the machine allows, and (CPUs) parts of a step, over the number of sequences."""
    prompts = sorted({row["prompt"] for row in rows})
    timed = PARTS[0] in rows[0]
    figure, (speed, share, *left) = plots.panels(3 if timed else 2)
    of = {p: [row for row in rows if row["prompt"] == p] for p in prompts}
    plots.lines(
        speed,
        {f"prompt {p}": [(row["sequences"], row["tok/s"]) for row in of[p]] for p in prompts},
        dotted={f"prompt {p}, before": [(row["sequences"], row["before"]) for row in of[p]] for p in prompts},
        x="sequences",
        y="tokens a second",
        log="x",
    )
    plots.lines(
        share,
        {
            label: [(row["sequences"], 100 * row[name]) for row in of[prompts[0]]]
            for label, name in (
                ("step: product rate", "of products"),
                ("step: bandwidth", "of bandwidth"),
                ("prefill: product rate", "prefill of products"),
            )
        },
        x=f"sequences (prompt {prompts[0]})",
        y="% of the machine's own rate",
        log="x",
    )
    if timed:
        plots.stacked(
            left[0],
            [str(row["sequences"]) for row in of[prompts[0]]],
            {part: [100 * row[part] for row in of[prompts[0]]] for part in PARTS},
            x=f"sequences (prompt {prompts[0]})",
            y="% of a step's time",
        )
    plots.save(figure, path)


if __name__ == "__main__":
    main()
