"""The real vLLM on the real SmolLM2. Run by ``make test-vllm`` in an environment of its own; elsewhere most skip."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
WITHOUT_VLLM = ("test_client.py", "test_killed.py", "test_pieces_vllm.py")

# vLLM compiles one kernel of its sampler with a C++ compiler: seconds of start-up that tests can do without.
os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent != HERE or item.path.name in WITHOUT_VLLM:
            continue
        if importlib.util.find_spec("vllm") is None:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed here: run `make test-vllm`"))
        item.add_marker(pytest.mark.model)
        # vLLM's and its packages' own deprecations are not ours to mend.
        item.add_marker(pytest.mark.filterwarnings("default"))
        item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def loaded(default_model: Path) -> tuple[Any, Any]:
    """The learner's side: model in float32, and tokenizer. Read only."""
    from arpo_algo import models

    return models.load(str(default_model))


@pytest.fixture(scope="module")
def engine(loaded: tuple[Any, Any], default_model: Path) -> Iterator[Any]:
    """vLLM in float32; tests leave it idle and with the default weights."""
    from arpo_algo.engines.vllm import VLLMEngine, VLLMOptions

    model, tokenizer = loaded
    made = VLLMEngine(
        default_model, model, tokenizer, slots=16, max_length=512, options=VLLMOptions(dtype="float32", step_tokens=512)
    )
    yield made
    made.close()
