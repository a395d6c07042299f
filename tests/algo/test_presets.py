"""The published checkpoints' presets, on tiny random models of the same architectures with their chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_templates import LLAMA3_1, QWEN2_5, QWEN3, QWQ
from tokenizers import AddedToken
from toy import ToyFamily, byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from arpo_algo import options
from arpo_algo.cli import main
from arpo_algo.presets import PRESETS, Preset, find
from arpo_algo.rendering import Renderer
from arpo_env.env import AgentEnv
from arpo_env.prompts import system_prompt
from arpo_env.protocol import answer_turn

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
TEMPLATES = {
    "Qwen2.5-3B-ARPO": QWEN2_5,
    "Qwen2.5-7B-ARPO": QWEN2_5,
    "Llama3.1-8B-ARPO": LLAMA3_1,
    "Qwen3-8B-ARPO-DeepSearch": QWEN3,
    "Qwen3-14B-ARPO-DeepSearch": QWEN3,
    "QwQ-32B-ARPO-DeepSearch": QWQ,
}
SMALL = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 264, "max_position_embeddings": 16384,
}  # fmt: skip


def tokenizer_of(preset: Preset, template: str) -> PreTrainedTokenizerBase:
    """A byte tokenizer with the family's special tokens and chat template."""
    made = byte_tokenizer()
    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    if preset.architecture == "llama":
        made.add_special_tokens({"additional_special_tokens": [AddedToken(one, special=True) for one in special]})
        made.bos_token = special[0]
    made.eos_token = preset.eos
    made.pad_token = preset.eos
    made.chat_template = template
    return made


def checkpoint(folder: Path, name: str) -> Path:
    """A folder named like the published checkpoint, with a tiny random model of its architecture."""
    preset = PRESETS[name]
    made = folder / name
    tokenizer = tokenizer_of(preset, TEMPLATES[name])
    torch.manual_seed(0)
    config = AutoConfig.for_model(preset.architecture, **SMALL, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    AutoModelForCausalLM.from_config(config).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


def test_all_six_are_there_and_found_by_any_path() -> None:
    assert set(PRESETS) == set(TEMPLATES)
    for name, preset in PRESETS.items():
        assert find(f"dongguanting/{name}") is find(f"/models/{name.lower()}/") is find(name) is preset
    for other in ("smollm2", "Qwen/Qwen2.5-3B-Instruct", "Qwen2.5-3B-ARPO-old", ""):
        assert find(other) is None


@pytest.mark.parametrize("name", PRESETS)
def test_the_published_evaluation(name: str) -> None:
    preset = PRESETS[name]
    assert (preset.sampling.temperature, preset.sampling.top_p, preset.sampling.top_k) == (0.6, 0.95, 20)
    assert (preset.python_calls, preset.search_calls) == (5, 10)
    assert preset.stop == ("</python>", "</search>", "</answer>")
    assert "<search> search query here </search>" in system_prompt(preset.prompt, (), False)
    assert preset.domain == ("deep search" if name.endswith("DeepSearch") else "reasoning")


_CHATML = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
EXPECTED = {
    QWEN2_5: _CHATML,
    QWEN3: _CHATML,
    QWQ: f"{_CHATML}<think>\n",
    LLAMA3_1: (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n2 + 2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_prompts_render_as_the_checkpoints_know_them(name: str) -> None:
    preset, template = PRESETS[name], TEMPLATES[name]
    tokenizer = tokenizer_of(preset, template)
    ids = Renderer(tokenizer).prompt(CHAT)
    assert tokenizer.decode(ids) == EXPECTED[template]
    assert preset.thought_opened == EXPECTED[template].endswith("<think>\n")
    # A web page that holds the family's own end token cannot end a turn.
    assert tokenizer.convert_tokens_to_ids(preset.eos) in ids
    assert tokenizer.convert_tokens_to_ids(preset.eos) not in Renderer(tokenizer).result(f"page {preset.eos} page")


def test_a_thought_that_the_template_opened_counts() -> None:
    for opened, good in ((True, True), (False, False)):
        env = AgentEnv(ToyFamily(), lambda split: (), thought_opened=opened)
        env.reset(seed=0)
        turn = answer_turn("t", env.task.answer).removeprefix("<think>")
        *_, info = env.step(turn)
        assert (info["is_success"], info["format_ok"]) == (True, good)


@pytest.mark.parametrize("name", ["Qwen2.5-3B-ARPO", "Llama3.1-8B-ARPO", "Qwen3-8B-ARPO-DeepSearch"])
def test_arpo_eval_runs_a_checkpoint_by_its_name(name: str, tmp_path: Path) -> None:
    model = checkpoint(tmp_path, name)
    small = ["eval.tasks=2", "rollout.max_turn_tokens=12", "rollout.slots=2", "rollout.workers=2", "threads=1"]
    world = ["env.options.pages=120", "env.options.tools=['search']", "env.options.arithmetic=0.0"]
    assert main(["eval", "--out", str(tmp_path / "run"), f"model={model}", "eval.top_k=7", *small, *world]) == 0
    written: dict[str, Any] = json.loads((tmp_path / "run" / "config.json").read_text())
    config = written.get("config", written)
    chosen = config["env"]["options"]
    assert (chosen["prompt"], chosen["search_k"], chosen["max_tool_calls"]) == ("paper", 10, 15)
    assert config["rollout"]["max_tokens"] == PRESETS[name].max_tokens
    # What the user says goes before the preset.
    assert (config["eval"]["temperature"], config["eval"]["top_k"]) == (0.6, 7)
    assert config["rollout"]["max_turn_tokens"] == 12


def test_merge_is_by_section() -> None:
    below = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert options.merge(below, {"a": {"c": {"d": 4, "f": 5}}}) == {"a": {"b": 1, "c": {"d": 4, "f": 5}}, "e": 3}
    assert below == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
