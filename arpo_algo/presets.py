"""How the six published ARPO checkpoints are meant to be run: prompt, tools, stop strings, sampling, budgets.

Sources: the paper (evaluation at temperature 0.6, top-p 0.95, top-k 20; 4,096 tokens for reasoning, 8,192 and more for
deep search; five Python calls and ten searches; ten hits of 1,000 characters) and the released training data (the
system prompt). A model is known by the last part of its name, so a folder or a server may hold it under any path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from arpo_algo.engines.base import Sampling
from arpo_env.protocol import stop_strings

_TOOLS = ("search", "python")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One checkpoint.

    Args:
        checkpoint: its name on the Hub.
        architecture: the ``model_type`` of its configuration.
        domain: what it was trained for.
        prompt: name of the system prompt.
        tools: the tools it was trained with.
        python_calls, search_calls: budget of an episode; the environment takes their sum.
        search_k, search_chars: hits a query, characters a hit.
        max_tokens: of an episode, prompt included.
        max_turn_tokens: of one turn.
        thought_opened: its chat template opens the first ``<think>`` itself.
        eos: the token that ends its turns.
    """

    checkpoint: str
    architecture: Literal["qwen2", "llama", "qwen3"]
    domain: Literal["reasoning", "deep search"]
    prompt: str = "paper"
    tools: tuple[str, ...] = _TOOLS
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.6, top_p=0.95, top_k=20))
    python_calls: int = 5
    search_calls: int = 10
    search_k: int = 10
    search_chars: int = 1000
    max_tokens: int = 1536 + 4096
    max_turn_tokens: int = 4096
    thought_opened: bool = False
    eos: str = "<|im_end|>"

    @property
    def max_tool_calls(self) -> int:
        return self.python_calls + self.search_calls

    @property
    def stop(self) -> tuple[str, ...]:
        """Stop strings of a turn (the end token comes on top)."""
        return stop_strings(self.tools)

    def env_options(self, *, search: bool) -> dict[str, Any]:
        """Options of ``gymnasium.make``; ``search``: whether the environment has a search tool."""
        options: dict[str, Any] = {"prompt": self.prompt, "thought_opened": self.thought_opened}
        if search:
            # A result holds all hits of a query; the environment's own cap would cut it after the first.
            cap = self.search_k * (self.search_chars + 200)
            options |= {"search_k": self.search_k, "search_chars": self.search_chars, "max_result_chars": cap}
        return options | {"max_tool_calls": self.max_tool_calls if search else self.python_calls}

    def config(self, *, search: bool) -> dict[str, Any]:
        """Values of :class:`~arpo_algo.config.RunConfig` for ``arpo eval``, nested; what the user sets goes first."""
        return {
            "env": {"options": self.env_options(search=search)},
            "eval": {
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
                "top_k": self.sampling.top_k,
            },
            "rollout": {"max_turn_tokens": self.max_turn_tokens, "max_tokens": self.max_tokens},
        }


def _deep_search(checkpoint: str, architecture: Literal["qwen2", "qwen3"], *, thought_opened: bool = False) -> Preset:
    return Preset(
        checkpoint=checkpoint,
        architecture=architecture,
        domain="deep search",
        max_tokens=2000 + 8192,
        max_turn_tokens=8192,
        thought_opened=thought_opened,
    )


PRESETS: Mapping[str, Preset] = {
    preset.checkpoint.rpartition("/")[2]: preset
    for preset in (
        Preset(checkpoint="dongguanting/Qwen2.5-3B-ARPO", architecture="qwen2", domain="reasoning"),
        Preset(checkpoint="dongguanting/Qwen2.5-7B-ARPO", architecture="qwen2", domain="reasoning"),
        Preset(checkpoint="dongguanting/Llama3.1-8B-ARPO", architecture="llama", domain="reasoning", eos="<|eot_id|>"),
        _deep_search("dongguanting/Qwen3-8B-ARPO-DeepSearch", "qwen3"),
        _deep_search("dongguanting/Qwen3-14B-ARPO-DeepSearch", "qwen3"),
        _deep_search("dongguanting/QwQ-32B-ARPO-DeepSearch", "qwen2", thought_opened=True),
    )
}


def find(model: str) -> Preset | None:
    """The preset of a model by its Hub name, folder or served name; None for any other model.

    >>> find("dongguanting/Qwen2.5-3B-ARPO").architecture, find("/models/qwen2.5-3b-arpo/").architecture
    ('qwen2', 'qwen2')
    >>> find("Qwen/Qwen2.5-3B-Instruct") is None
    True
    """
    last = model.rstrip("/").rpartition("/")[2].casefold()
    return next((preset for name, preset in PRESETS.items() if name.casefold() == last), None)
