"""Tokens and time against the number of trajectories M and against depth: trees beside separate trajectories.

    python -m benchmarks.speed.scaling --plot docs/img/scaling.png

The paper claims that adaptive sampling costs between O(n log n) and O(n²) tokens where trajectory-level sampling costs
O(n²). Counted here are tokens sampled by the policy, tokens that an update runs through the model, and the seconds
of that update with a small model, for three kinds: ``arpo`` (half of M from the root, the rest forked after tool
results), ``binary`` (every result forks in two until there are M paths: the best case) and ``separate`` trajectories.
An exponent is the slope of log tokens over log M, or over log depth.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from arpo_algo.tree import Outcome, Tree
from benchmarks.speed import machine, plots, shapes
from benchmarks.speed.machine import Meter, timed
from benchmarks.speed.update import Job, flat_pass, tree_pass

SAMPLES = 5  # trees averaged a point
PROMPT = 256


def arpo(M: int, calls: int, rng: np.random.Generator) -> Tree:
    """Half of M at the root, the rest forked with probability 0.3 a result."""
    return shapes.tree(shapes.Shape(PROMPT, max(1, M // 2), M, (calls, calls)), rng)


def binary(M: int, calls: int, rng: np.random.Generator) -> Tree:
    """Every result forks in two until M paths are there; ``calls`` results a path."""
    shape = shapes.Shape()
    made = Tree("binary", rng.integers(10, shapes.VOCAB, PROMPT).tolist())
    open_nodes, width = [(0, calls)], 1
    while open_nodes:
        above, left = open_nodes.pop(0)
        action = made.add(above, "action", rng.integers(10, shapes.VOCAB, sum(shape.turn) // 2).tolist())
        action.logprobs = [-math.log(shapes.VOCAB)] * len(action.tokens)
        if left == 0:
            action.outcome = Outcome(float(rng.integers(0, 2)))
            continue
        result = made.add(action.id, "result", rng.integers(10, shapes.VOCAB, sum(shape.result) // 2).tolist())
        open_nodes.append((result.id, left - 1))
        if width < M:
            width += 1
            open_nodes.append((result.id, left - 1))
    return made


def separate(M: int, calls: int, rng: np.random.Generator) -> Tree:
    """All M at the root: trajectory-level sampling."""
    return shapes.tree(shapes.Shape(PROMPT, M, M, (calls, calls)), rng)


KINDS: dict[str, Callable[[int, int, np.random.Generator], Tree]] = {
    "arpo": arpo,
    "binary": binary,
    "separate": separate,
}


def sampled(tree: Tree) -> int:
    return sum(len(n.tokens) for n in tree.nodes if n.kind == "action")


def count(kind: str, M: int, calls: int) -> dict[str, float]:
    """Means over a few trees."""
    trees = [KINDS[kind](M, calls, np.random.default_rng([i, M, calls])) for i in range(SAMPLES)]
    return {
        "sampled": float(np.mean([sampled(t) for t in trees])),
        "run": float(np.mean([t.n_tokens_flat if kind == "separate" else t.n_tokens for t in trees])),
        "calls": float(np.mean([t.tool_calls for t in trees])),
    }


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def seconds(kind: str, M: int, calls: int, model: object, meter: Meter) -> float:
    """Seconds of one update pass."""
    tree = KINDS[kind](M, calls, np.random.default_rng([0, M, calls]))
    run = flat_pass if kind == "separate" else tree_pass
    job = Job(kind, PROMPT, 0, "bfloat16", 1, 1, device=str(meter.device))
    return timed(lambda: run(job, [tree], model), meter)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--depths", type=int, nargs="*", default=[4, 6, 8, 12, 16], help="tool calls a trajectory")
    parser.add_argument("--time-up-to", type=int, default=32, help="largest M whose update is timed (0: none)")
    parser.add_argument("--layers", type=int, default=2, help="layers of the timed model")
    machine.add_options(parser, threads=1)
    parser.add_argument("--plot", **plots.OPTION)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    meter = machine.meter(options)
    model = shapes.model(options.layers, device=meter.device) if options.time_up_to else None
    if model is not None:
        seconds("arpo", max(options.trajectories), 6, model, meter)  # warm: kernels, memory
    by_m: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for M in options.trajectories:
        for kind in KINDS:
            point = {"x": float(M), **count(kind, M, 6)}
            if 1 < M <= options.time_up_to:
                point["seconds"] = seconds(kind, M, 6, model, meter)
            by_m[kind].append(point)
    by_depth = {k: [{"x": float(d), **count(k, 16, d)} for d in options.depths] for k in KINDS}
    rows = [
        {
            "kind": kind,
            "M": int(p["x"]),
            "sampled": round(p["sampled"]),
            "tool calls": round(p["calls"]),
            "run by the update": round(p["run"]),
            "update s": f"{p['seconds']:.2f}" if "seconds" in p else "",
        }
        for kind, points in by_m.items()
        for p in points
    ]
    print(shapes.table(rows))
    for name, what in (("sampled", "sampled"), ("run", "run by the update")):
        for label, points in (("M", by_m), ("depth", by_depth)):
            slopes = ", ".join(
                f"{k} {exponent([p['x'] for p in v], [p[name] for p in v]):.2f}" for k, v in points.items()
            )
            print(f"exponent of tokens {what} in {label}: {slopes}")
    if options.plot is not None:
        draw(options.plot, by_m, by_depth)
    if options.json is not None:
        options.json.write_text(json.dumps({"by_m": by_m, "by_depth": by_depth}))


def draw(path: Path, by_m: dict[str, list[dict[str, float]]], by_depth: dict[str, list[dict[str, float]]]) -> None:
    """Tokens over M, tokens over depth, seconds over M."""
    figure, axes = plots.panels(3)
    for axis, points, x, name, y in (
        (axes[0], by_m, "trajectories M (6 calls each)", "run", "tokens run by an update"),
        (axes[1], by_depth, "tool calls a trajectory (M = 16)", "run", "tokens run by an update"),
        (axes[2], by_m, "trajectories M (6 calls each)", "seconds", "seconds of an update"),
    ):
        shown = {kind: [p for p in points[kind] if name in p] for kind in KINDS}
        sampled = {f"{kind}: sampled": [(p["x"], p["sampled"]) for p in shown[kind]] for kind in KINDS}
        plots.lines(
            axis,
            {kind: [(p["x"], p[name]) for p in shown[kind]] for kind in KINDS},
            dotted=sampled if name == "run" else None,
            x=x,
            y=y,
            log="xy",
        )
    plots.save(figure, path)


if __name__ == "__main__":
    main()
