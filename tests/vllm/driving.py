"""Drives any engine to its end; recomputes what it said with a plain forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from arpo_algo.engines.base import Engine, Event, Finished, Probed, Request, Sampling
from arpo_algo.entropy import entropy_from_logits
from arpo_algo.rendering import Renderer

GREEDY = Sampling(0.0)


def prompt(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(Renderer(tokenizer).prompt([{"role": "user", "content": text}]))


def run(engine: Engine, requests: Sequence[Request]) -> tuple[dict[int, Finished], dict[int, Probed]]:
    """All requests at once, to the end: what finished and what was probed, by id."""
    for request in requests:
        engine.submit(request)
    events: list[Event] = []
    while engine.busy:
        events += engine.step()
    finished = {e.id: e for e in events if isinstance(e, Finished)}
    return finished, {e.id: e for e in events if isinstance(e, Probed)}


@torch.no_grad()
def recompute(model: Any, before: Sequence[int], event: Finished) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of the sampled tokens and exact entropies, by a plain forward pass."""
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([[*before, *event.tokens]])
    logits = model(ids).logits[0, len(before) - 1 : -1].float()
    logprobs = logits.log_softmax(-1).gather(-1, torch.tensor(event.tokens)[:, None])[:, 0]
    return logprobs, entropy_from_logits(logits)
