"""When a turn ends: end tokens and stop strings, the same for every engine.

Whole tokens are kept: a stop string that ends inside a token ends the turn after that token. Token ids stay as
they were sampled, nothing is encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from arpo_algo.errors import ConfigError

_TAIL = 24  # tokens decoded to look for a stop string; longer than any closing tag

Reason = Literal["stop", "eos", "length"]


class Stopping:
    """Decides after each token whether a request has ended.

    Args:
        tokenizer: only decodes.
        eos: end tokens of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.eos = eos
        self._may_end: dict[tuple[int, str], bool] = {}

    def reason(self, tokens: Sequence[int], stop: Sequence[str], max_tokens: int) -> Reason | None:
        """Why a request ends after the last of ``tokens`` (its new ones), or None: it goes on."""
        if tokens[-1] in self.eos:
            return "eos"
        if self.completes(tokens, stop):
            return "stop"
        return "length" if len(tokens) >= max_tokens else None

    def completes(self, tokens: Sequence[int], stop: Sequence[str]) -> bool:
        """Whether the last token completes a stop string, wherever token boundaries fall."""
        # Cheap first: most tokens hold no last character of any stop string.
        if not any(self._holds(tokens[-1], text[-1]) for text in stop):
            return False
        tail = str(self.tokenizer.decode(list(tokens[-_TAIL:])))
        before = str(self.tokenizer.decode(list(tokens[-_TAIL:-1])))
        return any(tail.count(text) > before.count(text) for text in stop)

    def _holds(self, token: int, char: str) -> bool:
        key = (token, char)
        if key not in self._may_end:
            self._may_end[key] = char in str(self.tokenizer.decode([token]))
        return self._may_end[key]


def end_tokens(tokenizer: PreTrainedTokenizerBase, generation_config: Any) -> frozenset[int]:
    """The end tokens that a model's generation config (or None) and its tokenizer name.

    Raises:
        ConfigError: there are none.
    """
    found: set[int] = set()
    for value in (getattr(generation_config, "eos_token_id", None), tokenizer.eos_token_id):
        if isinstance(value, int):
            found.add(value)
        elif value is not None:
            found.update(value)
    if not found:
        raise ConfigError("neither the model nor its tokenizer names an end token (eos_token_id)")
    return frozenset(found)
