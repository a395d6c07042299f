"""What engines share that compute nothing themselves: the progress of a request, entropies from top-k log-probs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from arpo_algo.engines.base import Event, Finished, Probed, Request
from arpo_algo.engines.stopping import Stopping
from arpo_algo.entropy import entropy_bounds_from_top_logprobs
from arpo_algo.errors import TrainingError


@dataclass(slots=True)
class Progress:
    """A request under way: collects its tokens and says when its probe is due and when it ends."""

    request: Request
    stopping: Stopping
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)

    def add(self, token: int, logprob: float, entropy: float) -> Event | None:
        """Take the next sampled token; the event it causes, if any.

        Raises:
            TrainingError: the log-prob is not a number.
        """
        request = self.request
        if not math.isfinite(logprob):
            raise TrainingError(
                f"the engine gave the log-prob {logprob} for token {token} of request {request.id}; "
                "the model's weights have diverged"
            )
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.entropies.append(entropy)
        reason = self.stopping.reason(self.tokens, request.stop, request.max_tokens)
        if reason is not None:
            text = str(self.stopping.tokenizer.decode(self.tokens, skip_special_tokens=True))
            return Finished(request.id, tuple(self.tokens), tuple(self.logprobs), tuple(self.entropies), text, reason)
        if len(self.tokens) == request.probe:
            return Probed(request.id, tuple(self.entropies))
        return None


class TopEntropy:
    """Entropy in nats as its lower bound from the k largest log-probs (:mod:`arpo_algo.entropy` has the formula).

    The bound is never above the entropy of the distribution that the log-probs are of, and at most ``width``
    below it; the mean and the largest width seen are kept, so that a run can say how good its entropies were.
    """

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.tokens = 0
        self.total_width = 0.0
        self.largest_width = 0.0

    def __call__(self, logprobs: Sequence[float]) -> float:
        """``logprobs``: the k largest, in any order; −inf (cut off by top_k or top_p) weighs nothing, NaN gives NaN."""
        if any(math.isnan(x) for x in logprobs):
            return math.nan
        lower, upper = entropy_bounds_from_top_logprobs([x for x in logprobs if x > -math.inf], self.vocab_size)
        self.tokens += 1
        self.total_width += upper - lower
        self.largest_width = max(self.largest_width, upper - lower)
        return lower

    @property
    def mean_width(self) -> float:
        """Mean of upper minus lower bound, nats a token; 0 before the first."""
        return self.total_width / max(1, self.tokens)


def seed_of(request: Request) -> int:
    """A request's random stream as the one integer (63 bits) that servers and vLLM take."""
    return int(np.random.SeedSequence(request.seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
