"""Sampling a given tree: our engine against lock-step ``generate``, with and without slow tools.

    python -m benchmarks.speed.rollout                      # SmolLM2's shape
    python -m benchmarks.speed.rollout --layers 8 --threads 1

Both sample the same trees: the same turn lengths, results, forks. ``engine``: our continuous engine; a branch goes on
when its own tool has answered, a prefix is computed once. ``lock-step``: the published way with transformers'
``generate``: each turn of all trajectories at once, prefixes computed again, finished rows computed on until the
longest ends, then a barrier for the slowest tool (tools of one round in parallel: kinder than the published code).

Time is virtual: compute is measured (CPU seconds, wall time with ``--wall`` and on GPUs), tool latencies are added as a
clock would, nobody sleeps. So a busy machine does not change what waiting costs.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from arpo_algo.engines.base import Finished, Request
from arpo_algo.engines.stopping import Stopping
from arpo_algo.engines.torch import TorchEngine
from arpo_algo.tree import Node, Tree
from benchmarks.speed import machine, plots, shapes
from benchmarks.speed.machine import Clock


class NoText:
    """Stands in for a tokenizer: turns end by length here, so nothing needs to be read."""

    eos_token_id = -1

    def decode(self, *args: object, **options: object) -> str:
        return ""


def latencies(trees: Sequence[Tree], low: float, high: float, seed: int) -> dict[tuple[int, int], float]:
    """Seconds of the call that each result node answers, log-uniform: most are quick, some are slow."""
    rng = np.random.default_rng(seed)
    nodes = [(i, n.id) for i, tree in enumerate(trees) for n in tree.nodes if n.kind == "result"]
    if high <= 0:
        return dict.fromkeys(nodes, 0.0)
    return {key: float(np.exp(rng.uniform(np.log(low), np.log(high)))) for key in nodes}


def run_engine(engine: Any, trees: Sequence[Tree], wait: dict[tuple[int, int], float], clock: Clock) -> float:
    """Sample the trees through an engine; returns virtual seconds. Results and later turns hang on what was sampled."""
    now, number = 0.0, 0
    due: list[tuple[float, int, int, int, tuple[int, ...], int]] = []  # time, order, tree, node, prefix, parent
    under_way: dict[int, tuple[int, Node, tuple[int, ...]]] = {}

    def submit(index: int, node: Node, prefix: tuple[int, ...], parent: int | None) -> None:
        nonlocal number
        number += 1
        under_way[number] = (index, node, prefix)
        engine.submit(Request(number, prefix, len(node.tokens), (), (index, node.id), parent=parent))

    def children(index: int, node: Node, prefix: tuple[int, ...], parent: int | None) -> None:
        for child in node.children:
            submit(index, trees[index].nodes[child], prefix, parent)
            parent = None  # the others are forks

    for index, tree in enumerate(trees):
        children(index, tree.nodes[0], tuple(tree.nodes[0].tokens), None)
    while engine.busy or due:
        if not engine.busy:
            now = max(now, due[0][0])
        while due and due[0][0] <= now:
            _, _, index, result, prefix, parent = heapq.heappop(due)
            children(index, trees[index].nodes[result], prefix, parent)
        start = clock()
        events = engine.step()
        now += clock() - start
        for event in events:
            if not isinstance(event, Finished):
                continue
            index, node, prefix = under_way.pop(event.id)
            if not node.children:
                engine.release(event.id)
                continue
            (child,) = node.children
            told = (*prefix, *event.tokens, *trees[index].nodes[child].tokens)
            heapq.heappush(due, (now + wait[index, child], event.id, index, child, told, event.id))
    return now


def run_lock_step(
    model: Any, trees: Sequence[Tree], wait: dict[tuple[int, int], float], clock: Clock, rows: int = 64
) -> float:
    """The published way; returns virtual seconds. ``rows``: sequences a batch at most."""
    now = 0.0
    turns = [
        (i, tree.nodes[c], list(tree.nodes[0].tokens)) for i, tree in enumerate(trees) for c in tree.nodes[0].children
    ]
    torch.manual_seed(0)
    while turns:
        following: list[tuple[int, Node, list[int]]] = []
        slowest = 0.0
        for begin in range(0, len(turns), rows):
            batch = turns[begin : begin + rows]
            start = clock()
            width = max(len(prefix) for _, _, prefix in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for i, (_, _, prefix) in enumerate(batch):
                ids[i, width - len(prefix) :] = torch.tensor(prefix)
                mask[i, width - len(prefix) :] = 1
            how = GenerationConfig(
                max_new_tokens=max(len(node.tokens) for _, node, _ in batch),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                pad_token_id=0,
                eos_token_id=None,
                bos_token_id=None,
            )
            ids, mask = ids.to(model.device), mask.to(model.device)
            got = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)[:, width:].tolist()
            now += clock() - start
            for (index, node, prefix), tokens in zip(batch, got, strict=True):
                for child in node.children:
                    slowest = max(slowest, wait[index, child])
                    told = [*prefix, *tokens[: len(node.tokens)], *trees[index].nodes[child].tokens]
                    following += [(index, trees[index].nodes[c], told) for c in trees[index].nodes[child].children]
        now += slowest
        turns = following
    return now


def engine_for(model: Any, trees: Sequence[Tree], precision: Any) -> TorchEngine:
    longest = max(n.end for tree in trees for n in tree.nodes)
    leaves = sum(len(tree.leaves()) for tree in trees)
    reader: Any = NoText()
    model.generation_config.eos_token_id = None
    engine = TorchEngine(model, reader, slots=leaves, max_length=longest, precision=precision)
    engine.stopping = Stopping(reader, frozenset())
    return engine


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="*", default=[256, 768], help="prompt lengths")
    parser.add_argument("--trees", type=int, default=2, help="trees sampled together, M=16 trajectories each")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--latency", type=float, nargs=2, default=[0.05, 2.0], help="seconds, log-uniform")
    parser.add_argument("--repeats", type=int, default=2)
    machine.add_options(parser)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", **plots.OPTION)
    options = parser.parse_args(arguments)
    clock = machine.meter(options)
    rows: list[dict[str, Any]] = []
    for prompt in options.prompts:
        shape = shapes.Shape(prompt=prompt)
        trees = [shapes.tree(shape, np.random.default_rng([i, prompt])) for i in range(options.trees)]
        own = engine_for(shapes.model(options.layers, device=clock.device).eval(), trees, options.precision)
        theirs = shapes.model(options.layers, device=clock.device).eval().to(getattr(torch, options.precision))
        theirs.set_attn_implementation("sdpa")
        for name, wait in (
            ("at once", latencies(trees, 0, 0, 0)),
            ("{:g}–{:g} s".format(*options.latency), latencies(trees, options.latency[0], options.latency[1], 0)),
        ):
            ours, lock = [], []
            for _ in range(options.repeats):
                own.load_weights(dict(own.model.named_parameters()))
                own.prefilled = own.decoded = 0
                ours.append(run_engine(own, trees, wait, clock))
                with torch.inference_mode():
                    lock.append(run_lock_step(theirs, trees, wait, clock))
            unique = sum(t.n_tokens for t in trees)
            row = {
                "prompt": prompt,
                "tools": name,
                "unique": unique,
                "raw": sum(t.n_tokens_flat for t in trees),
                "engine s": round(min(ours), 1),
                "lock-step s": round(min(lock), 1),
                "ratio": round(min(lock) / min(ours), 2),
                "tokens run / unique": round((own.prefilled + own.decoded) / unique, 3),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    print(shapes.table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows))
    if options.plot is not None:
        draw(options.plot, rows)


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Seconds of both ways for each prompt length and kind of tool."""
    figure, (axis,) = plots.panels(1, width=6.5)
    plots.bars(
        axis,
        [f"prompt {row['prompt']}\ntools: {row['tools']}" for row in rows],
        {"lock-step generate": [row["lock-step s"] for row in rows], "engine": [row["engine s"] for row in rows]},
        y="seconds for the same two trees",
    )
    plots.save(figure, path)


if __name__ == "__main__":
    main()
