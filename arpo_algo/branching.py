"""When to fork: rules that look at a probe taken right after a tool result.

A rule is data with one pure function. The sampler owns the budget (:class:`FairBudget`); a rule only says how
many siblings it *wants* here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from arpo_algo.errors import ConfigError, unknown


@dataclass(frozen=True, slots=True)
class Probe:
    """What is known at a node right after a tool result, once the next turn's first k tokens are out.

    ``entropy`` and ``baseline`` are normalised means (see :mod:`arpo_algo.entropy`); ``baseline`` is that of the
    trajectory's own first k tokens, inherited by branches. ``root_entropy`` is the mean over the tree's
    root rollouts seen so far. ``forks_on_path`` counts consecutive forks above. ``rng`` is the node's own
    generator: decisions depend on the path, not on which probe arrived first.
    """

    entropy: float
    baseline: float
    forks_on_path: int
    turn: int
    rng: np.random.Generator


@dataclass(frozen=True, slots=True)
class Wish:
    """How many siblings to fork here, the quantity that decided, and the reason in words."""

    siblings: int
    score: float
    reason: str


class BranchingRule(Protocol):
    """Decides at a node. ``probe_tokens`` is k: how many tokens the probe waits for (0: the rule never forks)."""

    @property
    def probe_tokens(self) -> int: ...

    def wish(self, probe: Probe) -> Wish: ...


@dataclass(frozen=True, slots=True)
class Never:
    """Trajectory-level sampling: GRPO and its kin."""

    probe_tokens: int = 0

    def wish(self, probe: Probe) -> Wish:
        return Wish(0, 0.0, "never branches")


@dataclass(frozen=True, slots=True)
class Entropy:
    """ARPO's rule at a node after tool step t (paper, section 3.2): P_t = α + β·ΔH_t.

    ``threshold`` (paper): fork iff P_t > τ. With α = τ this reads "fork iff entropy rose", whatever β > 0 is.
    ``bernoulli`` (the released code's variant): fork with probability clip(P_t, 0, 1), which makes β matter.

    Args:
        k: tokens a probe averages over (paper: 10–50; released code: 20).
        alpha, beta, tau: as above; paper 0.5, 0.2, 0.5. A negative ``beta`` turns the sign: the control that
            forks where the model is *least* uncertain.
        Z: ways at a fork, the original included (paper: 2, one extra sibling).
        rule: see above.

    Raises:
        ConfigError: a value out of range.
    """

    k: int = 20
    alpha: float = 0.5
    beta: float = 0.2
    tau: float = 0.5
    Z: int = 2
    rule: Literal["threshold", "bernoulli"] = "threshold"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k must be >= 1 token, got {self.k}")
        if self.Z < 2:
            raise ConfigError(f"Z counts the original too and must be >= 2, got {self.Z}; use branching=Never()")
        if self.rule not in ("threshold", "bernoulli"):
            raise unknown("branching rule", self.rule, ("threshold", "bernoulli"))

    @property
    def probe_tokens(self) -> int:
        return self.k

    def wish(self, probe: Probe) -> Wish:
        delta = probe.entropy - probe.baseline  # ΔH_t
        p = self.alpha + self.beta * delta  # P_t = α + β·ΔH_t
        if self.rule == "threshold":
            fork = p > self.tau
            reason = f"P={p:.4f} {'>' if fork else '<='} τ={self.tau:g}"
        else:
            u = float(probe.rng.random())
            fork = u < min(max(p, 0.0), 1.0)
            reason = f"u={u:.3f} {'<' if fork else '>='} P={p:.3f}"
        return Wish(self.Z - 1 if fork else 0, p, f"ΔH={delta:+.4f}, {reason}")


@dataclass(frozen=True, slots=True)
class Random:
    """The control that reviewers asked for: fork after a tool result with a fixed probability, entropy ignored."""

    probability: float = 0.5
    Z: int = 2
    k: int = 20  # probes are still taken, so that entropies are logged alike

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ConfigError(f"probability must lie in [0, 1], got {self.probability}")
        if self.Z < 2:
            raise ConfigError(f"Z counts the original too and must be >= 2, got {self.Z}; use branching=Never()")

    @property
    def probe_tokens(self) -> int:
        return self.k

    def wish(self, probe: Probe) -> Wish:
        u = float(probe.rng.random())
        fork = u < self.probability
        return Wish(self.Z - 1 if fork else 0, self.probability, f"u={u:.3f}, p={self.probability:g}")


@dataclass
class FairBudget:
    """M − N forks shared fairly among N root rollouts, without a barrier.

    Each root owns an equal quota (the remainder is dealt out by a seeded permutation). What the lineage of a
    root has not used when it ends goes to a common pool. In the released code, whoever came first ate all.
    """

    forks: int
    roots: int
    rng: np.random.Generator
    pool: int = 0
    quota: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        base, extra = divmod(self.forks, self.roots)
        self.quota = [base] * self.roots
        for i in self.rng.permutation(self.roots)[:extra]:
            self.quota[int(i)] += 1

    def take(self, root: int, want: int) -> int:
        """Grant up to ``want`` forks to the lineage of ``root``: its own quota first, then the pool."""
        own = min(want, self.quota[root])
        self.quota[root] -= own
        shared = min(want - own, self.pool)
        self.pool -= shared
        return own + shared

    def retire(self, root: int) -> None:
        """The lineage of ``root`` has ended: its unused quota goes to the pool."""
        self.pool += self.quota[root]
        self.quota[root] = 0

    @property
    def left(self) -> int:
        return self.pool + sum(self.quota)
