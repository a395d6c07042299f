"""When to fork: rules that look at a probe taken right after a tool result, or at the finished rollouts.

A rule is data with pure functions. The sampler owns the budget (:class:`FairBudget`); a rule only says how many
siblings it *wants* here (:meth:`BranchingRule.wish`). Two optional methods make other searches possible:
:class:`Expanding` rules choose fork points once all paths of a tree have ended short of M, and
:class:`Planning` rules choose N after a first rollout.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from arpo_algo.errors import ConfigError, unknown
from arpo_algo.tree import Node, Tree


@dataclass(frozen=True, slots=True)
class Probe:
    """What is known at a node right after a tool result, once the next turn's first k tokens are out.

    The observation that a rule decides on; the engine's event that those tokens are out is
    :class:`~arpo_algo.engines.base.Probed`.

    ``entropy`` and ``baseline`` are normalised means (see :mod:`arpo_algo.entropy`); ``baseline`` is that of the
    trajectory's own first k tokens, inherited by branches. ``forks_on_path`` counts consecutive forks above. ``rng``
    is the node's own generator: decisions depend on the path, not on which probe arrived first.
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
class ForkPoint:
    """Sample anew from token ``offset`` of action ``node`` on; 0 is right after the result (or the prompt)."""

    node: int
    offset: int = 0


@runtime_checkable
class Expanding(Protocol):
    """A rule that forks finished rollouts. Asked again and again until the tree has M trajectories."""

    def expand(self, tree: Tree, missing: int, rng: np.random.Generator) -> list[ForkPoint]:
        """At most ``missing`` points, one a new trajectory; none: the rest starts at the root."""
        ...


@runtime_checkable
class Planning(Protocol):
    """A rule that sets N once the first rollout has ended (which is one of the N)."""

    def plan_roots(self, M: int, root_entropy: float, tool_entropies: Sequence[float]) -> int:
        """N in 1..M from the first rollout's normalised entropies: at its start, and after each tool result."""
        ...


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
            reason = f"P={p:.7g} {'>' if fork else '<='} τ={self.tau:g}"
        else:
            u = float(probe.rng.random())
            fork = u < min(max(p, 0.0), 1.0)
            reason = f"u={u:.7g} {'<' if fork else '>='} P={p:.7g}"
        return Wish(self.Z - 1 if fork else 0, p, f"ΔH={delta:+.4g}, {reason}")


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


@dataclass(frozen=True, slots=True)
class BalancedEntropy(Entropy):
    """AEPO's rule (arXiv 2510.14545): :class:`Entropy` damped on a path that has just forked, and a planned N.

    P_t = (α + β·ΔH_t)·(1 − min(1, penalty·l)) after l consecutive forks; N = round(M·σ(b·(H_root − mean H_tool))).

    Args:
        penalty: what each consecutive fork takes off P_t (the paper: linear in l, slope not given).
        b: sensitivity of N to the entropy gap.
    """

    penalty: float = 0.2
    b: float = 1.0

    def __post_init__(self) -> None:
        Entropy.__post_init__(self)
        if not 0 <= self.penalty <= 1:
            raise ConfigError(f"penalty must lie in [0, 1], got {self.penalty}")

    def wish(self, probe: Probe) -> Wish:
        keep = 1 - min(1.0, self.penalty * probe.forks_on_path)
        damped = Entropy(self.k, self.alpha * keep, self.beta * keep, self.tau, self.Z, self.rule)
        wish = damped.wish(probe)
        return Wish(wish.siblings, wish.score, f"{wish.reason}, l={probe.forks_on_path}")

    def plan_roots(self, M: int, root_entropy: float, tool_entropies: Sequence[float]) -> int:
        tool = sum(tool_entropies) / len(tool_entropies) if tool_entropies else 0.0
        share = 1 / (1 + math.exp(-self.b * (root_entropy - tool)))
        return max(2, min(M, round(M * share)))  # two at least: the probe has ended, somebody must be there to fork


def _by_root(tree: Tree, nodes: Sequence[Node]) -> list[list[Node]]:
    """``nodes`` grouped by the root rollout they descend from."""
    groups: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        groups[tree.path(node.id)[1].id].append(node)
    return [groups[root] for root in sorted(groups)]


@dataclass(frozen=True, slots=True)
class RandomResults:
    """Forks at tool results drawn uniformly once the rollouts have ended.

    Args:
        per_root: how many results each root rollout's tree expands in a round (Tree-GRPO); None: all that are
            missing, drawn from all results alike (the control of ARPO).
        probe_tokens: tokens of the probes, which only log entropies here; 0: no probes.
    """

    per_root: int | None = None
    probe_tokens: int = 0

    def wish(self, probe: Probe) -> Wish:
        return Wish(0, 0.0, "forks are drawn when the rollouts have ended")

    def expand(self, tree: Tree, missing: int, rng: np.random.Generator) -> list[ForkPoint]:
        below = tree.leaves_below()
        # The first action after each result of a scored rollout: its siblings hang beside it.
        firsts = [tree.nodes[n.children[0]] for n in tree.nodes if n.kind == "result" and n.children and below[n.id]]
        if self.per_root is None:
            pools, each = [firsts], missing
        else:
            pools, each = _by_root(tree, firsts), self.per_root
        # In an order of its own, so that a budget that runs out does not always favour the first roots.
        pools = [pools[i] for i in rng.permutation(len(pools))]
        drawn = [pool[int(rng.integers(len(pool)))] for _ in range(each) for pool in pools if pool]
        return [ForkPoint(node.id) for node in drawn[:missing]]


@dataclass(frozen=True, slots=True)
class Surprise:
    """TreeRL's EPTree: forks at the tokens that surprised most, −ln π(y_t), once the rollouts have ended.

    Args:
        points: tokens that each root rollout's tree forks at in a round. ways: new branches at each.
    """

    points: int = 2
    ways: int = 2
    probe_tokens: int = 0

    def __post_init__(self) -> None:
        if self.points < 1 or self.ways < 1:
            raise ConfigError(f"points and ways must be >= 1, got {self.points} and {self.ways}")

    def wish(self, probe: Probe) -> Wish:
        return Wish(0, 0.0, "forks are chosen when the rollouts have ended")

    def expand(self, tree: Tree, missing: int, rng: np.random.Generator) -> list[ForkPoint]:
        below = tree.leaves_below()
        scored = [n for n in tree.nodes if n.kind == "action" and below[n.id]]
        ranked = []
        for nodes in _by_root(tree, scored):
            tokens = [(lp, n.id, i) for n in nodes for i, lp in enumerate(n.logprobs) if i or self._alone(tree, n)]
            ranked.append([ForkPoint(node, i) for _, node, i in sorted(tokens)[: self.points]])
        ranked = [ranked[i] for i in rng.permutation(len(ranked))]
        # Best token of each tree first, so that a budget that runs out is shared fairly.
        turns = [p[i] for i in range(self.points) for p in ranked if i < len(p)]
        return [point for point in turns for _ in range(self.ways)][:missing]

    @staticmethod
    def _alone(tree: Tree, node: Node) -> bool:
        """Whether its first token may be sampled anew: not a root's, and not at a point forked already."""
        return bool(node.parent) and len(tree.nodes[node.parent or 0].children) == 1


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
