"""Drawing tokens from logits: exact entropies, log-probs of the distribution drawn from, a random stream a row."""

from __future__ import annotations

import numpy as np
import torch

from arpo_algo.engines.base import Sampling
from arpo_algo.entropy import entropy_from_logits
from arpo_algo.errors import TrainingError

#: Logits that tokens are drawn from at once on CPUs: what a dozen operations on them touch then stays in the cache.
CPU_CHUNK = 400_000


def draw(
    logits: torch.Tensor, samplings: list[Sampling], rngs: list[np.random.Generator]
) -> tuple[list[int], list[float], list[float]]:
    """Draw one token a row by inverting the CDF at the row's own uniform number.

    Args:
        logits: [rows, V].
        samplings, rngs: one a row.

    Returns:
        tokens, their log-probs under the distribution drawn from, and entropies of softmax(z / temperature) in nats;
        all computed in float32.

    Raises:
        TrainingError: NaN logits.
    """
    rows = max(1, CPU_CHUNK // logits.shape[1]) if logits.device.type == "cpu" else len(samplings)
    tokens: list[int] = []
    logprobs: list[float] = []
    entropies: list[float] = []
    for begin in range(0, len(samplings), rows):
        part = slice(begin, begin + rows)
        some = _draw(logits[part].float(), samplings[part], rngs[part])
        tokens += some[0]
        logprobs += some[1]
        entropies += some[2]
    return tokens, logprobs, entropies


def _draw(
    logits: torch.Tensor, samplings: list[Sampling], rngs: list[np.random.Generator]
) -> tuple[list[int], list[float], list[float]]:
    device = logits.device
    if any(s.temperature not in (0.0, 1.0) for s in samplings):
        logits = logits / torch.tensor([s.temperature or 1.0 for s in samplings], device=device)[:, None]
    logp = torch.log_softmax(logits, -1)
    p = logp.exp()
    entropies = -(p * logp).sum(-1)
    if entropies.isnan().any():  # masked logits (−inf) give 0·−inf; NaN logits stay NaN
        entropies = entropy_from_logits(logits)
        if entropies.isnan().any():
            raise TrainingError("the model gave non-finite logits; its weights have diverged")
    alike: dict[tuple[int, float], list[int]] = {}
    for i, sampling in enumerate(samplings):
        if sampling.temperature > 0 and (sampling.top_p < 1 or sampling.top_k):
            alike.setdefault((sampling.top_k, sampling.top_p), []).append(i)
    for (top_k, top_p), rows in alike.items():
        which = torch.tensor(rows, device=device)
        logp[which], p[which] = truncate(logp[which], top_k, top_p)
    u = torch.tensor([rng.random() for rng in rngs], dtype=torch.float64, device=device)
    tokens = _inverse_cdf(p, u)
    if any(s.temperature == 0 for s in samplings):
        greedy = torch.tensor([s.temperature == 0 for s in samplings], device=device)
        tokens = torch.where(greedy, logits.argmax(-1), tokens)
    chosen = logp.gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), chosen.tolist(), entropies.tolist()


def _inverse_cdf(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The token whose share of the cumulated mass holds ``u``. p: [rows, V] float32; u: [rows] in [0, 1).

    In two levels, block then token, with float64 sums: a float32 running sum over a large vocabulary is off
    by more than the rarest tokens weigh, and a float64 one over all of it costs as much as a layer.
    """
    rows, vocab = p.shape
    width = 256
    padded = torch.nn.functional.pad(p, (0, -vocab % width)).view(rows, -1, width)
    blocks = padded.sum(-1).double().cumsum(-1)
    target = u * blocks[:, -1]
    block = torch.searchsorted(blocks, target[:, None], right=True).clamp_(max=blocks.shape[1] - 1)
    below = torch.where(block > 0, blocks.gather(1, (block - 1).clamp_(min=0)), 0.0)
    inside = padded[torch.arange(rows, device=p.device), block[:, 0]].double().cumsum(-1)
    # Rounding between the levels must not carry the target past the block's last token of positive mass.
    offset = torch.minimum(target[:, None] - below, inside[:, -1:].nextafter(torch.zeros_like(inside[:, -1:])))
    token = torch.searchsorted(inside, offset.clamp_(min=0.0), right=True)
    return (block * width + token)[:, 0]


def truncate(logp: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep each row's top k tokens (0: all), then the smallest set whose mass reaches top_p; renormalise.

    Args:
        logp: [rows, V]. Of equal tokens the first count as larger.

    Returns:
        log-probs and probabilities, both [rows, V].
    """
    if top_k:
        ranked, order = _largest(logp, min(top_k, logp.shape[1]))
    else:
        ranked, order = logp.sort(dim=-1, descending=True, stable=True)
    if top_p < 1:
        mass = ranked.softmax(-1)
        ranked = ranked.masked_fill(mass.cumsum(-1) - mass >= top_p, -torch.inf)
    kept = torch.full_like(logp, -torch.inf).scatter_(1, order, ranked).log_softmax(-1)
    # Of the candidates only: exp(−inf), a vocabulary of them, is slow.
    return kept, torch.zeros_like(logp).scatter_(1, order, kept.gather(1, order).exp())


def _largest(logp: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a stable sort has first, values and places: ``topk`` is far faster, but takes any of equal ones."""
    values, places = logp.topk(k)
    smallest = values[:, -1:].clamp(min=torch.finfo(logp.dtype).min)  # masked tokens are no candidates
    candidates = int((logp >= smallest).sum(-1).max())
    if candidates > k:
        places = logp.topk(candidates).indices
    places = places.sort(-1).values
    values, order = logp.gather(1, places).sort(dim=-1, descending=True, stable=True)
    return values[:, :k], places.gather(1, order)[:, :k]
