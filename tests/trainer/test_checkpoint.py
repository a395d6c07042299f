"""Checkpoints are whole or not there; the damaged are found, set aside, and the one before is used."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from arpo_algo.checkpoint import (
    CheckpointStore,
    DamagedCheckpoint,
    order,
    random_state,
    restore_random_state,
    seed_everything,
    verify,
)


def make(store: CheckpointStore, name: str) -> Path:
    with store.writing(name) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(name.encode() * 1000)
        (folder / "state.json").write_text("{}")
    return store.folder / name


def test_order_is_that_of_the_run() -> None:
    names = ["step-000010", "sft-000020", "step-000002", "step-1000000", "step-000000"]
    assert sorted(names, key=order) == ["sft-000020", "step-000000", "step-000002", "step-000010", "step-1000000"]
    with pytest.raises(ValueError, match="not a checkpoint's name"):
        order("best")


def test_nothing_is_there_until_it_is_whole(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    make(store, "step-000001")

    def write_half() -> None:
        with store.writing("step-000002") as folder:
            (folder / "half").write_bytes(b"x")
            assert [p.name for p in store.paths()] == ["step-000001"]
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_half()
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"], "what was half written is gone"
    verify(tmp_path / "step-000001")


def test_errors_of_libraries_count_as_the_disks(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="RuntimeError: PytorchStreamWriter"),
        CheckpointStore(tmp_path).writing("sft-000001"),
    ):
        raise RuntimeError("PytorchStreamWriter failed writing file")


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "manifest", "manifest gone", "other format"])
def test_damage_is_found_and_the_one_before_used(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path)
    first, second = make(store, "step-000001"), make(store, "step-000002")
    assert store.newest() == (second, [])
    weights, manifest = second / "model" / "weights", second / "manifest.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "flipped":
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    elif damage == "missing":
        weights.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:20])
    elif damage == "other format":
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    else:
        manifest.unlink()
    with pytest.raises(DamagedCheckpoint, match="step-000002"):
        verify(second)
    found, said = store.newest()
    assert found == first
    if damage != "manifest gone":  # without a manifest it never was a checkpoint
        assert len(said) == 1
        assert "set aside as damaged-step-000002" in said[0]
    assert [p.name for p in store.paths()] == ["step-000001"] or damage == "manifest gone"


def test_the_newest_and_the_protected_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in range(1, 6):
        make(store, f"step-{step:06d}")
    (tmp_path / ".step-000009").mkdir()  # left over by a kill
    store.prune(2, ["step-000002"])
    assert [p.name for p in store.paths()] == ["step-000002", "step-000004", "step-000005"]
    assert not (tmp_path / ".step-000009").exists()


def test_a_second_write_replaces_the_first(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    make(store, "step-000001")
    with store.writing("step-000001") as folder:
        (folder / "new").write_bytes(b"x")
    assert {p.name for p in (tmp_path / "step-000001").iterdir()} == {"new", "manifest.json"}
    verify(tmp_path / "step-000001")


def test_random_states_come_back(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    before = random_state()
    try:
        seed_everything(7)
        torch.save(random_state(), tmp_path / "random.pt")
        expected = draw()
        draw()
        restore_random_state(torch.load(tmp_path / "random.pt", weights_only=True))
        assert draw() == expected
    finally:
        restore_random_state(before)
