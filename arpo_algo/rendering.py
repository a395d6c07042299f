"""Chats to token ids, and nothing back: what the model sampled is never re-tokenised.

The paper's layout is *inline*: the chat template renders system prompt and question once, and results follow
inside the assistant's turn as plain text. Text that comes from outside (results) is encoded with no special
token honoured: ``<|im_end|>`` on a web page becomes ordinary tokens and cannot cut a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from arpo_algo.errors import ConfigError


class Renderer:
    """Renders prompts and results for one tokenizer.

    Raises:
        ConfigError: the tokenizer has no chat template, or honours special tokens even when told not to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; use an instruct model, or set "
                "tokenizer.chat_template"
            )
        self.tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        probe = "".join(tokenizer.all_special_tokens)
        leaked = self._special & set(self._encode(probe))
        unk = tokenizer.unk_token_id
        if leaked - {unk}:
            raise ConfigError(
                f"the tokenizer of {tokenizer.name_or_path!r} turns plain text into special tokens {sorted(leaked)}; "
                "results could then cut a turn. Use its fast version (split_special_tokens)."
            )

    def _encode(self, text: str) -> list[int]:
        # Lone surrogates cannot be encoded as UTF-8; a tool may still print one.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = self.tokenizer.encode(clean, add_special_tokens=False, split_special_tokens=True)
        return ids

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of system prompt and question, up to where the assistant begins."""
        ids: Any = self.tokenizer.apply_chat_template(
            [dict(m) for m in messages], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return list(ids)

    def result(self, observation: str) -> list[int]:
        """Token ids of a result, set apart from the turn before and after by a line break."""
        return self._encode(f"\n{observation}\n")

    def turn(self, text: str) -> list[int]:
        """Token ids of a demonstrated turn (cold start only; sampled turns come as tokens)."""
        return self._encode(text)
