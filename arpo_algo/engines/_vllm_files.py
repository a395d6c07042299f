"""A weight-transfer backend of vLLM's that reads safetensors files: how a server on the same files gets new weights.

Runs inside vLLM's processes (entry point ``vllm.general_plugins``), driven by vLLM's public calls
``init_weight_transfer_engine``, ``start_weight_update``, ``update_weights``, ``finish_weight_update``. Start the
server with ``--weight-transfer-config '{"backend": "arpo-files"}'``. Works on CPUs, for which vLLM itself has no
backend, and for any number of workers on one machine; ``/dev/shm`` as the folder keeps it in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

BACKEND = "arpo-files"


@dataclass
class FilesInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Nothing to agree on before the first transfer."""


@dataclass
class FilesUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """``path``: a safetensors file with weights in checkpoint format."""

    path: str


class FilesWeightTransferEngine(WeightTransferEngine[FilesInitInfo, FilesUpdateInfo]):  # type: ignore[misc]
    """Each worker reads the file and takes its share, as when the model is first loaded."""

    init_info_cls = FilesInitInfo
    update_info_cls = FilesUpdateInfo

    def init_transfer_engine(self, init_info: FilesInitInfo) -> None:
        """There is no connection to open."""

    def start_weight_update(self) -> None:
        """Make the layers ready to take weights in checkpoint format (they were repacked when first loaded)."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As in the base class, which waits for an accelerator even where there is none."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: FilesUpdateInfo) -> None:
        self.model.load_weights(_tensors(update_info.path))

    def finish_weight_update(self) -> None:
        """Pack the layers again."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing is held."""


def _tensors(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            yield name, file.get_tensor(name)


def register() -> None:
    """Make the backend known to vLLM. May be called again."""
    with suppress(ValueError):  # it is known already
        WeightTransferEngineFactory.register_engine(BACKEND, FilesWeightTransferEngine)
