"""A byte-level tokenizer, a one-tool environment and a scripted engine: unit tests in milliseconds.

Each has a test of the real thing beside it (real model, real tools) elsewhere in this folder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from arpo_algo.engines.base import Event, Finished, Probed, Request
from arpo_env.env import AgentEnv
from arpo_env.rewards.base import Verdict
from arpo_env.tasks.base import Expert, Task, TaskFamily
from arpo_env.tools.base import Tool, ToolResult, ToolSession

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """One token a byte, plus end and start tokens; 258 ids and two spare."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|im_start|>", eos_token="<|im_end|>", chat_template=TEMPLATE
    )


class EchoSession(ToolSession):
    def __init__(self, tool: EchoTool, calls: int = 0) -> None:
        self.tool, self.calls = tool, calls

    def call(self, argument: str) -> ToolResult:
        self.tool.on_call(argument)
        self.calls += 1
        return ToolResult(f"{argument} #{self.calls}")

    def fork(self) -> EchoSession:
        return EchoSession(self.tool, self.calls)

    def get_state(self) -> Any:
        return self.calls


class EchoTool(Tool):
    """Answers a query with itself and a per-episode count; ``on_call`` lets tests block or fail."""

    name = "search"
    description = "anything"

    def __init__(self, on_call: Callable[[str], None] = lambda argument: None) -> None:
        self.on_call = on_call

    def check(self) -> None:
        pass

    def open(self, seed: int, state: Any = None) -> EchoSession:
        return EchoSession(self, state or 0)


class ToyFamily(TaskFamily):
    """The answer to task i is i modulo 3."""

    name = "toy"
    tools = ("search",)

    def task(self, seed: int, split: str, index: int) -> Task:
        return Task(f"toy/{split}/{seed}/{index}", f"Q{index}", str(index % 3))

    def verify(self, task: Task, answer: str) -> Verdict:
        return Verdict(float(answer == task.answer))

    def expert(self, task: Task) -> Expert:
        yield "<think>a</think><search>x</search>"
        yield f"<think>b</think><answer>\\boxed{{{task.answer}}}</answer>"


def toy_env(on_call: Callable[[str], None] = lambda argument: None, **options: Any) -> gymnasium.Env[str, str]:
    tool = EchoTool(on_call)
    return AgentEnv(ToyFamily(), lambda split: [tool], **options)


#: (text before, draw of the request's own stream) -> (turn, entropy of each of its tokens)
Policy = Callable[[str, np.random.Generator], tuple[str, list[float]]]


class ScriptedEngine:
    """One token a step for every request, as a real engine; what is said is scripted."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, policy: Policy, max_length: int = 4096) -> None:
        self.tokenizer, self.policy = tokenizer, policy
        self.vocab_size, self.max_length = 256, max_length
        self.requests: dict[int, tuple[Request, str, list[float], int]] = {}
        self.log: list[tuple[int, Request]] = []  # (engine step, request)
        self.held: set[int] = set()
        self.steps = 0
        self.lock = threading.Lock()

    @property
    def busy(self) -> bool:
        return bool(self.requests)

    def submit(self, request: Request) -> None:
        before = self.tokenizer.decode(list(request.tokens))
        text, entropies = self.policy(before, np.random.default_rng(request.seed))
        self.requests[request.id] = (request, text, entropies, 0)
        self.log.append((self.steps, request))
        if request.parent is not None:
            self.held.discard(request.parent)

    def step(self) -> list[Event]:
        self.steps += 1
        events: list[Event] = []
        for key, (request, text, entropies, done) in sorted(self.requests.items()):
            tokens = self.tokenizer.encode(text, add_special_tokens=False)[: request.max_tokens]
            done += 1
            self.requests[key] = (request, text, entropies, done)
            spread = (entropies * len(tokens))[: len(tokens)]
            if done >= len(tokens):
                del self.requests[key]
                self.held.add(key)
                reason = "stop" if len(tokens) == len(self.tokenizer.encode(text)) else "length"
                events.append(
                    Finished(
                        key, tuple(tokens), (-1.0,) * len(tokens), tuple(spread), self.tokenizer.decode(tokens), reason
                    )  # type: ignore[arg-type]
                )
            elif done == request.probe:
                events.append(Probed(key, tuple(spread[:done])))
        return events

    def release(self, request_id: int) -> None:
        self.held.discard(request_id)

    def load_weights(self, weights: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass
