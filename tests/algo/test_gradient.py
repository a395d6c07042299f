"""The packed update equals the flat one: an independent flat batch, stock attention, one forward a trajectory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from trees import random_tree, tiny_model

from arpo_algo.advantages import term_weights
from arpo_algo.algorithms import make
from arpo_algo.algorithms.contract import Algorithm
from arpo_algo.attention import use_arpo_attention
from arpo_algo.errors import ConfigError
from arpo_algo.losses import LossBatch
from arpo_algo.packing import Credited, chains, pack, split
from arpo_algo.scoring import loss_of, score
from arpo_algo.tree import Outcome, Tree

SYSTEM = list(range(3, 20))
#: Both layer types at once, a window shorter than a path, an unusual scale.
GEMMA = {
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 16,
    "initializer_range": 0.2,
}
KINDS = [
    ("llama", {}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {}),
    ("phi3", {}),
    ("mistral", {"sliding_window": 6}),
    ("smollm3", {}),
    ("gemma2", GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    ("gemma3_text", GEMMA),
]


def credited(trees: Sequence[Tree], algorithm: Algorithm) -> list[Credited]:
    weights = term_weights(trees, algorithm.aggregation, shared_once=algorithm.shared_once)
    return [Credited(*x) for x in zip(trees, algorithm.advantages(trees), weights, strict=True)]


def gradient(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def packed_gradient(model: PreTrainedModel, items: list[Credited], algorithm: Algorithm, size: int) -> torch.Tensor:
    use_arpo_attention(model)
    model.zero_grad()
    for group in split(items, size):
        made = pack(group)
        loss_of(made, score(model, made, head_rows=16), algorithm, made.rollout_logp).loss.backward()
    return gradient(model)


def flat_gradient(model: PreTrainedModel, items: list[Credited], algorithm: Algorithm) -> torch.Tensor:
    """No code of packing or attention: each trajectory alone through the stock model."""
    # sdpa knows no soft cap; for gemma2 the stock implementation is eager, with masks that transformers makes.
    model.set_attn_implementation("eager" if model.config.model_type == "gemma2" else "sdpa")
    model.zero_grad()
    for number, item in enumerate(items):
        for leaf in item.tree.leaves():
            ids = item.tree.tokens(leaf.id)
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            rows = [
                (n.start + i - 1, t, n.logprobs[i], item.credit[leaf.id, n.id], item.weight[leaf.id, n.id], n.id)
                for n in item.tree.path(leaf.id)
                if n.kind == "action"
                for i, t in enumerate(n.tokens)
            ]
            source, target, old, advantage, weight, node = (torch.tensor(x) for x in zip(*rows, strict=True))
            own = logp[source, target]
            batch = LossBatch(
                own, old, old, advantage.float(), own.detach(), torch.full_like(source, number), node, weight.float()
            )
            algorithm.loss(batch).loss.backward()
    return gradient(model)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("attribution", ["soft", "hard"])
def test_packed_gradient_equals_flat_gradient(kind: str, options: dict, attribution: str) -> None:
    rng = np.random.default_rng(1)
    # Three trees with forks at several depths; two share a system prompt, all are packed in one row.
    trees = [random_tree(rng, prompt=SYSTEM), random_tree(rng, depth=4, prompt=SYSTEM), random_tree(rng, prompt=SYSTEM)]
    algorithm = make("arpo", attribution=attribution)
    items = credited(trees, algorithm)
    model = tiny_model(kind, **options)
    packed = packed_gradient(model, items, algorithm, size=10_000)
    flat = flat_gradient(model, items, algorithm)
    assert float(flat.norm()) > 1e-3
    assert relative(packed, flat) < 1e-5


@pytest.mark.parametrize("options", [{"aggregation": "sequence"}, {"shared_once": True}, {"dual_clip": None}])
def test_equality_holds_for_every_weighting(options: dict) -> None:
    trees = [random_tree(np.random.default_rng(i)) for i in range(3)]
    algorithm = make("arpo", **options)
    items = credited(trees, algorithm)
    model = tiny_model("llama")
    size = max(t.n_tokens for t in trees) + 1  # several packs
    assert len(split(items, size)) > 1
    assert relative(packed_gradient(model, items, algorithm, size), flat_gradient(model, items, algorithm)) < 1e-5


def test_gradient_checkpointing_changes_nothing() -> None:
    trees = [random_tree(np.random.default_rng(3))]
    algorithm = make("grpo")
    items = credited(trees, algorithm)
    model = tiny_model("qwen3")
    plain = packed_gradient(model, items, algorithm, 10_000)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert relative(packed_gradient(model, items, algorithm, 10_000), plain) < 1e-6


def test_each_unique_token_is_computed_once() -> None:
    trees = [random_tree(np.random.default_rng(i), prompt=SYSTEM) for i in range(2)]
    algorithm = make("grpo")
    made = pack(credited(trees, algorithm))
    shared = next(
        i for i, (a, b) in enumerate(zip(trees[0].nodes[0].tokens, trees[1].nodes[0].tokens, strict=False)) if a != b
    )
    assert len(made.tokens) == sum(t.n_tokens for t in trees) - shared
    assert len(made.term) == sum(
        len(n.tokens) for t in trees for leaf in t.leaves() for n in t.path(leaf.id) if n.kind == "action"
    )
    flat = pack([c for t in trees for c in credited(chains(t), algorithm)])
    assert len(flat.term) == len(made.term)


def test_nothing_flows_into_tool_or_prompt_tokens() -> None:
    tree = random_tree(np.random.default_rng(5))
    made = pack(credited([tree], make("grpo")))
    actions = [t for n in tree.walk() if n.kind == "action" for t in n.tokens]
    assert sorted(made.target.tolist()) == sorted(actions)


def test_void_trajectories_are_left_out() -> None:
    tree = random_tree(np.random.default_rng(6))
    spoilt = tree.leaves()[0]
    before = pack(credited([tree], make("grpo")))
    spoilt.outcome = Outcome(0.0, void=True)
    after = pack(credited([tree], make("grpo")))
    assert len(after.term) < len(before.term)
    assert len(after.tokens) <= len(before.tokens)


def test_soft_and_hard_agree_at_ratio_one_with_token_mean() -> None:
    """The reference's observation: they differ only by clipping, 1/|y| and minibatching."""
    trees = [random_tree(np.random.default_rng(8))]
    model = tiny_model("llama")
    got = []
    for attribution in ("soft", "hard"):
        algorithm = make("arpo", attribution=attribution, dual_clip=None)
        items = credited(trees, algorithm)
        use_arpo_attention(model)
        model.zero_grad()
        made = pack(items)
        loss_of(made, score(model, made), algorithm, None).loss.backward()  # old policy = current: ratio 1
        got.append(gradient(model))
    assert relative(*got) < 1e-5


@pytest.mark.parametrize("name", ["arpo", "gspo"])
def test_a_tree_larger_than_a_pack_is_dealt_out_by_trajectories(name: str) -> None:
    trees = [random_tree(np.random.default_rng(9)), random_tree(np.random.default_rng(10))]
    algorithm = make(name)
    items = credited(trees, algorithm)
    longest = max(leaf.end for tree in trees for leaf in tree.leaves())
    size = longest + 5
    assert all(tree.n_tokens > size for tree in trees)
    packs = split(items, size)
    assert all(len(pack(group).tokens) <= size for group in packs)
    assert sum(len(item.leaves()) for group in packs for item in group) == sum(len(t.leaves()) for t in trees)
    model = tiny_model("llama")
    whole = packed_gradient(model, items, algorithm, 10_000)
    assert relative(packed_gradient(model, items, algorithm, size), whole) < 1e-5


def test_a_trajectory_larger_than_a_pack_is_refused() -> None:
    tree = random_tree(np.random.default_rng(9))
    longest = max(leaf.end for leaf in tree.leaves())
    with pytest.raises(ConfigError, match=r"raise learner\.pack_tokens"):
        split(credited([tree], make("grpo")), longest - 1)


def test_forward_without_a_plan_is_refused() -> None:
    model = tiny_model("llama")
    use_arpo_attention(model)
    with pytest.raises(RuntimeError, match="needs plan="):
        model(torch.tensor([[1, 2, 3]]))
    with pytest.raises(ConfigError, match="attention_dropout"):
        use_arpo_attention(tiny_model("llama", attention_dropout=0.1))
