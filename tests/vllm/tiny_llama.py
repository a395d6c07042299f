"""A random model that vLLM serves in a moment: two layers, heads of a size that its CPU kernels take."""

from __future__ import annotations

from pathlib import Path

import torch
from toy import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM


def save(folder: Path) -> Path:
    """The model with its byte tokenizer."""
    config = AutoConfig.for_model(
        "llama", vocab_size=260, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=1024, pad_token_id=0, bos_token_id=256,
        eos_token_id=257, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
