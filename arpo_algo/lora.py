"""Low-rank adapters (LoRA, Hu et al. 2021) through the ``peft`` package: W + (alpha/rank)·B·A with W frozen.

Adapters are injected into the stock model, so that packing, attention, engine and checkpoints are those of full
training. A checkpoint's ``model/`` then holds the adapter and names its base; :func:`export_merged` writes a plain
model.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from arpo_algo.errors import ConfigError
from arpo_algo.options import opt


@dataclass(frozen=True)
class LoraConfig:
    """Adapters; rank 0 trains all weights.

    Raises:
        ConfigError: a value out of range, or a target that is read as a matrix elsewhere.
    """

    rank: int = opt(0, "rank of the adapters; 0: none, all weights are trained")
    alpha: int = opt(32, "adapters are scaled by alpha / rank")
    targets: tuple[str, ...] = opt(("all-linear",), "names of the layers that get one (q_proj …); all but the head")

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0:
            raise ConfigError(f"need lora.rank >= 0 and lora.alpha > 0, got {self.rank} and {self.alpha}")
        if not self.targets or {"lm_head", "embed_tokens"} & set(self.targets):
            raise ConfigError(
                f"lora.targets={list(self.targets)}: name layers of the blocks; head and embedding cannot have "
                "adapters, because log-probs are computed from the head's matrix"
            )


def attach(model: PreTrainedModel, config: LoraConfig) -> None:
    """Freeze ``model`` and give it trainable adapters; those it was loaded with go on being trained.

    Raises:
        ConfigError: peft is missing, no layer has a target's name, or other adapters are there already.
    """
    try:
        import peft
    except ImportError:
        raise ConfigError("lora.rank > 0 needs the package peft: pip install 'arpo[lora]'") from None
    present: Any = getattr(model, "peft_config", {}).get("default")
    if present is None:
        targets: Any = "all-linear" if config.targets == ("all-linear",) else list(config.targets)
        wanted = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0)
        try:
            model.add_adapter(wanted)
        except ValueError as error:
            raise ConfigError(f"lora.targets={list(config.targets)}: {str(error).splitlines()[0]}") from None
    elif (present.r, present.lora_alpha) != (config.rank, config.alpha):
        raise ConfigError(
            f"the model already has adapters of rank {present.r} and alpha {present.lora_alpha}, "
            f"but lora.rank={config.rank} and lora.alpha={config.alpha}"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_A." in name or ".lora_B." in name)


def without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """The same object, its adapters merged into its weights: the names are those of :func:`merged_weights` now.

    To compute with. To save, take :func:`merged`.
    """
    for name, layer in list(model.named_modules()):
        if hasattr(layer, "get_delta_weight"):  # peft's layers
            layer.merge()
            above, _, own = name.rpartition(".")
            setattr(model.get_submodule(above), own, layer.get_base_layer())
    return model


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A copy without adapters whose weights are W + (alpha/rank)·B·A."""
    whole = without_adapters(copy.deepcopy(model))
    # A fresh model of the class: one that was loaded with an adapter keeps renaming its weights when saved.
    plain: PreTrainedModel = type(model)(copy.deepcopy(model.config)).to(model.dtype).to(model.device)  # type: ignore[arg-type]
    plain.load_state_dict(whole.state_dict())
    plain.generation_config = model.generation_config
    plain.train(model.training)
    return plain


@torch.no_grad()
def merged_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The parameters of ``merged(model)`` by name, without a second model: for engines with weights of their own.

    Without adapters: the model's own parameters.
    """
    weights: dict[str, torch.Tensor] = {
        n.replace(".base_layer.", "."): p for n, p in model.named_parameters() if ".lora_" not in n
    }
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight"):  # peft's layers
            weights[f"{name}.weight"] = layer.get_base_layer().weight + layer.get_delta_weight("default")
    return weights


def base_of(source: Path | str) -> Path | str:
    """The folder or Hub name of the whole model that the adapter in ``source`` belongs to; else ``source`` itself."""
    settings = Path(source) / "adapter_config.json"
    if not settings.is_file():
        return source
    return str(json.loads(settings.read_text(encoding="utf-8"))["base_model_name_or_path"])


def export_merged(model: PreTrainedModel, folder: Path) -> None:
    """Write the merged model as an ordinary transformers folder (no peft needed to load it)."""
    merged(model).save_pretrained(folder)
