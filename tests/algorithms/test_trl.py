"""Losses against TRL's own code on the same numbers (TRL is a test dependency; skipped where it is not installed).

``GRPOTrainer._compute_loss`` is run unbound, on a stand-in for the trainer that holds the settings and returns given
log-probs. TRL computes group advantages and RLOO's inside its generation loop, where they cannot be called alone;
those are checked by hand in ``test_golden.py``.
"""

from __future__ import annotations

import importlib
import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from arpo_algo.algorithms import make
from arpo_algo.losses import LossBatch

B, T, LENGTH = 5, 7, 32


@pytest.fixture(scope="module")
def trl_loss() -> Any:
    pytest.importorskip("trl", reason="pip install trl==1.16.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("trl.trainer.grpo_trainer").GRPOTrainer._compute_loss


class Numbers:
    """A padded batch with a tool mask: some columns were not sampled."""

    def __init__(self, seed: int, noise: float) -> None:
        g = torch.Generator().manual_seed(seed)
        self.old = torch.randn(B, T, generator=g, dtype=torch.float64) - 2
        self.logp = (self.old + noise * torch.randn(B, T, generator=g, dtype=torch.float64)).requires_grad_()
        self.ref = self.old + 0.3 * torch.randn(B, T, generator=g, dtype=torch.float64)
        self.entropy = torch.rand(B, T, generator=g, dtype=torch.float64)
        self.advantage = torch.randn(B, generator=g, dtype=torch.float64)
        lengths = torch.randint(2, T + 1, (B,), generator=g)
        self.mask = (torch.arange(T)[None] < lengths[:, None]).long()
        self.tool = (torch.rand(B, T, generator=g) > 0.25).long()
        self.tool[:, 0] = 1


def theirs(trl_loss: Any, n: Numbers, loss_type: str, **settings: Any) -> tuple[float, torch.Tensor]:
    identity = SimpleNamespace(
        num_processes=1,
        sync_gradients=False,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    values = {
        "loss_type": loss_type,
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "use_vllm": False,
        "vllm_importance_sampling_correction": True,
        "max_completion_length": LENGTH,
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
        "accelerator": identity,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "model": SimpleNamespace(training=True),
        "args": SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        "_get_per_token_logps_and_entropies": lambda *a, **k: (n.logp, n.entropy, None),
    }
    values |= settings
    mask = n.mask * n.tool
    inputs = {
        "prompt_ids": torch.zeros(B, 1, dtype=torch.long),
        "prompt_mask": torch.ones(B, 1, dtype=torch.long),
        "completion_ids": torch.zeros(B, T, dtype=torch.long),
        "completion_mask": n.mask,
        "tool_mask": n.tool,
        "advantages": n.advantage,
        "old_per_token_logps": n.old,
        "ref_per_token_logps": n.ref,
        "num_items_in_batch": mask.sum(),
        "importance_sampling_ratio": torch.full((B, T), 0.7, dtype=torch.float64),
    }
    loss = trl_loss(SimpleNamespace(**values), None, inputs)
    return float(loss.detach()), torch.autograd.grad(loss, n.logp)[0]


def ours(n: Numbers, name: str, **options: Any) -> tuple[float, torch.Tensor]:
    algorithm = make(name, **options)
    mask = (n.mask * n.tool).bool()
    row = torch.arange(B)[:, None].expand(B, T)[mask]
    counts = mask.sum(1)[row].double()
    weight = {
        "token": torch.full_like(counts, 1 / float(mask.sum())),
        "sequence": 1 / (B * counts),
        "fixed": torch.full_like(counts, 1 / (B * LENGTH)),
    }[algorithm.aggregation]
    batch = LossBatch(
        n.logp[mask],
        n.old[mask],
        n.old[mask] - torch.tensor(0.7).double().log(),  # old/rollout = 0.7
        n.advantage[row],
        n.entropy[mask],
        row,
        row,
        weight,
        n.ref[mask],
    )
    loss = algorithm.loss(batch).loss
    return float(loss.detach()), torch.autograd.grad(loss, n.logp)[0]


CASES = [
    # ours, options, TRL's loss type and settings
    ("grpo", {"aggregation": "sequence", "dual_clip": None}, "grpo", {}),
    ("grpo", {"dual_clip": None}, "bnpo", {}),
    ("dapo", {}, "dapo", {"epsilon_high": 0.28}),
    ("dr_grpo", {"length": LENGTH}, "dr_grpo", {}),
    ("cispo", {"ratio_max": 1.3}, "cispo", {"epsilon_high": 1.3}),
    (
        "gspo",
        {"clip_low": 0.02, "clip_high": 0.03},
        "grpo",
        {"importance_sampling_level": "sequence", "epsilon_low": 0.02, "epsilon_high": 0.03},
    ),
    ("grpo", {"dual_clip": None, "kl_coef": 0.1, "kl": "k3"}, "bnpo", {"beta": 0.1}),
    ("grpo", {"dual_clip": None, "tis_cap": 2.0}, "bnpo", {"use_vllm": True}),
    (
        "grpo",
        {"dual_clip": None, "entropy_coef": 0.05},
        "bnpo",
        {"_entropy_bonus_enabled": True, "entropy_coef": 0.05, "use_adaptive_entropy": False},
    ),
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "options", "kind", "settings"), CASES)
def test_same_loss_and_gradient(
    trl_loss: Any, name: str, options: dict[str, Any], kind: str, settings: dict[str, Any], seed: int
) -> None:
    numbers = Numbers(seed, noise=0.4)
    value, gradient = ours(numbers, name, **options)
    trl_value, trl_gradient = theirs(trl_loss, numbers, kind, **settings)
    assert value == pytest.approx(trl_value, rel=1e-6)
    assert torch.allclose(gradient, trl_gradient, rtol=1e-6, atol=1e-9)
    assert float(gradient.abs().max()) > 1e-4
    assert not gradient[(numbers.mask * numbers.tool) == 0].any(), "nothing flows into tool tokens"
