"""The GPG theorem: the macro-action gradient is the token gradient, under any segmentation.

∇J = E[Σ_T ∇ln π(MA_T | MS_T)·A_T]. A four-step decision process is enumerated exactly, in float64, so that the
expectation is a sum: no sampling, no tolerance but rounding.
"""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch

STEPS, VOCAB = 4, 3
SEGMENTATIONS = [(1, 1, 1, 1), (4,), (2, 2), (1, 3), (3, 1), (1, 2, 1), (2, 1, 1)]


def reward(y: tuple[int, ...]) -> float:
    return float(y.count(1) ** 2) - (2.0 if y[0] == y[-1] else 0.0)


def logits(theta: torch.Tensor, prefix: tuple[int, ...]) -> torch.Tensor:
    """An autoregressive policy with shared parameters: position, last token, and how often 1 came."""
    last = prefix[-1] if prefix else 0
    return theta[len(prefix)] + theta[STEPS + last] * (1 + prefix.count(1))


def log_probs(theta: torch.Tensor, y: tuple[int, ...]) -> list[torch.Tensor]:
    return [logits(theta, y[:t]).log_softmax(-1)[y[t]] for t in range(STEPS)]


def value(theta: torch.Tensor, prefix: tuple[int, ...]) -> float:
    """V(MS): the exact expected reward from a prefix on."""
    total = 0.0
    for rest in product(range(VOCAB), repeat=STEPS - len(prefix)):
        y = (*prefix, *rest)
        total += float(torch.stack(log_probs(theta, y)[len(prefix) :]).sum().exp() if rest else 1.0) * reward(y)
    return total


@pytest.fixture(scope="module")
def theta() -> torch.Tensor:
    t = torch.randn(STEPS + VOCAB, VOCAB, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.7
    return t.requires_grad_()


def true_gradient(theta: torch.Tensor) -> torch.Tensor:
    everything = product(range(VOCAB), repeat=STEPS)
    objective = sum(torch.stack(log_probs(theta, y)).sum().exp() * reward(y) for y in everything)
    assert isinstance(objective, torch.Tensor)
    return torch.autograd.grad(objective, theta)[0]


@pytest.mark.parametrize("segments", SEGMENTATIONS)
@pytest.mark.parametrize("advantage", ["return", "return − V", "Q − V"])
def test_any_segmentation_gives_the_policy_gradient(
    theta: torch.Tensor, segments: tuple[int, ...], advantage: str
) -> None:
    exact = true_gradient(theta)
    bounds = [sum(segments[:i]) for i in range(len(segments) + 1)]
    with torch.no_grad():
        prefixes = {y[:b] for y in product(range(VOCAB), repeat=STEPS) for b in bounds}
        V = {p: value(theta, p) for p in prefixes}
    surrogate = torch.zeros((), dtype=torch.float64)
    for y in product(range(VOCAB), repeat=STEPS):
        lp = log_probs(theta, y)
        p = torch.stack(lp).sum().exp().detach()
        for begin, end in pairwise(bounds):
            macro = torch.stack(lp[begin:end]).sum()  # ln π(MA_T | MS_T)
            A = {
                "return": reward(y),
                "return − V": reward(y) - V[y[:begin]],
                "Q − V": V[y[:end]] - V[y[:begin]],
            }[advantage]
            surrogate = surrogate + p * macro * A
    got = torch.autograd.grad(surrogate, theta)[0]
    assert torch.allclose(got, exact, rtol=1e-9, atol=1e-12)
    assert float(exact.norm()) > 0.1
