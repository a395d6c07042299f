"""On a real GPU: the numbers of the CPU, both ways of computing trees, memory, and a step of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import PROMPT, byte_model, drain, engine, request
from test_flex import forest, inputs
from test_gradient import KINDS, SYSTEM, credited, gradient, relative
from tiny_run import config, quiet
from torch._dynamo.utils import counters
from toy import byte_tokenizer
from trees import random_tree, tiny_model

from arpo_algo.algorithms import make
from arpo_algo.attention import use_arpo_attention
from arpo_algo.engines.base import Sampling
from arpo_algo.flexattention import FlexTree, Shape, flaw, flex_tree_attention
from arpo_algo.packing import pack
from arpo_algo.runfolder import read_rows
from arpo_algo.scoring import loss_of, score
from arpo_algo.trainer import Trainer
from arpo_algo.treeattention import blocks, tree_attention

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("default")]  # the compiler has deprecations of its own
GPU = torch.device("cuda")
#: Flex attention's kernels hold heads of 16 numbers or more.
BIG_HEADS = {"head_dim": 16}


@pytest.mark.parametrize(("kind", "options"), [("llama", {}), ("gemma2", {"sliding_window": 7})])
@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0), Sampling(0.8, top_p=0.9, top_k=20)])
def test_the_engine_draws_the_same_tokens(kind: str, options: dict, sampling: Sampling) -> None:
    done = []
    for device in ("cpu", "cuda"):
        made = engine(byte_model(kind=kind, **options).to(device))
        for i in range(12):  # more than slots; prefixes that are shared
            made.submit(request(i, PROMPT[: 10 + 3 * (i % 4)], sampling=sampling))
        done.append(drain(made))
    for i, event in done[0].items():
        assert done[1][i].tokens == event.tokens
        assert done[1][i].logprobs == pytest.approx(event.logprobs, abs=1e-3)
        assert done[1][i].entropies == pytest.approx(event.entropies, abs=1e-3)


@pytest.mark.parametrize("how", ["blocks", "flex"])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_the_update_has_the_gradient_of_the_cpu(kind: str, options: dict, how: Any) -> None:
    torch._dynamo.reset()
    trees = [random_tree(np.random.default_rng(i), depth=4, prompt=SYSTEM) for i in range(3)]
    algorithm = make("arpo")
    made = pack(credited(trees, algorithm))
    grads = []
    for device, attention in ((torch.device("cpu"), "blocks"), (GPU, how)):
        model = tiny_model(kind, **{**options, **BIG_HEADS}).to(device)
        use_arpo_attention(model)
        there = made.to(device)
        loss_of(there, score(model, there, attention=attention), algorithm, there.rollout_logp).loss.backward()
        grads.append(gradient(model).cpu())
    assert relative(grads[1], grads[0]) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(9, 3, 64), (16, 2, 128), (4, 1, 256), (8, 8, 96)])
def test_flex_attention_is_found_fit(dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> None:
    torch._dynamo.reset()
    for softcap in (None, 30.0):
        assert flaw.__wrapped__(Shape(heads, kv_heads, head_dim, dtype, GPU, windowed=True, softcap=softcap)) is None


def test_one_compilation_for_all_lengths() -> None:
    torch._dynamo.reset()
    counters.clear()
    for number, times in enumerate((9, 30, 100, 55)):
        segments = forest(number, 9, times)
        q, k, v, above = (x.detach().to(GPU) for x in inputs(segments, 3, 1, torch.bfloat16, dim=64))
        for x in (q, k, v):
            x.requires_grad_()
        results = []
        for out in (
            flex_tree_attention(q, k, v, FlexTree(segments, GPU), 0.125),
            tree_attention(q, k, v, blocks(segments), 0.125),
        ):
            results.append([out.detach(), *torch.autograd.grad(out, (q, k, v), above)])
        for a, b in zip(*results, strict=True):
            assert relative(a.float(), b.float()) < 3e-2
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("how", ["flex", "blocks"])
def test_no_way_needs_a_matrix_of_all_pairs(how: str) -> None:
    """Twice the tokens need about twice the memory, where anything T×T needs four times; and no T×T mask fits into it.

    Counted of blocks, without a GPU: 36 MB for 7,350 tokens, 73 MB for 14,700; a mask of a byte a pair would be 216 MB.
    """
    torch._dynamo.reset()
    peaks, tokens = [], []
    for times in (150, 300):
        segments = forest(3, 12, times)
        q, k, v, above = (x.detach().to(GPU) for x in inputs(segments, 8, 2, torch.bfloat16, dim=64))
        for x in (q, k, v):
            x.requires_grad_()
        for _ in range(2):  # the first one compiles, or makes the libraries' work spaces
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            if how == "flex":
                out = flex_tree_attention(q, k, v, FlexTree(segments, GPU), 0.125)
            else:
                out = tree_attention(q, k, v, blocks(segments), 0.125)
            torch.autograd.grad(out, (q, k, v), above)
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() - before
            del out
        peaks.append(peak)
        tokens.append(segments[-1].end)
    assert peaks[1] < 3 * peaks[0]
    assert peaks[1] < tokens[1] ** 2


@pytest.mark.parametrize("attention", ["blocks", "flex", "auto"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training(attention: str, precision: str, tmp_path: Path) -> None:
    torch._dynamo.reset()
    byte_model(head_dim=16, max_position_embeddings=1024, initializer_range=0.1).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    changes = {"device": "cuda", "learner.attention": attention, "learner.precision": precision}
    trainer = Trainer(config(tmp_path / "model", **changes), tmp_path / "run", console=quiet())
    before = [p.detach().clone() for p in trainer.model.parameters()]
    try:
        assert trainer.learner.attention == ("flex" if attention == "auto" else attention)
        trainer.run()
        assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    finally:
        trainer.close()
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in rows] == [0, 1, 2]
    assert all(r["rollout_ratio_max"] < (1.001 if precision == "float32" else 1.3) for r in rows)
    # A checkpoint that a GPU wrote goes on there.
    more = config(tmp_path / "model", **changes, steps=4)
    resumed = Trainer(more, tmp_path / "run", resume=True, console=quiet())
    try:
        resumed.run()
    finally:
        resumed.close()
    assert read_rows(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 3
