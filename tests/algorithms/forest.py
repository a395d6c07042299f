"""Small trees written by hand, and a reference that knows no code of packing, attention or the learner."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from arpo_algo.algorithms.contract import Algorithm
from arpo_algo.losses import LossBatch
from arpo_algo.tree import Outcome, Tree


def fill(tree: Tree, rewards: dict[int, float]) -> Tree:
    for node, reward in rewards.items():
        tree.nodes[node].outcome = Outcome(reward)
    for node in tree.nodes:
        if node.kind == "action":
            node.logprobs = [-1.0] * len(node.tokens)
            node.entropies = [1.0] * len(node.tokens)
    return tree


def star(rewards: Sequence[float], tokens: int = 2) -> Tree:
    """A leaf a reward, each of ``tokens`` tokens, all from the root."""
    tree = Tree("star", [1, 2])
    for i in range(len(rewards)):
        tree.add(0, "action", [3 + i] * tokens)
    return fill(tree, {i + 1: r for i, r in enumerate(rewards)})


def fork() -> Tree:
    """Leaf 2 alone (r 0). Node 1 (2 tokens) -> result 3 -> leaves 4 (r 1, 1 token), 5 (r 2, 3 tokens)."""
    tree = Tree("fork", [1, 2, 3])
    tree.add(0, "action", [4, 5])
    tree.add(0, "action", [6])
    tree.add(1, "result", [7], text="seen")
    tree.add(3, "action", [8])
    tree.add(3, "action", [9, 10, 11])
    return fill(tree, {2: 0.0, 4: 1.0, 5: 2.0})


def comb() -> Tree:
    """Two forks on one path, and a second root.

    1 -> result 2 -> 3 -> result 4 -> leaves 5 (r 1), 6 (r 0);  result 2 -> leaf 7 (r 1);  root 8 -> leaf (r 0)
    """
    tree = Tree("comb", [1, 2])
    tree.add(0, "action", [3])
    tree.add(1, "result", [4], text="a")
    tree.add(2, "action", [5, 6])
    tree.add(3, "result", [7], text="b")
    tree.add(4, "action", [8])
    tree.add(4, "action", [9])
    tree.add(2, "action", [10])
    tree.add(0, "action", [11])
    return fill(tree, {5: 1.0, 6: 0.0, 7: 1.0, 8: 0.0})


def flat_loss_gradient(
    model: PreTrainedModel,
    algorithm: Algorithm,
    trees: Sequence[Tree],
    credits: Sequence[dict],
    weights: Sequence[dict],
    returns: Sequence[dict] | None = None,
    head: torch.nn.Module | None = None,
) -> torch.Tensor:
    """Each trajectory alone, token after token, through the stock model; gradients added."""
    model.set_attn_implementation("sdpa")
    parameters = [*model.parameters(), *(head.parameters() if head is not None else ())]
    for p in parameters:
        p.grad = None
    for number, tree in enumerate(trees):
        for leaf in tree.leaves():
            ids: list[int] = []
            rows = []  # (source, target, old, ref, advantage, weight, return)
            at: int | None = leaf.id
            path = []
            while at is not None:
                path.insert(0, tree.nodes[at])
                at = tree.nodes[at].parent
            for node in path:
                for i, token in enumerate(node.tokens):
                    if node.kind == "action":
                        key = leaf.id, node.id
                        a = credits[number][key]
                        rows.append(
                            (
                                len(ids) - 1,
                                token,
                                node.logprobs[i],
                                node.ref_logprobs[i] if node.ref_logprobs else 0.0,
                                a[i] if isinstance(a, list) else a,
                                weights[number][key],
                                0.0 if returns is None else returns[number][key],
                            )
                        )
                    ids.append(token)
            hidden = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            logp = model.get_output_embeddings()(hidden).log_softmax(-1)
            source, target = torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])
            old, ref, advantage, weight, goal = (torch.tensor([r[i] for r in rows]) for i in range(2, 7))
            batch = LossBatch(
                logp[source, target],
                old,
                old,
                advantage,
                -(logp.exp() * logp).sum(-1)[source],
                torch.zeros_like(source),
                torch.zeros_like(source),
                weight,
                ref,
                None if head is None else head(hidden[source])[:, 0],
                None if returns is None else goal,
            )
            algorithm.loss(batch).loss.backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
