"""Who generates tokens: the contract of an engine.

An engine is continuous. Requests may be submitted at any moment; :meth:`Engine.step` advances all that run by
one token and returns what happened. There is no barrier between turns, tasks or trees.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from arpo_algo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Training: temperature 1, top_p 1, top_k 0 (off), so that log-probs are the policy's.

    Raises:
        ConfigError: a value out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"temperature must be >= 0 (0 is greedy), got {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be >= 0 (0 is off), got {self.top_k}")


@dataclass(frozen=True, slots=True)
class Request:
    """Continue ``tokens`` until a stop string, an end token or ``max_tokens`` new tokens.

    ``seed`` is the request's own random stream, derived by the caller from (run seed, prompt, branch path), so
    that a draw does not depend on what else is in the batch. ``probe`` asks for a :class:`Probed` event after
    that many new tokens (0: none). KV of the longest cached prefix is reused, whoever computed it; ``parent`` is
    the finished request that this one continues, whose KV need not be held beyond it.
    """

    id: int
    tokens: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...]
    seed: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    probe: int = 0
    parent: int | None = None


def check_fits(request: Request, max_length: int) -> None:
    """What every engine refuses before work.

    Raises:
        ConfigError: no tokens, nothing to generate, or more than the engine holds.
    """
    if not request.tokens:
        raise ConfigError(f"request {request.id} has no tokens")
    if request.max_tokens < 1:
        raise ConfigError(f"request {request.id}: max_tokens must be >= 1, got {request.max_tokens}")
    need = len(request.tokens) + request.max_tokens
    if need > max_length:
        raise ConfigError(
            f"request {request.id} needs {need} tokens ({len(request.tokens)} given + {request.max_tokens} new) "
            f"but the engine holds {max_length}; raise max_length or shorten the prompt"
        )


@dataclass(frozen=True, slots=True)
class Probed:
    """The first ``probe`` tokens of a request are out; it goes on by itself. Entropies in nats.

    The event; what a branching rule is shown of it is :class:`~arpo_algo.branching.Probe`.
    """

    id: int
    entropies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """A request has ended. All tuples have one entry a sampled token.

    ``logprobs``: of the sampled token under the distribution it was drawn from. ``entropies``: of
    softmax(z / temperature) before the draw, nats. ``reason``: ``stop`` (a stop string was completed; whole
    tokens are kept), ``eos`` (the end token is the last token), ``length``.
    """

    id: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    text: str
    reason: Literal["stop", "eos", "length"]


Event = Probed | Finished


class Engine(Protocol):
    """See the module docstring. Engines are driven from one thread."""

    #: Size of the model's vocabulary (entropies are normalised by its logarithm).
    vocab_size: int
    #: Longest sequence the engine can hold, prompt included.
    max_length: int

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ConfigError: the prompt plus ``max_tokens`` does not fit ``max_length``.
        """
        ...

    def step(self) -> list[Event]:
        """Advance by one token; events in order of request id. Returns [] at once when there is nothing to do."""
        ...

    @property
    def busy(self) -> bool:
        """Whether any request is queued or running."""
        ...

    def release(self, request_id: int) -> None:
        """The finished request will not be continued: its KV may be dropped. Unknown ids are ignored."""
        ...

    def load_weights(self, weights: Any) -> None:
        """Replace the weights (a state dict of the same model); every cached key and value is dropped.

        Raises:
            ConfigError: requests are queued or running, or names or shapes do not fit the model.
        """
        ...

    def close(self) -> None:
        """Give up processes, connections and memory. Idempotent."""
        ...
