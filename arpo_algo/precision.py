"""Number formats: what ``auto`` means on a machine, and a working copy of a model for faster sampling.

Policy: parameters and optimiser state stay in the dtype that the model was loaded in (float32 in training); products
run in bfloat16 under autocast where that is faster. A bfloat16 *parameter* would lose most updates of a learning rate
like 1e-6, because they are smaller than half its last digit.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from arpo_algo.errors import unknown

Precision = Literal["auto", "float32", "bfloat16"]
Resolved = Literal["float32", "bfloat16"]
PRECISIONS = ("auto", "float32", "bfloat16")


def resolve_precision(precision: Precision, device: torch.device) -> Resolved:
    """What ``auto`` means here. On CPUs bfloat16 pays where instructions for it are there (AMX, AVX512_BF16): products
    of SmolLM2's shapes ran at 4 to 5 times the float32 rate on an AMD EPYC with AVX512_BF16, and at 0.6 on a Xeon with
    neither.

    Raises:
        ConfigError: an unknown name.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "float32"
    return "bfloat16" if "amx_bf16" in flags or "avx512_bf16" in flags else "float32"


def autocast(precision: Resolved, device: torch.device) -> AbstractContextManager[object]:
    """The context that products of ``precision`` run in."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


class WorkingCopy:
    """A model whose linear layers hold bfloat16 weights, for sampling; every other parameter is shared.

    Autocast would cast each weight at each forward, which costs a decoding step more than its products. Under
    autocast the copy computes the very numbers that the original does, so that engine and learner agree. Costs two
    bytes a weight of memory.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.original = model
        self._build()

    def _build(self) -> None:
        self._known = [id(p) for p in self.original.parameters()]
        share = {id(p): p for p in self.original.parameters()}
        self.model: PreTrainedModel = copy.deepcopy(self.original, share).train(False)
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer in self.model.modules():
            if not isinstance(layer, torch.nn.Linear):
                continue
            for name in ("weight", "bias"):
                original = getattr(layer, name)
                if original is not None:
                    half = torch.nn.Parameter(original.detach().to(torch.bfloat16), requires_grad=False)
                    setattr(layer, name, half)
                    self._pairs.append((original, half))

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the original's present weights, and adapters that it was given meanwhile."""
        if [id(p) for p in self.original.parameters()] != self._known:
            self._build()
            return
        for original, half in self._pairs:
            half.copy_(original)
