"""The model as the torch engine computes with it: weights cast once an update, and laid out for the CPU's products.

Autocast would cast each weight at each forward, which costs a decoding step more than its products. And a product of
few rows spends most of its time rearranging the weight: oneDNN can do that once (what ``torch.compile`` calls
freezing). In float32 it also is the faster library on some CPUs (AMD), where torch's own products go to MKL.
"""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedModel


def packs(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether :class:`PackedLinear` works here."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class PackedLinear(torch.nn.Module):
    """``torch.nn.Linear`` for inference, its weight in oneDNN's own layout.

    In bfloat16 the numbers are those of the plain layer; in float32 sums run in another order.
    """

    weight: torch.Tensor

    def __init__(self, layer: torch.nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.load(layer.weight, layer.bias, dtype)

    @torch.no_grad()
    def load(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), None)
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype, copy=True), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.weight.dtype)
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out


class WorkingCopy:
    """A model whose linear layers hold weights of their own for sampling; every other parameter is shared.

    In bfloat16 the copy computes, under autocast, the very numbers that the original does, so that engine and learner
    agree. Costs one more copy of the linear weights, in ``dtype``.

    Args:
        dtype: of the linear layers.
        packed: lay weights out for the CPU (:func:`packs` must hold).
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, packed: bool) -> None:
        self.original = model
        self.dtype = dtype
        self.packed = packed
        self._build()

    def _build(self) -> None:
        self._known = [id(p) for p in self.original.parameters()]
        share = {id(p): p for p in self.original.parameters()}
        self.model: PreTrainedModel = copy.deepcopy(self.original, share).train(False)
        self._halves: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._packs: list[tuple[torch.Tensor, torch.Tensor | None, PackedLinear]] = []
        for parent in list(self.model.modules()):
            for name, layer in list(parent.named_children()):
                if self.packed and type(layer) is torch.nn.Linear:
                    mine = PackedLinear(layer, self.dtype)
                    setattr(parent, name, mine)
                    self._packs.append((layer.weight, layer.bias, mine))
                elif isinstance(layer, torch.nn.Linear):
                    self._cast(layer)

    def _cast(self, layer: torch.nn.Linear) -> None:
        for name in ("weight", "bias"):
            original = getattr(layer, name)
            if original is not None:
                half = torch.nn.Parameter(original.detach().to(self.dtype, copy=True), requires_grad=False)
                setattr(layer, name, half)
                self._halves.append((original, half))

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the original's present weights, and adapters that it was given meanwhile."""
        if [id(p) for p in self.original.parameters()] != self._known:
            self._build()
            return
        for original, half in self._halves:
            half.copy_(original)
        for weight, bias, packed in self._packs:
            packed.load(weight, bias, self.dtype)
