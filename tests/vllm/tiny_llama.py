"""A random model that vLLM serves in a moment: two layers, heads of a size that its CPU kernels take."""

from __future__ import annotations

from pathlib import Path

from tiny_run import save_model


def save(folder: Path) -> Path:
    """The model with its byte tokenizer."""
    return save_model(folder, hidden_size=64, intermediate_size=96, num_attention_heads=2, head_dim=32)
