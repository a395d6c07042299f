r"""A world and a model so small that a whole training run takes seconds, for studies of algorithms.

A task is a chain of signs. The question shows the first; each sign has one right word, the same in all tasks, and
``<search>`` with that word shows the next sign. Another word leads to another sign, and nothing says so. The word of
the last sign, after ``hops`` calls, is the answer. What a policy has to learn is which word belongs to which sign.

Half the signs that a *result* can show are hard: the demonstrators of the cold start guess there, so that a policy
trained on them is unsure right after some results and sure after others. That is the premise of the ARPO paper, built
in: a study in this world tells what forking does where the premise holds, never whether it holds.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from arpo_env.env import AgentEnv
from arpo_env.errors import ConfigError
from arpo_env.protocol import ALL_TAGS, answer_turn, result_body, tool_turn
from arpo_env.rewards.base import Verdict
from arpo_env.tasks.base import Expert, Task, TaskFamily, task_rng
from arpo_env.tools.base import Tool, ToolResult, ToolSession

#: Words a policy may say, and signs of each place along the chain. The first letter of a sign says which place.
WORDS = tuple(f"w{i}" for i in range(8))
SIGNS_A_PLACE = 16
PLACES = "abcdef"
#: How often a flawed demonstrator guesses: at the question's sign, at an easy one, at a hard one.
GUESSES = {"question": 0.15, "easy": 0.0, "hard": 1.0}

_TEMPLATE = (
    "{% for m in messages if m['role'] != 'system' %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def right_word(sign: str) -> str:
    """The word that belongs to a sign: the same in every task, by no rule that could be guessed."""
    return WORDS[zlib.crc32(f"word of {sign}".encode()) % len(WORDS)]


def is_hard(sign: str) -> bool:
    return int(sign[1:]) % 2 == 1


def next_sign(key: int, said: Sequence[str]) -> str:
    """The sign that task ``key`` shows once ``said`` was said."""
    draw = np.random.default_rng([key, *(WORDS.index(w) if w in WORDS else len(WORDS) for w in said)])
    return f"{PLACES[len(said)]}{int(draw.integers(SIGNS_A_PLACE))}"


class SignsSession(ToolSession):
    """Where an episode stands in its chain."""

    def __init__(self, key: int, said: Sequence[str] = ()) -> None:
        self.key, self.said = key, list(said)

    def call(self, argument: str) -> ToolResult:
        if len(self.said) + 1 >= len(PLACES):
            return ToolResult("the chain has ended", ok=False)
        self.said.append(argument)
        return ToolResult(next_sign(self.key, self.said))

    def fork(self) -> SignsSession:
        return SignsSession(self.key, self.said)

    def get_state(self) -> list[str]:
        return list(self.said)


class SignsTool(Tool):
    name = "search"
    description = "the word of the sign; shows the next sign"

    def check(self) -> None:
        pass

    def open(self, seed: int, state: Any = None) -> SignsSession:
        return SignsSession(seed, state or ())


class SignsFamily(TaskFamily):
    """Chains of ``hops`` calls, then the answer."""

    tools = ("search",)

    def __init__(self, hops: int = 2) -> None:
        if not 1 <= hops < len(PLACES):
            raise ConfigError(f"hops must lie in 1..{len(PLACES) - 1}, got {hops}")
        self.hops = hops
        self.name = f"signs-{hops}"

    def task(self, seed: int, split: str, index: int) -> Task:
        task_rng(self.name, seed, split, index)  # refuses an unknown split and negative numbers
        task_id = f"{self.name}/{split}/{seed}/{index}"
        key = zlib.crc32(task_id.encode())
        said: list[str] = []
        for _ in range(self.hops):
            said.append(right_word(next_sign(key, said)))
        return Task(task_id, next_sign(key, ()), right_word(next_sign(key, said)))

    def verify(self, task: Task, answer: str) -> Verdict:
        return Verdict(float(answer.strip() == task.answer))

    def expert(self, task: Task) -> Expert:
        return self._play(task, None)

    def flawed_expert(self, task: Task, rng: np.random.Generator) -> Expert:
        return self._play(task, rng)

    def _play(self, task: Task, rng: np.random.Generator | None) -> Expert:
        sign = task.question
        for _ in range(self.hops):
            word = self._word(sign, rng)
            sign = result_body((yield tool_turn(word, "search", word)))
        word = self._word(sign, rng)
        yield answer_turn(word, word)

    @staticmethod
    def _word(sign: str, rng: np.random.Generator | None) -> str:
        kind = "question" if sign[0] == PLACES[0] else "hard" if is_hard(sign) else "easy"
        if rng is not None and rng.random() < GUESSES[kind]:
            return WORDS[int(rng.integers(len(WORDS)))]
        return right_word(sign)


def make_signs(hops: int = 2, **options: Any) -> AgentEnv:
    tool = SignsTool()
    return AgentEnv(SignsFamily(hops), lambda split: [tool], **{"max_tool_calls": hops} | options)


gymnasium.register("ARPO-Signs-v0", entry_point=make_signs)


def save_model(folder: Path, *, hidden: int = 48, layers: int = 2) -> Path:
    """Write a random Llama whose tokenizer has one token a word, sign and tag; returns ``folder``."""
    tags = [f"<{slash}{name}>" for name in ALL_TAGS for slash in ("", "/")]
    signs = [f"{place}{i}" for place in PLACES for i in range(SIGNS_A_PLACE)]
    vocabulary = ["<unk>", "<|im_start|>", "<|im_end|>", *tags, r"\boxed{", "}", *WORDS, *signs]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(r"</?\w+>|\\boxed\{|\}"), "isolated"),
        ]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<|im_start|>", eos_token="<|im_end|>",
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    config = AutoConfig.for_model(
        "llama", vocab_size=len(vocabulary), hidden_size=hidden, intermediate_size=2 * hidden,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4, head_dim=hidden // 4,
        max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return folder
