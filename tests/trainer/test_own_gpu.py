"""Each process of a run works on its own GPU; shown without one, by what torch is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import config, quiet

from arpo_algo import trainer


class Told(Exception):
    """In place of a GPU that is not there."""


@pytest.mark.parametrize(
    ("device", "size", "told"), [("cuda", "2", ["cuda:1"]), ("cuda:3", "1", ["cuda:3"]), ("cuda", "1", [])]
)
def test_the_current_gpu_is_the_process_own(
    device: str, size: str, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL and FSDP's mesh take the current one: without this, every process's layers land on the first."""
    seen: list[str] = []

    def join(device: str) -> trainer.World:
        return trainer.World(rank=1 if size == "2" else 0, size=int(size))

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(trainer.World, "join", staticmethod(join))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: seen.append(str(device)))
    monkeypatch.setattr(trainer.assembly, "look_at_env", _stop)
    with pytest.raises(Told):
        trainer.Trainer(config(tmp_path, device=device), tmp_path / "run", console=quiet())
    assert seen == told


def _stop(*args: object) -> None:
    raise Told
