"""Flex attention on CPUs, where torch has no backward pass for it: its own plain implementation stands in.

That one computes the T×T scores with the very mask and score functions that the GPU kernels are compiled from, and
their gradient; what it cannot show is the kernels themselves (tests marked ``cuda``).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.attention.flex_attention as flex

from arpo_algo import flexattention


def use(patch: pytest.MonkeyPatch, kernel: Callable[..., torch.Tensor] | None = None) -> None:
    """Let :mod:`arpo_algo.flexattention` run here, uncompiled unless a ``kernel`` is given."""
    patch.setattr(flex, "_validate_device", lambda *qkv: None)
    if kernel is None:
        patch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    patch.setattr(flexattention, "_kernel", lambda: kernel or flex.flex_attention)
    flexattention._score.cache_clear()  # tensors of another test's mode or device
