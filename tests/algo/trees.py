"""Random trees and tiny models for the tests of this folder."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from arpo_algo.tree import Outcome, Tree

VOCAB = 97


def tiny_model(kind: str, seed: int = 0, **options: object) -> PreTrainedModel:
    """A random two-layer model of architecture ``kind`` with grouped-query attention."""
    sizes: dict[str, object] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = AutoConfig.for_model(kind, **{**sizes, **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def random_tree(rng: np.random.Generator, *, depth: int = 3, roots: int = 3, prompt: list[int] | None = None) -> Tree:
    """A tree with forks at several depths; log-probs are near those of a uniform policy."""

    def run(low: int, high: int) -> list[int]:
        return [int(t) for t in rng.integers(3, VOCAB, int(rng.integers(low, high)))]

    tree = Tree("test", [*(prompt or []), *run(3, 9)])
    open_nodes = [(0, 0)] * roots
    while open_nodes:
        above, level = open_nodes.pop()
        action = tree.add(above, "action", run(1, 7))
        action.logprobs = [float(x) for x in -np.log(VOCAB) + rng.normal(0, 0.3, len(action.tokens))]
        action.entropies = [float(np.log(VOCAB))] * len(action.tokens)
        if level == depth or (level > 0 and rng.random() < 0.3):
            action.outcome = Outcome(float(rng.integers(-1, 2)))
            continue
        result = tree.add(action.id, "result", run(2, 8))
        open_nodes += [(result.id, level + 1)] * int(rng.integers(1, 4))
    return tree
