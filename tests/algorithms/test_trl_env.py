"""TRL's GRPOTrainer trains in our environments (real TRL; skipped where it is not installed)."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from toy import ScriptedEngine, byte_tokenizer, toy_env
from transformers import AutoConfig, AutoModelForCausalLM

from arpo_algo.adapters.trl import EnvRollouts
from arpo_algo.branching import Entropy
from arpo_algo.errors import ConfigError


class Letters(gymnasium.Wrapper[str, str, str, str]):
    """A random model never answers well; pay for the share of bytes below 80 in its one turn."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, sum(ord(c) < 80 for c in action) / max(len(action), 1), terminated, truncated, info


for name, make in (("TrlToy-v0", toy_env), ("TrlLetters-v0", lambda **k: Letters(toy_env(**k)))):
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=make)


def tiny_model() -> Any:
    config = AutoConfig.for_model(
        "llama", vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, pad_token_id=258, eos_token_id=257,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def trainer_of(model: Any, tokenizer: Any) -> Any:
    """What a rollout function sees of a trainer."""
    accelerator = SimpleNamespace(unwrap_model=lambda m: m)
    return SimpleNamespace(processing_class=tokenizer, model=model, accelerator=accelerator)


class Scripted(ScriptedEngine):
    def load_weights(self, weights: Any) -> None:
        pass


def two_turns(before: str, rng: np.random.Generator) -> tuple[str, list[float]]:
    if "<result>" in before.rsplit("assistant\n", 1)[1]:
        return f"<think>b</think><answer>\\boxed{{{rng.integers(3)}}}</answer>", [0.9]
    return "<think>a</think><search>x</search>", [0.1]


@pytest.mark.parametrize("branching", [None, Entropy(k=4)])
def test_episodes_as_trl_wants_them(branching: Entropy | None) -> None:
    tokenizer = byte_tokenizer()
    rollouts = EnvRollouts(
        "TrlToy-v0", branching=branching, N=2, make_engine=lambda m, t: Scripted(t, two_turns), max_tokens=1500
    )
    prompts = [row["prompt"] for row in rollouts.dataset(2) for _ in range(4)]
    out = rollouts(prompts, trainer_of(tiny_model(), tokenizer))
    assert {k: len(v) for k, v in out.items()} == dict.fromkeys(out, 8)
    for i, (ids, mask, logprobs) in enumerate(
        zip(out["completion_ids"], out["env_mask"], out["logprobs"], strict=True)
    ):
        assert len(ids) == len(mask) == len(logprobs)
        said = tokenizer.decode([t for t, m in zip(ids, mask, strict=True) if m])
        told = tokenizer.decode([t for t, m in zip(ids, mask, strict=True) if not m])
        assert said.startswith("<think>a</think><search>x</search><think>b</think><answer>")
        assert told == "\n<result>\nx #1\n</result>\n"
        right = f"\\boxed{{{i // 4}}}" in said
        assert out["env_reward"][i] == float(right)
    assert out["prompt_ids"][0] == out["prompt_ids"][3] != out["prompt_ids"][4]


def test_a_prompt_from_elsewhere_is_refused() -> None:
    rollouts = EnvRollouts("TrlToy-v0")
    with pytest.raises(ConfigError, match="did not make"):
        rollouts([[{"role": "user", "content": "hi"}]], trainer_of(tiny_model(), byte_tokenizer()))
    with pytest.raises(ConfigError, match="env_id='TrlTooy-v0'"):
        EnvRollouts("TrlTooy-v0")


def test_trl_trains_in_our_environment(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="pip install trl==1.16.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's own
        from trl import GRPOConfig, GRPOTrainer

        rollouts = EnvRollouts("TrlLetters-v0", max_turn_tokens=12, max_tokens=480)
        arguments = GRPOConfig(
            str(tmp_path), learning_rate=1e-2, max_steps=25, per_device_train_batch_size=16, num_generations=8,
            max_completion_length=16, report_to=[], logging_steps=1, save_strategy="no", use_cpu=True, bf16=False,
            seed=0, lr_scheduler_type="constant", disable_tqdm=True,
        )  # fmt: skip
        trainer = GRPOTrainer(
            tiny_model(), rollouts.reward, args=arguments, train_dataset=rollouts.dataset(8),
            processing_class=byte_tokenizer(), rollout_func=rollouts,
        )  # fmt: skip
        trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert len(rewards) == 25
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.15, rewards
