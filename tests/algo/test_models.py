"""Names of models and devices: what cannot be had is said in one line that names the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from arpo_algo import models
from arpo_algo.errors import ConfigError


def test_a_run_folder_is_no_model_and_names_its_newest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    assert models.resolve(str(tmp_path)) == tmp_path  # a model's folder may hold what it likes
    (tmp_path / ".lock").touch()
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        models.resolve(str(tmp_path))
    newest = tmp_path / "checkpoints" / "step-000003" / "model"
    newest.mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"newest model is {newest}"):
        models.resolve(str(tmp_path))


def test_a_folder_without_a_tokenizer_says_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"cannot be loaded: .*; give a folder that save_pretrained wrote"):
        models.load(str(tmp_path))


@pytest.mark.parametrize(
    ("device", "said"),
    [("gpu", "none that torch knows"), (f"cuda:{torch.cuda.device_count()}", "give cpu or auto")],
)
def test_a_device_that_is_not_there(device: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}'.*{said}"):
        models.load("no/such", device=device)  # before anything is fetched
