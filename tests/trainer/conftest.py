"""Fixtures of the trainer's tests: a tiny model, and a fork server for runs that get killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import Children, save_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def children() -> Children:
    return Children()
