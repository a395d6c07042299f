"""Token entropy: exact from logits, bounded from top-k log-probs, and the mean that branching compares.

H_t = −Σ_j p_tj ln p_tj over the vocabulary, p = softmax(z / temperature) (ARPO, Eq. 1). What is compared
between trajectory start and tool result is the *mean* over the first k tokens divided by ln|V|, so that
ΔH lies in [−1, 1]. The released code summed over concatenated top-10 log-probs of all k tokens, without
renormalising: that correlates 0.27 with the exact value (k=20 lower bound: 0.995).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def entropy_from_logits(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Exact entropy in nats of the last dimension. ``logits``: [..., V], any float dtype; returns float32 [...]."""
    logp = torch.log_softmax(logits.float() / temperature, dim=-1)
    # p·ln p is 0 where p is 0, also when ln p is −inf (masked logits); NaN stays NaN.
    return -torch.where(logp == -math.inf, 0.0, logp.exp() * logp).sum(-1)


def entropy_bounds_from_top_logprobs(logprobs: Sequence[float], vocab_size: int) -> tuple[float, float]:
    """Bounds on the entropy (nats) when only the k largest log-probs are known.

    With H_k the known part, r = 1 − Σp the rest and p_k the smallest kept probability, each unknown
    probability is at most p_k, so  H_k − r·ln p_k ≤ H ≤ H_k + r·ln((V − k)/r)  (field notes).

    Raises:
        ValueError: no log-probs, or more than ``vocab_size``.
    """
    k = len(logprobs)
    if not 0 < k <= vocab_size:
        raise ValueError(f"need between 1 and vocab_size={vocab_size} log-probs, got {k}")
    probs = [math.exp(x) for x in logprobs]
    known = -sum(p * x for p, x in zip(probs, logprobs, strict=True) if p > 0)
    rest = max(0.0, 1.0 - sum(probs))
    if rest <= 0.0 or k == vocab_size:
        return known, known
    upper = known + rest * math.log((vocab_size - k) / rest)
    return min(known - rest * min(logprobs), upper), upper


def normalised_mean(entropies: Sequence[float], k: int, vocab_size: int) -> float:
    """Mean of the first ``k`` entropies (nats; fewer when the turn was shorter) divided by ln|V|; in [0, 1].

    Raises:
        ValueError: there is nothing to average.
    """
    head = entropies[:k]
    if not head:
        raise ValueError("no entropies to average: the turn has no tokens")
    return sum(head) / len(head) / math.log(vocab_size)
