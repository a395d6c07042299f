"""FSDP2: each process holds a part of every layer's weights, gradients and optimiser state.

The layers of the stack are sharded (``torch.distributed.fsdp.fully_shard``); embeddings, norms outside the layers and
the head stay whole in every process, because the head is applied outside the model's own forward, in chunks. A layer's
weights are gathered when it runs, and its gradients are summed and scattered in the backward pass; those of the whole
parameters are added by :meth:`arpo_algo.distributed.World.add_gradients`.

What crosses the border to engines and checkpoints is whole tensors: every process must take part in making them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from arpo_algo.distributed import World
from arpo_algo.errors import ConfigError


def shard(model: PreTrainedModel, world: World) -> None:
    """Shard the model's layers over the processes, in place. Does nothing in a world of one, or a second time.

    Raises:
        ConfigError: an architecture that does not name its layers.
    """
    if world.size == 1 or any(isinstance(module, FSDPModule) for module in model.modules()):
        return
    kinds = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise ConfigError(f"learner.shard: {type(model).__name__} does not say what its layers are (_no_split_modules)")
    mesh = init_device_mesh(next(model.parameters()).device.type, (world.size,))
    for layer in layers:
        # Said out loud: each layer is a root of its own, and roots keep their weights gathered by default.
        sharded = fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        assert isinstance(sharded, FSDPModule)
        # Losses are divided by the global number of terms already: gradients are summed.
        sharded.set_force_sum_reduction_for_comms(True)
        sharded.set_gradient_divide_factor(1.0)


def is_sharded(parameters: Iterable[torch.Tensor]) -> bool:
    return any(isinstance(p, DTensor) for p in parameters)


def apart(parameters: Sequence[torch.nn.Parameter]) -> list[list[torch.nn.Parameter]]:
    """Sharded and whole parameters in lists of their own: fused kernels take no mixture. Empty lists are left out."""
    sharded: list[torch.nn.Parameter] = [p for p in parameters if isinstance(p, DTensor)]
    whole = [p for p in parameters if not isinstance(p, DTensor)]
    return [part for part in (sharded, whole) if part]


def clip_gradients(parameters: Sequence[torch.nn.Parameter], max_norm: float) -> float:
    """``clip_grad_norm_`` over a mixture; the norm before clipping, the same in every process."""
    norms = []
    for part in apart(parameters):
        norm = torch.nn.utils.get_total_norm([p.grad for p in part if p.grad is not None])
        norms.append(float(whole(norm)))
    norm_of_all = math.sqrt(sum(n * n for n in norms))
    scale = max_norm / (norm_of_all + 1e-6)
    if scale < 1.0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
    return norm_of_all


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of a sharded one (every process must ask); others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Every parameter by name, in full."""
    with torch.no_grad():
        return {name: whole(p) for name, p in model.named_parameters()}


def whole_state(model: PreTrainedModel, *, keep: bool) -> dict[str, torch.Tensor] | None:
    """``model.state_dict()`` in full, on the CPU; all must ask, only those that ``keep`` get it."""
    out = {}
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            full = whole(tensor)
            if keep:
                out[name] = full.detach().cpu()
    return out if keep else None


def optimizer_state(optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
    """``optimizer.state_dict()`` with whole tensors on the CPU; all must ask, only those that ``keep`` get them."""
    state = optimizer.state_dict()
    moments: dict[int, dict[str, Any]] = {}
    for number, entry in state["state"].items():
        full = {k: whole(v) if isinstance(v, torch.Tensor) else v for k, v in entry.items()}
        if keep:
            moments[number] = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in full.items()}
    return {**state, "state": moments}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take back what :func:`optimizer_state` gave, each process its part."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    placed: dict[int, dict[str, Any]] = {}
    for number, entry in state["state"].items():
        parameter = parameters[number]
        placed[number] = {
            k: distribute_tensor(v.to(parameter.device), parameter.device_mesh, parameter.placements)
            if isinstance(parameter, DTensor) and isinstance(v, torch.Tensor) and v.dim()
            else v
            for k, v in entry.items()
        }
    optimizer.load_state_dict({**state, "state": placed})
