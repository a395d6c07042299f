"""Policy-gradient losses over a flat list of loss terms: pure functions, one a formula."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from arpo_algo.errors import ConfigError


@dataclass
class LossBatch:
    """Loss terms, one a (trajectory, token) pair; all tensors [R] in float32, ``leaf`` and ``node`` integer.

    ``logp``: of the current policy, with gradient. ``old_logp``: of the policy at the start of the update (the
    ratio's denominator; the paper's Eq. 7 misprints it as π_ref). ``rollout_logp``: as the engine sampled.
    ``weight`` sums to 1 over the mini-batch, so that partial sums over packs add up to the mean.
    ``ref_logp``: of a frozen reference; ``value``: of a critic, before the token, with gradient; ``returns``: what
    it should have been. Each is None where the algorithm does not ask for it.
    """

    logp: torch.Tensor
    old_logp: torch.Tensor
    rollout_logp: torch.Tensor
    advantage: torch.Tensor
    entropy: torch.Tensor
    leaf: torch.Tensor
    node: torch.Tensor
    weight: torch.Tensor
    ref_logp: torch.Tensor | None = None
    value: torch.Tensor | None = None
    returns: torch.Tensor | None = None


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


def sequence_mean(values: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """For each term, the mean of ``values`` over all terms of its trajectory. Both [R]; packs hold whole trees."""
    n = int(leaf.max()) + 1 if len(leaf) else 0
    total = values.new_zeros(n).index_add(0, leaf, values)
    count = values.new_zeros(n).index_add(0, leaf, torch.ones_like(values))
    return (total / count.clamp(min=1))[leaf]


def clipped_sequence(batch: LossBatch, clip_low: float, clip_high: float) -> LossOutput:
    """GSPO: the ratio is that of the whole trajectory, length-normalised, and clipped as a whole.

    s_i = (π(y_i)/π_old(y_i))^(1/|y_i|) = exp(mean_t log-ratio);  L = −Σ w·min(s_i·Â, clip(s_i, 1−ε_low, 1+ε_high)·Â)
    (Zheng et al. 2025, arXiv 2507.18071, Eq. 5–7). Only sampled tokens count towards |y_i|.
    """
    whole = sequence_mean(batch.logp - batch.old_logp, batch.leaf.long())
    old = torch.zeros_like(whole)
    return clipped(replace(batch, logp=whole, old_logp=old), clip_low, clip_high)


def detached_ratio(batch: LossBatch, ratio_max: float) -> LossOutput:
    """CISPO: no token loses its gradient (MiniMax-M1, arXiv 2506.13585, Eq. 4–5).

    L = −Σ w·sg(min(r, ratio_max))·Â·ln π
    """
    ratio = (batch.logp - batch.old_logp).detach().exp()
    w = batch.weight
    metrics = {"clip_fraction": float((w * (ratio > ratio_max)).sum()), "ratio_mean": float((w * ratio).sum())}
    return LossOutput(-(w * ratio.clamp(max=ratio_max) * batch.advantage * batch.logp).sum(), metrics)


def balanced_clip(batch: LossBatch, clip_low: float, clip_high: float) -> LossOutput:
    """AEPO's surrogate: clipped values, but the gradient of tokens clipped above survives (arXiv 2510.14545, Eq. 8).

    L = −Σ w·min(δ·Ã, clip(δ, 1−ε_low, (1+ε_high)·δ/sg(δ))·Ã),  δ = exp(logp − old_logp),  sg = stop-gradient
    """
    log_ratio = batch.logp - batch.old_logp
    delta = log_ratio.exp()
    above = (1 + clip_high) * (log_ratio - log_ratio.detach()).exp()  # (1+ε)·δ/sg(δ): value 1+ε, gradient of ln δ
    cut = torch.minimum(delta.clamp(min=1 - clip_low), above) * batch.advantage
    plain = delta * batch.advantage
    w = batch.weight
    with torch.no_grad():
        metrics = {
            "clip_fraction": float((w * (cut < plain)).sum()),
            "ratio_mean": float((w * delta).sum()),
            "policy_kl": float((w * (delta - 1 - log_ratio)).sum()),
        }
    return LossOutput(-(w * torch.minimum(plain, cut)).sum(), metrics)


def truncated_importance(batch: LossBatch, cap: float) -> LossBatch:
    """Advantages times min(π_old/π_rollout, cap): corrects an engine whose numbers differ from the learner's.

    Truncated importance sampling (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training"). Every surrogate here is linear in |Â|, so that scaling Â scales the term.
    """
    correction = (batch.old_logp - batch.rollout_logp).detach().exp().clamp(max=cap)
    return replace(batch, advantage=batch.advantage * correction)


def kl_penalty(batch: LossBatch, estimator: Literal["k1", "k2", "k3"]) -> torch.Tensor:
    """Σ w·k, an estimate of KL(π ‖ π_ref) to add to a loss; d = ln π − ln π_ref of the sampled token (Schulman 2020).

    k1 = ρ·d  (ρ = π/π_old keeps its gradient: without ρ the expected gradient of k1 is zero),
    k2 = d²/2,  k3 = e^(−d) − 1 + d  (GRPO's, arXiv 2402.03300, Eq. 4).

    Raises:
        ConfigError: the batch has no reference log-probs.
    """
    if batch.ref_logp is None:
        raise ConfigError("a KL penalty needs reference log-probs: call learner.set_reference(model)")
    d = batch.logp - batch.ref_logp
    if estimator == "k1":
        k = (batch.logp - batch.old_logp).exp() * d
    elif estimator == "k2":
        k = d.square() / 2
    else:
        k = (-d).exp() - 1 + d
    return (batch.weight * k).sum()


def value_loss(batch: LossBatch) -> torch.Tensor:
    """Σ w·(V − R)²/2  (PPO, Eq. 9); all tokens of a turn regress to that turn's return.

    Raises:
        ConfigError: the batch has no values.
    """
    if batch.value is None or batch.returns is None:
        raise ConfigError("this loss needs a value head and returns: build Learner(…, algorithm=…)")
    return (batch.weight * (batch.value - batch.returns).square()).sum() / 2
