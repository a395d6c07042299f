"""Packed gradient == flat gradient, for every registered algorithm, against a flat batch written independently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from forest import flat_loss_gradient
from trees import random_tree, tiny_model

from arpo_algo.advantages import term_weights
from arpo_algo.algorithms import list_algorithms, make
from arpo_algo.attention import use_arpo_attention
from arpo_algo.packing import Credited, pack, split
from arpo_algo.scoring import loss_of, score
from arpo_algo.tree import Tree

CASES = [
    *((name, {}) for name in list_algorithms()),
    ("arpo", {"attribution": "hard", "shared_once": True}),
    ("grpo", {"kl_coef": 0.2, "kl": "k3", "entropy_coef": 0.05, "tis_cap": 1.5}),
    ("reinforce_pp", {"kl_coef": 0.2}),
    ("gspo", {"clip_low": 0.05, "clip_high": 0.05}),
    ("cispo", {"ratio_max": 1.1}),
]


def forest(seed: int) -> list[Tree]:
    rng = np.random.default_rng(seed)
    trees = [random_tree(rng, depth=2) for _ in range(2)]
    for tree in trees:
        for node in tree.nodes:
            if node.kind == "action":
                n = len(node.tokens)
                node.ref_logprobs = [x + float(rng.normal(0, 0.2)) for x in node.logprobs]
                node.entropies = [float(x) for x in rng.uniform(0, 3, n)]
                node.value = float(rng.normal())
    assert max(len(n.children) for t in trees for n in t.nodes[1:]) > 1, "a fork below the root"
    return trees


@pytest.mark.parametrize(("name", "options"), CASES)
def test_packed_equals_flat(name: str, options: dict) -> None:
    algorithm = make(name, **options)
    trees = forest(11)
    credits = [dict(c) for c in algorithm.advantages(trees)]
    returns = algorithm.returns(trees) if hasattr(algorithm, "returns") else None
    weights = term_weights(
        trees, algorithm.aggregation, shared_once=algorithm.shared_once, length=getattr(algorithm, "length", None)
    )
    model = tiny_model("llama")
    head = torch.nn.Linear(32, 1) if "values" in algorithm.needs else None
    if head is not None:
        torch.nn.init.constant_(head.weight, 0.05)
    flat = flat_loss_gradient(model, algorithm, trees, credits, weights, returns, head)

    use_arpo_attention(model)
    parameters = [*model.parameters(), *(head.parameters() if head is not None else ())]
    for p in parameters:
        p.grad = None
    items = [Credited(*x) for x in zip(trees, credits, weights, returns or [None] * len(trees), strict=True)]
    groups = split(items, max(t.n_tokens for t in trees))
    assert len(groups) == 2, "several packs: partial sums must add up"
    for group in groups:
        made = pack(group)
        assert sorted(made.target.tolist()) == sorted(
            t for c in group for n in c.tree.nodes if n.kind == "action" for t in n.tokens
        ), "only action tokens are ever predicted"
        out = score(model, made, value_head=head, entropy_gradient="entropy" in algorithm.needs)
        loss_of(made, out, algorithm, made.rollout_logp).loss.backward()
    packed = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    assert float(flat.norm()) > 1e-6
    assert float((packed - flat).norm() / flat.norm()) < 1e-5
