"""Policy-gradient losses over a flat list of loss terms: pure functions, one a formula."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from arpo_algo.errors import ConfigError


@dataclass
class LossBatch:
    """Loss terms, one a (trajectory, token) pair; all tensors [R] in float32, ``leaf`` and ``node`` integer.

    ``logp``: of the current policy, with gradient. ``old_logp``: of the policy at the start of the update (the
    ratio's denominator; the paper's Eq. 7 misprints it as π_ref). ``rollout_logp``: as the engine sampled.
    ``weight`` sums to 1 over the mini-batch, so that partial sums over packs add up to the mean.
    """

    logp: torch.Tensor
    old_logp: torch.Tensor
    rollout_logp: torch.Tensor
    advantage: torch.Tensor
    entropy: torch.Tensor
    leaf: torch.Tensor
    node: torch.Tensor
    weight: torch.Tensor


@dataclass
class LossOutput:
    """``loss`` to minimise (a weighted sum) and metrics that add up over packs the same way."""

    loss: torch.Tensor
    metrics: dict[str, float]


def check_clip(clip_low: float, clip_high: float, dual_clip: float | None) -> None:
    """Raises:
    ConfigError: a clip range that is negative, or a dual clip that is not above 1.
    """
    if clip_low < 0 or clip_low >= 1 or clip_high < 0:
        raise ConfigError(f"need 0 <= clip_low < 1 and clip_high >= 0, got {clip_low} and {clip_high}")
    if dual_clip is not None and dual_clip <= 1:
        raise ConfigError(f"dual_clip must be > 1 (or None), got {dual_clip}")


def clipped(batch: LossBatch, clip_low: float, clip_high: float, dual_clip: float | None = None) -> LossOutput:
    """PPO's clipped surrogate, with dual clip.

    L = −Σ w·min(r·Â, clip(r, 1−ε_low, 1+ε_high)·Â),  r = exp(logp − old_logp)   (PPO Eq. 7; ARPO Eq. 7)
    and, where Â < 0, that minimum is bounded below by c·Â (dual clip, Ye et al. 2020, Eq. 5; released code: c=3).
    """
    log_ratio = batch.logp - batch.old_logp
    ratio = log_ratio.exp()
    a = batch.advantage
    plain = ratio * a
    cut = ratio.clamp(1 - clip_low, 1 + clip_high) * a
    objective = torch.minimum(plain, cut)
    if dual_clip is not None:
        objective = torch.where(a < 0, torch.maximum(objective, dual_clip * a), objective)
    w = batch.weight
    with torch.no_grad():
        metrics = {
            "clip_fraction": float((w * (cut < plain)).sum()),
            "ratio_mean": float((w * ratio).sum()),
            # k3 estimator of KL(old ‖ new), Schulman 2020
            "policy_kl": float((w * (ratio - 1 - log_ratio)).sum()),
        }
    return LossOutput(-(w * objective).sum(), metrics)
