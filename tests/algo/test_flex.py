"""Flex attention of trees: the same numbers as blocks, from masks that never exist; chosen only where it works."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from typing import Any

import flex_on_cpu
import numpy as np
import pytest
import torch
import torch.nn.attention.flex_attention as flex
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gradient import KINDS, SYSTEM, credited, gradient, packed_gradient, relative
from test_kernels import dense_mask, random_segments
from torch._dynamo.utils import counters
from trees import random_tree, tiny_model

from arpo_algo import attention, flexattention
from arpo_algo.algorithms import make
from arpo_algo.attention import TreePlan, use_arpo_attention
from arpo_algo.errors import ConfigError
from arpo_algo.flexattention import FlexTree, Shape, disagreement, flaw, flex_tree_attention
from arpo_algo.learner import Learner
from arpo_algo.optimizer import LearnerConfig
from arpo_algo.packing import pack, split
from arpo_algo.scoring import loss_of, score
from arpo_algo.treeattention import Segment, blocks, tree_attention

CPU = torch.device("cpu")
WINDOWS = st.one_of(st.none(), st.integers(1, 400))


def forest(seed: int, count: int, times: int) -> list[Segment]:
    """Random segments, ``times`` as long, so that they span blocks."""
    small = random_segments(np.random.default_rng(seed), count)
    return [
        Segment(s.begin * times, s.end * times, s.start * times, tuple((a * times, b * times) for a, b in s.above))
        for s in small
    ]


def inputs(segments: list[Segment], heads: int, kv_heads: int, dtype: torch.dtype, dim: int = 4) -> Any:
    length = segments[-1].end
    generator = torch.Generator().manual_seed(length)
    q, k, v = (
        torch.randn(1, h, length, dim, dtype=dtype, generator=generator, requires_grad=True)
        for h in (heads, kv_heads, kv_heads)
    )
    return q, k, v, torch.randn(1, length, heads, dim, dtype=dtype, generator=generator)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 30), WINDOWS)
def test_masks_of_positions_and_of_blocks(seed: int, count: int, times: int, window: int | None) -> None:
    check_masks(forest(seed, count, times), window)


@pytest.mark.parametrize("window", [None, 127, 128, 129, 255, 256, 257])
@pytest.mark.parametrize("end", [383, 384, 385])
def test_masks_where_a_tree_ends_at_a_block_s_edge(end: int, window: int | None) -> None:
    check_masks([Segment(0, 128, 0), Segment(128, end, 128, ((0, 128),)), Segment(end, 520, 0)], window)


def check_masks(segments: list[Segment], window: int | None) -> None:
    tree = FlexTree(segments, CPU)
    made = tree.mask(window)
    at = torch.arange(tree.padded)
    seen = made.mask_mod(0, 0, at[:, None], at[None])
    assert torch.equal(seen[: tree.length, : tree.length], dense_mask(segments, window))
    assert not seen[: tree.length, tree.length :].any(), "padding is not seen"
    assert seen.any(1).all(), "every row of the softmax sees something, padding too"

    # What the kernel does: nothing at blocks that are not listed, no look at the mask in full ones.
    tiles = seen.view(len(at) // 128, 128, -1, 128).transpose(1, 2)
    mixed, full = torch.zeros(2, *tiles.shape[:2], dtype=torch.bool)
    for listed, number, index in (
        (mixed, made.kv_num_blocks[0, 0], made.kv_indices[0, 0]),
        (full, made.full_kv_num_blocks[0, 0], made.full_kv_indices[0, 0]),
    ):
        for row, n, columns in zip(listed, number.tolist(), index.tolist(), strict=True):
            row[columns[:n]] = True
            assert int(row.sum()) == n, "each block once"
    some, all_ = tiles.flatten(2).any(-1), tiles.flatten(2).all(-1)
    assert not (mixed & full).any()
    assert not (some & ~(mixed | full)).any()
    assert not (full & ~all_).any()
    if window is None:
        assert torch.equal(full, all_)
        assert torch.equal(mixed, some & ~all_), "no work without need"


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 9),
    times=st.integers(1, 9),
    window=st.one_of(st.none(), st.integers(1, 150)),
    softcap=st.sampled_from([None, 1.5]),
    scale=st.sampled_from([0.5, 0.7]),  # head size 4: the first is the usual one
    groups=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_values_and_gradients_are_those_of_blocks(
    seed: int, count: int, times: int, window: int | None, softcap: float | None, scale: float,
    groups: tuple[int, int], dtype: torch.dtype,
) -> None:  # fmt: skip
    segments = forest(seed, count, times)
    q, k, v, above = inputs(segments, *groups, dtype)
    want = tree_attention(q, k, v, blocks(segments), scale, window, softcap)
    wanted = [want.detach(), *torch.autograd.grad(want, (q, k, v), above)]
    with pytest.MonkeyPatch.context() as patch:
        flex_on_cpu.use(patch)
        got = flex_tree_attention(q, k, v, FlexTree(segments, CPU), scale, window, softcap)
        results = [got.detach(), *torch.autograd.grad(got, (q, k, v), above)]
    for a, b in zip(results, wanted, strict=True):
        assert a.shape == b.shape
        assert float((a - b).norm()) < 1e-5 * (1 + float(b.norm()))


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_packed_gradients_of_whole_models(kind: str, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    trees = [random_tree(rng, prompt=SYSTEM), random_tree(rng, depth=4, prompt=SYSTEM), random_tree(rng, prompt=SYSTEM)]
    algorithm = make("arpo")
    items = credited(trees, algorithm)
    model = tiny_model(kind, **options)
    want = packed_gradient(model, items, algorithm, size=10_000)
    flex_on_cpu.use(monkeypatch)
    for checkpointing in (False, True) if kind == "llama" else (False,):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
        model.zero_grad()
        made = pack(items)
        out = score(model, made, attention="flex", head_rows=16)
        loss_of(made, out, algorithm, made.rollout_logp).loss.backward()
        assert relative(gradient(model), want) < 1e-5


def test_rows_of_packs_lie_depth_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees that share a prompt's beginning, parts of trees, trajectories apart: all are rows that flex can take."""
    trees = [random_tree(np.random.default_rng(i), depth=4, prompt=SYSTEM) for i in range(3)]
    items = credited(trees, make("grpo"))
    longest = max(leaf.end for tree in trees for leaf in tree.leaves())
    rows = [pack(items), pack(items, share=False), *(pack(group) for group in split(items, longest + 5))]
    assert any(item.only is not None for group in split(items, longest + 5) for item in group)
    for row in rows:
        tree = FlexTree(row.segments, CPU)
        at = torch.arange(tree.length)
        seen = tree.mask(None).mask_mod(0, 0, at[:, None], at[None])
        assert torch.equal(seen, dense_mask(row.segments, None))
        assert torch.equal(tree._depth[: tree.length], row.positions.int())


def test_segments_in_another_order_are_refused() -> None:
    siblings_first = [Segment(0, 3, 0), Segment(3, 5, 3, ((0, 3),)), Segment(5, 7, 3, ((0, 3),))]
    FlexTree(siblings_first, CPU)
    child_after_uncle = [*siblings_first, Segment(7, 9, 5, ((0, 3), (3, 5)))]
    assert len(blocks(child_after_uncle)) == 4, "blocks can"
    with pytest.raises(ValueError, match="not in depth-first order"):
        FlexTree(child_after_uncle, CPU)


def test_a_mask_is_made_once_a_window_and_shared_by_layers() -> None:
    tree = FlexTree(forest(0, 5, 9), CPU)
    assert tree.mask(None) is tree.mask(None)
    assert tree.mask(7) is tree.mask(7)
    assert tree.mask(7) is not tree.mask(8)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the compiler's own
def test_one_compilation_for_all_lengths_windows_and_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiler sees, forward and backward, up to the kernels: traced once a kind of layer."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    flex_on_cpu.use(monkeypatch, flexattention._kernel.__wrapped__())
    cases = [(1, None, None, 0.5), (30, None, None, 0.5), (30, 5, None, 0.5), (15, 90, None, 0.5),
             (20, 40, 1.5, 0.5), (9, 50, 2.5, 0.7)]  # fmt: skip
    for number, (times, window, softcap, scale) in enumerate(cases):
        segments = forest(number, 5, times)
        q, k, v, above = inputs(segments, 3, 1, torch.float32)
        want = tree_attention(q, k, v, blocks(segments), scale, window, softcap)
        got = flex_tree_attention(q, k, v, FlexTree(segments, CPU), scale, window, softcap)
        for a, b in zip(
            torch.autograd.grad(got, (q, k, v), above), torch.autograd.grad(want, (q, k, v), above), strict=True
        ):
            assert torch.allclose(a, b, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 3, "plain, windowed, windowed with a cap"
    # Autocast makes no further variant: a plan has cast by then what it is given.
    plan = TreePlan(forest(9, 5, 20), "flex")
    for enabled in (False, True):
        q, k, v, _ = inputs(plan.segments, 3, 1, torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            assert plan.attend(0, q, k, v, 0.5, None).dtype == torch.bfloat16
    assert counters["stats"]["unique_graphs"] == 4, "another dtype"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="torch compiles with gcc here, which is not installed")
@pytest.mark.filterwarnings("default")  # of the compiler's own
def test_compiled_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has a compiled kernel for CPUs too, forward and for fixed lengths: it reads the same lists of blocks."""
    torch._dynamo.reset()
    flex_on_cpu.use(monkeypatch, torch.compile(flex.flex_attention, dynamic=False, fullgraph=True))
    segments = forest(4, 7, 20)
    q, k, v, _ = (x.detach() for x in inputs(segments, 4, 2, torch.float32, dim=16))
    with torch.no_grad():
        want = tree_attention(q, k, v, blocks(segments), 0.25, 100, None)
        got = flex_tree_attention(q, k, v, FlexTree(segments, CPU), 0.25, 100, None)
    assert torch.allclose(got, want, atol=1e-5)


# ------------------------------------------------------------------ the choice


GPU = Shape(4, 2, 64, torch.bfloat16, torch.device("cuda"))


def test_the_comparison_agrees_and_sees_a_wrong_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    flex_on_cpu.use(monkeypatch)
    shape = Shape(3, 1, 16, torch.float32, CPU, windowed=True, softcap=2.0)
    assert disagreement(shape) < 1e-5
    assert disagreement(replace(shape, dtype=torch.bfloat16)) < flexattention._TOLERANCE[torch.bfloat16]
    monkeypatch.setattr(flexattention, "_rule", lambda end: lambda b, h, q, k: k <= q)
    assert disagreement(shape) > 0.1, "siblings are seen"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"device": CPU}, "a backward pass on CUDA GPUs only, the model is on cpu"),
        ({"dtype": torch.float64}, "takes float32, float16, bfloat16, not float64"),
        ({"head_dim": 8}, "head sizes of 16 to 256, the model's is 8"),
        ({"head_dim": 512}, "head sizes of 16 to 256, the model's is 512"),
    ],
)
def test_what_flex_cannot_do_is_known_before_trying(change: dict, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flexattention, "disagreement", lambda shape: pytest.fail("tried all the same"))
    monkeypatch.setattr(flexattention, "has_triton", lambda: True)
    assert why in str(flaw.__wrapped__(replace(GPU, **change)))


def test_what_does_not_work_on_the_machine_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = flaw.__wrapped__
    monkeypatch.setattr(flexattention, "has_triton", lambda: False)
    assert "Triton" in ask(GPU)
    monkeypatch.setattr(flexattention, "has_triton", lambda: True)
    for apart, why in ((0.01, None), (0.2, "differ from those of matrix products by 0.2"), (float("nan"), "nan")):
        monkeypatch.setattr(flexattention, "disagreement", lambda shape, apart=apart: apart)
        said = ask(GPU)
        assert said is None if why is None else why in said

    def out_of_shared_memory(shape: Shape) -> float:
        raise RuntimeError("out of resource: shared memory\nmore")

    monkeypatch.setattr(flexattention, "disagreement", out_of_shared_memory)
    assert ask(GPU) == "its kernels do not compile or run here: RuntimeError: out of resource: shared memory"


def test_the_configuration_names_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="unknown attention 'flx'; did you mean 'flex'"):
        LearnerConfig(attention="flx")  # type: ignore[arg-type]
    model = tiny_model("llama")
    assert Learner(model, LearnerConfig()).attention == "blocks"
    with pytest.raises(ConfigError, match=r"learner\.attention=flex: .*the model is on cpu; take auto or blocks"):
        Learner(model, LearnerConfig(attention="flex"))

    # A learner that was told to use flex does so in every forward.
    monkeypatch.setattr(attention, "flaw", lambda shape: None)
    flex_on_cpu.use(monkeypatch)
    learner = Learner(model, LearnerConfig(attention="flex", precision="float32", epochs=2))
    monkeypatch.setattr(attention, "tree_attention", lambda *a: pytest.fail("blocks were used"))
    assert learner.update([random_tree(np.random.default_rng(0))], make("grpo", kl_coef=0.0))["grad_norm"] > 0
    learner.imitate([random_tree(np.random.default_rng(0))])


def test_auto_on_a_gpu_says_when_it_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Shape] = []

    def answer(shape: Shape) -> str | None:
        asked.append(shape)
        return None if shape.windowed else "no Triton"

    monkeypatch.setattr(attention, "flaw", answer)

    def resolve(wanted: Any, model: Any) -> str:
        return attention.resolve_tree_attention(wanted, model.config, GPU.device, torch.bfloat16)

    with pytest.warns(UserWarning, match="trees are computed in blocks, which is slower .*: no Triton"):
        assert resolve("auto", tiny_model("llama")) == "blocks"
    gemma = tiny_model(*KINDS[6][:1], **KINDS[6][1])
    assert resolve("auto", gemma) == "flex"
    assert asked[1] == Shape(4, 2, 8, torch.bfloat16, GPU.device, windowed=True, softcap=2.0)
    assert resolve("blocks", gemma) == "blocks"
    assert len(asked) == 2


def test_a_plan_is_what_models_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a model, both plans; use_cache and masks stay refused."""
    flex_on_cpu.use(monkeypatch)
    model = tiny_model("qwen3")
    use_arpo_attention(model)
    made = pack(credited([random_tree(np.random.default_rng(2))], make("grpo")))
    ids = {"input_ids": made.tokens[None], "position_ids": made.positions[None], "use_cache": False}
    with torch.no_grad():
        one = model(**ids, plan=TreePlan(made.segments)).logits
        other = model(**ids, plan=TreePlan(made.segments, "flex")).logits
    assert torch.allclose(one, other, atol=1e-5)
