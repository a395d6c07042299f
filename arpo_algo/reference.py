"""For a KL penalty: the policy that RL starts from, kept in the run folder so that a resumed run has the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arpo_algo import assembly, sharding
from arpo_algo.distributed import World
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.learner import Learner


def set_reference(
    folder: Path, learner: Learner, tokenizer: PreTrainedTokenizerBase, world: World, *, device: str, begins: bool
) -> None:
    """Give the learner its reference. All processes must take part.

    Args:
        folder: where it lies.
        begins: RL begins here, with the learner's weights of now.

    Raises:
        TrainingError: it cannot be written.
        ConfigError: it is gone.
    """
    whole = sharding.whole_state(learner.model, keep=world.main) if learner.sharded and begins else None
    failed = _write(folder, learner.model, tokenizer, whole) if begins and world.main else ""
    if failed := world.agree(failed):
        raise TrainingError(f"{folder} cannot be written: {failed}; make room and --resume")
    if not folder.exists():
        raise ConfigError(f"{folder} is gone, and the KL penalty needs it; bring it back, or start another run")
    reference, _ = assembly.load_policy(str(folder), device)
    learner.set_reference(reference)


def _write(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, whole: dict[str, torch.Tensor] | None
) -> str:
    """The model into ``folder``; returns why not, else ""."""
    fresh = folder.with_name(".reference")
    for old in (fresh, folder):
        shutil.rmtree(old, ignore_errors=True)
    try:
        model.save_pretrained(fresh, state_dict=whole)
        tokenizer.save_pretrained(fresh)
        fresh.replace(folder)
    except Exception as error:  # safetensors has errors of its own for a disk that takes no more
        shutil.rmtree(fresh, ignore_errors=True)
        return f"{type(error).__name__}: {error}"
    return ""
