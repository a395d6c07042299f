"""The learner's weights as an engine with a model of its own wants them: all names, checked, tied ones too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from arpo_algo.errors import ConfigError


@dataclass(frozen=True)
class WeightLayout:
    """The parameters of a model by name.

    ``shapes``: each parameter once. ``aliases``: further names of tied parameters (``lm_head.weight``) and the name
    their values come under. An engine that keeps its own copy must get those too: without, its head stays as it was
    and nothing says so.
    """

    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str]

    @classmethod
    def of(cls, model: PreTrainedModel) -> WeightLayout:
        """Of the model without its adapters, where it has some (:func:`arpo_algo.lora.merged_weights`)."""
        first: dict[int, str] = {}
        shapes, aliases = {}, {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if ".lora_" in name:
                continue
            name = name.replace(".base_layer.", ".")
            known = first.setdefault(id(parameter), name)
            if known != name:
                aliases[name] = known
            else:
                shapes[name] = tuple(parameter.shape)
        return cls(shapes, aliases)

    def checkpoint(
        self, weights: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) as in a checkpoint of the model; everything is checked before the first is given out.

        Raises:
            ConfigError: a parameter is missing or has another shape.
        """
        missing = sorted(set(self.shapes) - set(weights))
        if missing:
            raise ConfigError(f"weights lack {len(missing)} of the model's parameters, e.g. {missing[0]!r}")
        for name, shape in self.shapes.items():
            if tuple(weights[name].shape) != shape:
                raise ConfigError(f"{name} has shape {tuple(weights[name].shape)}, the model's is {shape}")
        return self._pairs(weights, dtype)

    def _pairs(
        self, weights: Mapping[str, torch.Tensor], dtype: torch.dtype | None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        names = [(name, name) for name in self.shapes] + list(self.aliases.items())
        for name, source in names:
            tensor = weights[source].detach()
            yield name, tensor if dtype is None else tensor.to(dtype)
