"""Shared fixtures: the embedded model for tests marked ``model``, and helper modules on the path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Helper modules of test folders (trees.py, toy.py …) are imported by plain name.
sys.path[:0] = [str(p) for p in sorted(Path(__file__).parent.iterdir()) if p.is_dir() and p.name != "__pycache__"]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The allocator counts as set up by the user, so trainers leave it alone: else a process of hundreds of tests would keep
# the gigabytes of its largest one (arpo_algo/allocator.py). The value is that of two cores anyway.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.arena_max=16")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("cuda") is not None]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU on this machine"))


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The folder of SmolLM2, when ``make test`` (or ``make model``) has fetched it; tests never download."""
    from arpo_algo.models import cache_folder

    folder = cache_folder() / "smollm2-135m-instruct"
    if not (folder / "source.json").exists():
        pytest.skip("the embedded model is not in the cache: run `make model` first")
    return folder
