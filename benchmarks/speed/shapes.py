"""Trees and models of a given shape, for measurements that need no trained policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from arpo_algo.tree import Outcome, Tree

#: Token ids are drawn from SmolLM2's vocabulary, the smallest of the models below.
VOCAB = 49152


@dataclass(frozen=True)
class Architecture:
    """A decoder's dimensions; embeddings are tied. ``layers`` may be fewer, so that a measurement is quick."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def layer_weights(self) -> int:
        """Matrix weights of one layer."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.inner


MODELS = {
    "smollm2-135m": Architecture(576, 1536, 30, 9, 3, 64, VOCAB),
    "qwen2.5-0.5b": Architecture(896, 4864, 24, 14, 2, 64, 151936),
    "qwen2.5-1.5b": Architecture(1536, 8960, 28, 12, 2, 128, 151936),
}


@dataclass(frozen=True)
class Shape:
    """A group as ARPO samples it. Ranges are inclusive and drawn uniformly; lengths in tokens.

    ``fork``: probability of a fork after a tool result while there are forks left (M − N of them); what is left at the
    end starts at the root, as in the sampler.
    """

    prompt: int = 512
    N: int = 8
    M: int = 16
    calls: tuple[int, int] = (3, 6)
    turn: tuple[int, int] = (16, 48)
    result: tuple[int, int] = (24, 80)
    fork: float = 0.3


def tree(shape: Shape, rng: np.random.Generator) -> Tree:
    """A random tree of that shape: random token ids, log-probs of a nearly uniform policy, rewards 0 or 1."""

    def tokens(between: tuple[int, int]) -> list[int]:
        return rng.integers(10, VOCAB, int(rng.integers(between[0], between[1] + 1))).tolist()  # type: ignore[no-any-return]

    def calls() -> int:
        return int(rng.integers(shape.calls[0], shape.calls[1] + 1))

    made = Tree("shape", tokens((shape.prompt, shape.prompt)))
    # (node that the next turn hangs below, calls still to come); breadth first, as trajectories advance together
    open_nodes = [(0, calls()) for _ in range(shape.N)]
    forks = shape.M - shape.N
    while open_nodes:
        above, left = open_nodes.pop(0)
        action = made.add(above, "action", tokens(shape.turn))
        n = len(action.tokens)
        action.logprobs = (-np.log(VOCAB) + rng.normal(0, 0.1, n)).tolist()
        action.entropies = [float(np.log(VOCAB))] * n
        if left == 0:
            action.outcome = Outcome(float(rng.integers(0, 2)))
        else:
            result = made.add(action.id, "result", tokens(shape.result))
            open_nodes.append((result.id, left - 1))
            if forks and rng.random() < shape.fork:
                forks -= 1
                open_nodes.append((result.id, left - 1))
        if not open_nodes and forks:
            open_nodes = [(0, calls()) for _ in range(forks)]
            forks = 0
    if len({leaf.outcome.reward for leaf in made.leaves() if leaf.outcome}) == 1:  # a group needs a difference
        made.leaves()[0].outcome = Outcome(1.0 - made.leaves()[0].outcome.reward)  # type: ignore[union-attr]
    return made


def model(
    layers: int, seed: int = 0, context: int = 8192, name: str = "smollm2-135m", device: torch.device | None = None
) -> PreTrainedModel:
    """A random llama of that shape, with as many layers as asked for."""
    like = MODELS[name]
    config = LlamaConfig(
        vocab_size=like.vocab,
        hidden_size=like.hidden,
        intermediate_size=like.inner,
        num_hidden_layers=layers,
        num_attention_heads=like.heads,
        num_key_value_heads=like.kv_heads,
        head_dim=like.head_dim,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(seed)
    made: torch.nn.Module = LlamaForCausalLM(config)
    return cast(PreTrainedModel, made.to(device))


def table(rows: Sequence[dict[str, object]]) -> str:
    """Rows of one kind as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    return "\n".join(lines + ["| " + " | ".join(str(row[n]) for n in names) + " |" for row in rows])
