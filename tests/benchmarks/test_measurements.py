"""Measurements: the smallest of each runs to its end and writes its figures; what is timed is what is said."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from arpo_algo.tree import Tree
from benchmarks.speed import decode, machine, plots, update
from benchmarks.speed.update import Job

SMALLEST = {
    "coverage": ["--draws", "20"],
    "speed.verifiers": ["--seconds", "0.01", "--json", "OUT"],
    "speed.search": ["--pages", "100", "--queries", "4", "--entries", "20", "--json", "OUT"],
    "speed.sandbox": ["--calls", "1", "--episodes", "2", "--total", "4", "--json", "OUT"],
    "speed.overhead": ["--steps", "1", "rollout.prompts=1", "algorithm.options.M=2", "algorithm.options.N=1"],
    "speed.engines": ["--precisions", "float32", "--sequences", "1", "--repeats", "1", "--out", "OUT"],
}
MARKS = {"speed.engines": [pytest.mark.model, pytest.mark.slow], "speed.sandbox": [pytest.mark.slow]}


@pytest.mark.parametrize("name", [pytest.param(n, marks=MARKS.get(n, [])) for n in SMALLEST])
def test_the_smallest_of_each_runs_to_its_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = importlib.import_module(f"benchmarks.{name}")
    if name == "speed.engines":  # vLLM's part needs vLLM, and is tried where it is installed (make test-vllm)
        monkeypatch.setattr(tool, "KINDS", ("torch",))
        monkeypatch.setattr(tool, "Work", partial(tool.Work, prompt=8, turn=2, result=2))
    out = tmp_path / "figures.json"
    # A busy machine gives fewer verdicts a second than are claimed, which verifiers tells by its exit status.
    assert tool.main([str(out) if a == "OUT" else a for a in SMALLEST[name]]) in (None, 0, 1)
    said = capsys.readouterr().out
    assert said.strip()
    if "OUT" in SMALLEST[name]:
        assert json.JSONDecoder().raw_decode(out.read_text())[0], "one value, or one a line"


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'arpo[bench]'")
    figure, (left, middle, right) = plots.panels(3)
    plots.lines(left, {"a": [(1, 2.0), (2, 3.0)]}, dotted={"a, before": [(1, 1.0)]}, x="n", y="s", log="x")
    plots.bars(middle, ["one", "two"], {"a": [1.0, 2.0], "b": [3.0, 4.0]}, y="s")
    plots.stacked(right, ["one", "two"], {"a": [1.0, 2.0], "b": [3.0, 4.0]}, x="n", y="s")
    assert [bar.get_y() for bar in right.patches] == [0.0, 0.0, 1.0, 2.0], "b stands on a"
    plots.save(figure, tmp_path / "new/p.png")
    assert (tmp_path / "new/p.png").read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------ the update


def small(*_: object, **__: object) -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes))


@pytest.mark.parametrize("method", ["tree", "flat", "padded"])
def test_every_method_warms_up_on_a_tree_that_is_timed(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its first pass over such a tree, which touches new memory, is timed for some methods and not for others."""
    passes: list[list[Tree]] = []
    timed = [Tree("a", [1]), Tree("b", [1])]
    monkeypatch.setattr(update.shapes, "model", small)
    monkeypatch.setattr(Job, "trees", lambda self: timed)
    for name in ("tree_pass", "flat_pass", "padded_pass"):

        def run(job: Job, trees: Sequence[Tree], model: Any, name: str = name) -> None:
            assert name == f"{method}_pass"
            passes.append(list(trees))

        monkeypatch.setattr(update, name, run)
    update.work(Job(method, 8, 1, "float32", torch.get_num_threads(), 2, keep_memory=False))
    assert passes == [timed[:1], timed, timed]


def test_trl_has_its_best_setting_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """``trl-bf16``: no factor of its head's products is cast to float32; the sum stays as it was, but for rounding."""
    kernels = pytest.importorskip("trl.kernels.chunked_logprob", reason="pip install 'arpo[trl]'")
    a, b = (torch.randn(8, 8).bfloat16() for _ in range(2))
    sums = torch.ones(2, 8, 8)
    monkeypatch.setattr(kernels, "_addmm_fp32", kernels._addmm_fp32)  # undone at the end
    kernels._addmm_fp32(sums[0], a, b)
    update.use_bf16_head()
    cast: list[torch.dtype] = []
    monkeypatch.setattr(torch.Tensor, "float", lambda self: cast.append(self.dtype) or self.to(torch.float32))
    kernels._addmm_fp32(sums[1], a, b)
    assert not cast
    assert sums[1].dtype == torch.float32
    assert torch.allclose(sums[1], sums[0], rtol=2**-6, atol=2**-4)
    monkeypatch.delattr(kernels, "_addmm_fp32")
    with pytest.raises(SystemExit, match="has no _addmm_fp32"):
        update.use_bf16_head()


def test_trl_beside_another_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """GRPOTrainer takes the first GPU, whatever --device says."""
    with pytest.raises(SystemExit):
        update.main(["--device", "cuda:1", "--trl", "python", "--no-check"])
    assert "CUDA_VISIBLE_DEVICES=1" in capsys.readouterr().err


# ------------------------------------------------------------------ the decoding step


def test_on_a_gpu_the_parts_of_a_step_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks around them would serialise the step. Here the clock says that it is a GPU's."""
    pytest.importorskip("matplotlib", reason="pip install 'arpo[bench]'")

    class Gpu(machine.Meter):
        device = SimpleNamespace(type="cuda")  # type: ignore[assignment]

        def __init__(self) -> None:
            self.ticks = 0.0

        def __call__(self) -> float:
            self.ticks += 1.0
            return self.ticks

    monkeypatch.setattr(decode, "STEPS", 2)
    model = update.shapes.model(1)
    engine = decode.engine_for(model, 2, 16, "float32", True)
    found = decode.measure(engine, 2, 16, Gpu())
    assert not found.keys() & set(decode.PARTS)
    row = {"prompt": 16, "sequences": 2, "tok/s": 1, "before": 1, "of products": 0.1, "of bandwidth": 0.1}
    decode.draw(tmp_path / "p.png", [{**row, "prefill of products": 0.1}])
    assert (tmp_path / "p.png").exists()
    assert math.isfinite(found["step"])


def test_figures_say_what_made_them() -> None:
    said = machine.described()
    assert said["versions"]["torch"] == torch.__version__
    assert said["command"]
    assert said["machine"]["threads"] == torch.get_num_threads()
