"""Any OpenAI-compatible chat endpoint as a policy for evaluation.

Such endpoints give text, no token ids and no log-probs of what was sampled, so nothing can be trained on them. Two
layouts of an episode as a chat:

* ``turns``: each result is a user message. Every endpoint takes it, and every chat model knows it.
* ``inline``: results follow inside the one assistant message that goes on, as the paper's checkpoints were trained.
  Needs a server that continues a message (vLLM's and SGLang's ``continue_final_message``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from arpo_algo.engines.base import Sampling
from arpo_algo.episodes import Player, Turn
from arpo_algo.errors import ConfigError, unknown
from arpo_env.chat import ChatClient, Completion, ContextOverflow
from arpo_env.env import AgentEnv

Layout = Literal["turns", "inline"]
_CONTINUE = {"add_generation_prompt": False, "continue_final_message": True}


class ChatPolicy:
    """Plays episodes through a chat endpoint.

    Args:
        client: the endpoint and its model.
        sampling: ``top_k`` 0 is not sent (OpenAI refuses it, vLLM and llama.cpp take it).
        max_turn_tokens: of one completion.
        max_tokens: of prompt and completions together, as the server counts; an episode that reaches it is truncated.
        concurrency: requests at once.
        layout: ``turns`` or ``inline``.
        extra: further fields of each request's body.

    Raises:
        ConfigError: an unknown layout, or a number out of range.
    """

    def __init__(
        self,
        client: ChatClient,
        *,
        sampling: Sampling,
        max_turn_tokens: int,
        max_tokens: int,
        concurrency: int = 8,
        layout: Layout = "turns",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if layout not in get_args(Layout):
            raise unknown("layout", layout, get_args(Layout))
        if min(max_turn_tokens, max_tokens, concurrency) < 1:
            raise ConfigError(f"need positive numbers, got {max_turn_tokens=}, {max_tokens=}, {concurrency=}")
        self.client = client
        self.sampling = sampling
        self.max_turn_tokens = max_turn_tokens
        self.max_tokens = max_tokens
        self.concurrency = concurrency
        self.layout = layout
        self.extra = dict(extra or {}) | ({"top_k": sampling.top_k} if sampling.top_k else {})

    def check(self) -> None:
        """One token, asked for as in an episode: a wrong key, model or parameter shows here."""
        self._complete([{"role": "user", "content": "Say yes."}], ("</answer>",), 1, 0, {})

    def play(self, env: AgentEnv, messages: Sequence[Mapping[str, str]], seed: Sequence[int]) -> Player:
        chat = [dict(message) for message in messages]
        stop = env.stop_strings
        room = self.max_tokens
        number = 0
        while room > 0:
            going_on = self.layout == "inline" and number > 0
            draw = int(np.random.SeedSequence([*seed, number]).generate_state(1)[0] >> 1)  # servers take 31 bits
            asked = min(self.max_turn_tokens, room)
            try:
                reply = self._complete(chat, stop, asked, draw, _CONTINUE if going_on else {})
            except ContextOverflow:
                return
            text = whole_turn(reply, stop)
            spent = said = None
            at_end = asked == room
            if reply.usage is not None:
                spent, said = reply.usage.prompt_tokens, reply.usage.completion_tokens
                room = self.max_tokens - spent - said
                at_end = at_end or room <= 0
            # What the episode's budget cut is truncated; what the limit of a turn cut is the model's own mistake.
            observation = yield Turn(text, spent, said, cut=reply.finish_reason == "length" and at_end)
            if self.layout == "turns":
                chat += [{"role": "assistant", "content": text}, {"role": "user", "content": observation}]
            elif going_on:
                chat[-1]["content"] += f"{text}\n{observation}\n"
            else:
                chat.append({"role": "assistant", "content": f"{text}\n{observation}\n"})
            number += 1

    def _complete(
        self, chat: Sequence[Mapping[str, str]], stop: Sequence[str], tokens: int, seed: int, extra: Mapping[str, Any]
    ) -> Completion:
        return self.client.complete(
            chat,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            max_tokens=tokens,
            stop=stop,
            seed=seed,
            extra={**self.extra, **extra},
        )

    def close(self) -> None:
        self.client.close()


def whole_turn(reply: Completion, stop: Sequence[str]) -> str:
    """The turn as the model wrote it: with the stop string that ended it, and with its thoughts.

    Endpoints cut the stop string off. vLLM says which it was; elsewhere it is the closing tag of the last tag that
    was opened (outside closed thoughts) and not closed. A model that ends its message inside an open tag by itself is
    thus taken to have closed it: those endpoints do not tell the two apart.
    """
    text = reply.text
    if reply.stop_string is not None:
        text += "" if text.endswith(reply.stop_string) else reply.stop_string
    elif reply.finish_reason == "stop" and not text.rstrip().endswith(tuple(stop)):
        spoken = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
        opened = [(spoken.rfind(tag.replace("</", "<", 1)), spoken.rfind(tag), tag) for tag in stop]
        last, closed, tag = max(opened, default=(-1, -1, ""))
        if last > closed:
            text += tag
    if reply.reasoning and "<think>" not in text:
        text = f"<think>{reply.reasoning}</think>\n{text}"
    return text
