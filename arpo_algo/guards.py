"""What watches a run that nobody watches: alarms on metrics, and a bound on skipped steps.

Rules are data (:data:`RULES`): which metric, which side, what it means and what to do. Thresholds are
configuration (:class:`GuardsSection`). :class:`Guards` only counts, so that its state goes into a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from arpo_algo.errors import ConfigError, unknown
from arpo_algo.options import opt


@dataclass(frozen=True)
class GuardsSection:
    """Thresholds; ``none`` turns a rule off.

    Raises:
        ConfigError: a value out of range.
    """

    nonfinite: int = opt(3, "non-finite steps in a row (skipped and counted) after which the run stops with a report")
    patience: int = opt(3, "training steps in a row a threshold must be crossed before its alarm is raised")
    action: Literal["warn", "stop"] = opt("warn", "on an alarm: warn, or stop after the step with a checkpoint")
    no_tools: Literal["off", "warn", "stop"] = opt("warn", "a training step in which no tool was called at all")
    reward_drop: float | None = opt(
        0.5, "running mean of the reward below its best by this share of the rise so far (and by 0.2 at least)"
    )
    kl_max: float | None = opt(0.2, "KL to the reference, or of the policy over one update")
    rollout_kl_max: float | None = opt(0.05, "KL between the engine's log-probs and the learner's")
    entropy_min: float | None = opt(0.005, "entropy, nats a token: below it the policy has collapsed")
    entropy_max: float | None = opt(6.0, "entropy, nats a token: above it the policy has dissolved")
    truncated_max: float | None = opt(0.8, "share of trajectories cut by a budget of tokens or turns")
    tokens_min: float | None = opt(4.0, "sampled tokens a trajectory")
    format_errors_max: float | None = opt(0.95, "share of trajectories that break the tag protocol")
    tool_errors_max: float | None = opt(0.5, "share of tool results that are errors")
    void_max: float | None = opt(0.3, "share of trajectories spoilt by infrastructure")
    fork_rate_min: float | None = opt(None, "forks a trajectory, for algorithms that fork")
    fork_rate_max: float | None = opt(None, "forks a trajectory")
    retries: int = opt(4, "how often a step's spoilt trees are sampled again, waiting 1, 2, 4 … seconds")

    def __post_init__(self) -> None:
        for name in ("nonfinite", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"guards.{name} must be >= 1, got {getattr(self, name)}")
        if self.retries < 0:
            raise ConfigError(f"guards.retries must be >= 0, got {self.retries}")
        for name, known in (("action", ("warn", "stop")), ("no_tools", ("off", "warn", "stop"))):
            if getattr(self, name) not in known:
                raise unknown(f"guards.{name}", str(getattr(self, name)), known)
        if self.entropy_min is not None and self.entropy_max is not None and self.entropy_min >= self.entropy_max:
            raise ConfigError(
                f"need guards.entropy_min < guards.entropy_max, got {self.entropy_min} and {self.entropy_max}"
            )


@dataclass(frozen=True, slots=True)
class Rule:
    """``metric`` must stay on the right side of the threshold ``name`` (``…_max``: at most; ``…_min``: at least)."""

    name: str
    metric: str
    meaning: str
    advice: str

    def broken(self, value: float, threshold: float) -> bool:
        return value < threshold if self.name.endswith("_min") else value > threshold


RULES = (
    Rule("kl_max", "kl", "the policy is far from the reference", "lower learner.lr or raise algorithm.options.kl_coef"),
    Rule("kl_max", "policy_kl", "one update moves the policy far", "lower learner.lr, or use larger mini-batches"),
    Rule(
        "rollout_kl_max",
        "rollout_kl",
        "engine and learner disagree on log-probs",
        "look at precision, or correct with algorithm.options.tis_cap",
    ),
    Rule("entropy_min", "entropy", "the policy has collapsed", "lower learner.lr, raise clip_high or entropy_coef"),
    Rule("entropy_max", "entropy", "the policy has dissolved", "lower learner.lr; go back to an earlier checkpoint"),
    Rule("truncated_max", "truncated", "trajectories run into their budget", "raise rollout.max_tokens, look at trees"),
    Rule(
        "tokens_min", "tokens_sampled", "trajectories have become trivially short", "look at the trees, at the reward"
    ),
    Rule("format_errors_max", "format_errors", "the tag protocol is not followed", "a (longer) cold start: sft.steps"),
    Rule("tool_errors_max", "tool_errors", "tools answer with errors", "look at the trees: the policy, or the tool?"),
    Rule(
        "void_max",
        "void_share",
        "infrastructure spoils trajectories",
        "look at void_reason in metrics and at the tools",
    ),
    Rule("fork_rate_min", "fork_rate", "almost nothing forks", "look at the algorithm's k, alpha, beta, tau"),
    Rule("fork_rate_max", "fork_rate", "almost everything forks", "look at the algorithm's k, alpha, beta, tau"),
)


_CLEAR = 0.2  # a smaller drop of the reward's running mean is noise


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm, as it stands in ``alarms.jsonl``. ``step``: of its phase, as in ``metrics.jsonl``."""

    step: int
    name: str
    value: float | None
    threshold: float | None
    message: str
    stop: bool = False
    phase: Literal["sft", "train"] = "train"


@dataclass
class Guards:
    """Counts how long each threshold has been crossed. An alarm is raised once, and again after a recovery."""

    config: GuardsSection
    #: Whether the environment has tools at all, and whether the algorithm is meant to fork.
    has_tools: bool = True
    forks: bool = True
    crossed: dict[str, int] = field(default_factory=dict)
    nonfinite: int = 0
    seen: int = 0
    smooth: float = 0.0
    first: float | None = None
    best: float | None = None

    def check(self, step: int, metrics: Mapping[str, float]) -> list[Alarm]:
        """The alarms that ``metrics`` of training step ``step`` raise."""
        alarms = self._no_tools(step, metrics)
        for rule in RULES:
            threshold = getattr(self.config, rule.name)
            value = metrics.get(rule.metric)
            if threshold is None or value is None or not math.isfinite(value):
                continue
            if rule.name == "fork_rate_min" and not self.forks:
                continue
            if self._lasting(f"{rule.name}:{rule.metric}", rule.broken(value, threshold)):
                side = "below" if rule.name.endswith("_min") else "above"
                what = f"{rule.metric} {value:.4g} is {side} guards.{rule.name}={threshold:g}"
                message = f"{what}: {rule.meaning}; {rule.advice}"
                alarms.append(self._alarm(step, rule.name, value, threshold, message))
        return alarms + self._reward(step, metrics.get("reward"))

    def nonfinite_step(self, why: str) -> str | None:
        """Count a skipped optimiser step; the reason to stop when there were too many in a row, else None."""
        self.nonfinite += 1
        if self.nonfinite < self.config.nonfinite:
            return None
        return f"{why}; that is {self.nonfinite} optimiser steps in a row, each skipped (guards.nonfinite)"

    def finite_step(self) -> None:
        self.nonfinite = 0

    def state(self) -> dict[str, Any]:
        """JSON-able; :meth:`restore` takes it back."""
        keys = ("crossed", "nonfinite", "seen", "smooth", "first", "best")
        return {k: getattr(self, k) for k in keys}

    def restore(self, state: Mapping[str, Any]) -> None:
        for key, value in state.items():
            setattr(self, key, dict(value) if isinstance(value, Mapping) else value)

    # ------------------------------------------------------------------ inside

    def _lasting(self, key: str, broken: bool) -> bool:
        self.crossed[key] = self.crossed.get(key, 0) + 1 if broken else 0
        return self.crossed[key] == self.config.patience

    def _alarm(self, step: int, name: str, value: float | None, threshold: float | None, message: str) -> Alarm:
        return Alarm(step, name, value, threshold, message, self.config.action == "stop")

    def _no_tools(self, step: int, metrics: Mapping[str, float]) -> list[Alarm]:
        called = metrics.get("tool_calls_made")
        if self.config.no_tools == "off" or not self.has_tools or called is None:
            return []
        quiet = called == 0
        self.crossed["no_tools"] = self.crossed.get("no_tools", 0) + 1 if quiet else 0
        if self.crossed["no_tools"] != 1:
            return []
        message = (
            f"no tool was called in any trajectory of step {step}: the run trains without its tools. "
            "Look at the trees; teach the tags (sft.steps), or check prompt, stop strings and max_turn_tokens"
        )
        return [Alarm(step, "no_tools", 0.0, None, message, self.config.no_tools == "stop")]

    def _reward(self, step: int, reward: float | None) -> list[Alarm]:
        if reward is None or not math.isfinite(reward):
            return []
        # A plain mean over the first ten steps, then an exponential one: a few batches are noise.
        self.seen += 1
        self.smooth += (reward - self.smooth) / min(self.seen, 10)
        if self.seen < 10:
            return []
        self.first = self.smooth if self.first is None else self.first
        self.best = self.smooth if self.best is None else max(self.best, self.smooth)
        if self.config.reward_drop is None:
            return []
        floor = self.best - max(self.config.reward_drop * (self.best - self.first), _CLEAR)
        if not self._lasting("reward_drop", self.smooth < floor):
            return []
        return [
            self._alarm(
                step,
                "reward_drop",
                self.smooth,
                floor,
                f"the running mean of the reward is {self.smooth:.3f}, it was {self.best:.3f} at its best: "
                "the run is getting worse; lower learner.lr, or go back to the best checkpoint",
            )
        ]
