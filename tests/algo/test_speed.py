"""What the speed measurements count, without a clock: tokens run, and that their methods do the same work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import byte_model

from arpo_algo.packing import chains
from arpo_algo.runfolder import write_trees
from arpo_algo.tree import Tree
from benchmarks.speed import decode, rollout, scaling, shapes, update
from benchmarks.speed.machine import Meter
from benchmarks.speed.rollout import engine_for, latencies, run_engine, run_lock_step
from benchmarks.speed.update import Job, Padded, flat_pass, padded_pass, pairs, tree_pass

SHAPE = shapes.Shape(prompt=64, N=4, M=8, calls=(2, 4), turn=(4, 12), result=(5, 15))


def small_tree(seed: int = 0) -> Tree:
    made = shapes.tree(SHAPE, np.random.default_rng(seed))
    for node in made.nodes:
        node.tokens = [t % 250 for t in node.tokens]
    return made


@pytest.mark.parametrize("high", [0.0, 2.0])
def test_the_engine_runs_each_unique_token_once(high: float) -> None:
    """At most 1.05 times the unique tokens, whether tools answer at once or late and out of order."""
    trees = [small_tree(0), small_tree(1)]
    engine = engine_for(byte_model(), trees, "float32")
    ticks = iter(np.arange(0, 1e6, 0.01))
    run_engine(engine, trees, latencies(trees, 0.05, high, 0), lambda: float(next(ticks)))
    unique = sum(t.n_tokens for t in trees)
    assert 0.9 * unique < engine.prefilled + engine.decoded <= 1.05 * unique
    assert engine.decoded <= sum(len(n.tokens) for t in trees for n in t.nodes if n.kind == "action") + 32
    assert not engine.busy


def test_lock_step_samples_the_same_trees_and_waits_for_the_slowest_of_each_round() -> None:
    trees = [small_tree(0)]
    model = byte_model()
    waits = latencies(trees, 0.05, 2.0, 0)
    with torch.inference_mode():
        total = run_lock_step(model, trees, waits, lambda: 0.0)
    tree = trees[0]
    rounds: dict[int, float] = {}
    for node in tree.nodes:
        if node.kind == "result":
            turn = sum(n.kind == "result" for n in tree.path(node.id))
            rounds[turn] = max(rounds.get(turn, 0.0), waits[0, node.id])
    assert total == pytest.approx(sum(rounds.values()))


def test_update_methods_give_one_gradient() -> None:
    trees = [small_tree(3), small_tree(4)]
    model = byte_model()
    job = Job("", 64, 2, "float32", 1, 1)
    found = []
    for method in (tree_pass, flat_pass, padded_pass):
        model.zero_grad()
        method(job, trees, model)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float(found[0].norm()) > 1e-4
    for other in found[1:]:
        assert float((other - found[0]).norm() / found[0].norm()) < 1e-5
    assert all(Padded.of(tree).size >= tree.n_tokens_flat for tree in trees)


def test_a_run_s_trees_under_a_longer_prompt(tmp_path: Path) -> None:
    file = tmp_path / "train-000000.jsonl.gz"
    write_trees(file, [small_tree(3), small_tree(4)])
    job = Job("", 0, 2, "float32", 1, 1, file=str(file))
    short, long = job.trees(), replace(job, prompt=100, first=1).trees()
    assert [len(t.nodes[0].tokens) for t in (*short, *long)] == [64, 64, 100]
    assert [n.start for n in long[0].nodes[1:]] == [n.start + 36 for n in short[0].nodes[1:]]
    assert long[0].tokens(long[0].leaves()[0].id)[36:] == short[0].tokens(short[0].leaves()[0].id)
    with pytest.raises(SystemExit, match="has 64 tokens already"):
        replace(job, prompt=10).trees()


def test_pairs_are_those_that_attention_computes() -> None:
    trees = [small_tree(5), small_tree(6)]
    flat = [chain for tree in trees for chain in chains(tree)]
    expected = [
        sum(n.start + i + 1 for t in some for n in t.nodes for i in range(len(n.tokens))) for some in (trees, flat)
    ]
    assert [pairs(trees), pairs(trees, flat=True)] == expected


def test_shapes_hold_what_they_promise() -> None:
    for seed in range(5):
        made = small_tree(seed)
        assert len(made.leaves()) == SHAPE.M
        assert len({leaf.outcome.reward for leaf in made.leaves() if leaf.outcome}) == 2
        calls = [sum(n.kind == "result" for n in made.path(leaf.id)) for leaf in made.leaves()]
        assert min(calls) >= 2
        assert max(calls) <= 4
    alone = shapes.tree(replace(SHAPE, N=8), np.random.default_rng(0))
    assert sum(n.parent == 0 for n in alone.nodes) == 8


def test_scaling_counts() -> None:
    binary = scaling.count("binary", 8, 3)
    separate = scaling.count("separate", 8, 3)
    assert binary["calls"] == 1 + 2 + 4
    assert separate["calls"] == 24
    assert binary["sampled"] < separate["sampled"]
    assert binary["run"] < separate["run"]
    assert scaling.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2.0)


def test_scaling_times_trees_and_separate_trajectories() -> None:
    model = shapes.model(1)
    assert all(scaling.seconds(kind, 2, 1, model, Meter(torch.device("cpu"))) > 0 for kind in ("arpo", "separate"))


def test_decode_counts_shares_of_the_machine_and_of_the_step(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'arpo[bench]'")
    out, picture = tmp_path / "rows.json", tmp_path / "picture.png"
    sizes = ["--layers", "1", "--sequences", "1", "3", "--prompts", "16", "--precision", "float32"]
    decode.main([*sizes, "--json", str(out), "--plot", str(picture)])
    for row in json.loads(out.read_text())["rows"]:
        assert sum(row[part] for part in decode.PARTS) == pytest.approx(1, abs=0.01)
        assert min(row[part] for part in decode.PARTS) > 0
        assert row["of products"] > 0
        assert row["of bandwidth"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("tool", [decode, rollout, scaling, update])
def test_a_gpu_that_is_not_there_is_refused(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="finds no CUDA GPU"):
        tool.main(["--device", "cuda", *(["--no-check"] if tool is update else [])])


def test_plotting_without_matplotlib_is_refused_before_measuring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        rollout.main(["--plot", "picture.png"])
    assert "pip install 'arpo[bench]'" in capsys.readouterr().err
