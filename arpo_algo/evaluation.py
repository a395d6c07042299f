"""Success on held-out tasks: one sampled trajectory a task, an interval, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arpo_algo.errors import TrainingError
from arpo_algo.stats import paired_difference, wilson
from arpo_algo.tree import Tree


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation measured. ``per_task``: 1.0 or 0.0, in task order (void tasks are left out)."""

    name: str
    step: int
    per_task: dict[str, float]
    reward: float
    tool_calls: float
    format_errors: float
    tokens: float
    seconds: float
    void: int
    trees: Sequence[Tree]

    @property
    def success(self) -> float:
        return sum(self.per_task.values()) / len(self.per_task)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], per_task: Mapping[str, float]) -> Evaluation:
        """An evaluation read back from ``eval.jsonl`` and ``eval-tasks.jsonl``, without its trees."""
        keys = ("name", "step", "reward", "tool_calls", "format_errors", "tokens", "seconds", "void")
        return cls(per_task=dict(per_task), trees=(), **{key: row[key] for key in keys})

    def row(self) -> dict[str, Any]:
        """The row of ``eval.jsonl``: means a task, success with its 95 % Wilson interval."""
        low, high = wilson(round(sum(self.per_task.values())), len(self.per_task))
        return {
            "name": self.name,
            "step": self.step,
            "n": len(self.per_task),
            "success": self.success,
            "success_low": low,
            "success_high": high,
            "reward": self.reward,
            "tool_calls": self.tool_calls,
            "format_errors": self.format_errors,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "void": self.void,
            "per_task": self.per_task,
        }


def summarise(trees: Sequence[Tree], *, name: str, step: int, seconds: float) -> Evaluation:
    """Grade trees of one trajectory each.

    Raises:
        TrainingError: infrastructure spoilt every one.
    """
    outcomes = {t.task_id: leaf.outcome for t in trees for leaf in t.leaves() if leaf.outcome is not None}
    n = len(outcomes)
    if not n:
        first = next((leaf.outcome.stop_reason for t in trees for leaf in t.void_leaves() if leaf.outcome), "no tasks")
        raise TrainingError(f"evaluation {name!r}: infrastructure spoilt every trajectory: {first}")
    sampled = sum(len(node.tokens) for t in trees for node in t.nodes if node.kind == "action")
    return Evaluation(
        name,
        step,
        {task: float(o.is_success) for task, o in outcomes.items()},
        sum(o.reward for o in outcomes.values()) / n,
        sum(o.tool_calls for o in outcomes.values()) / n,
        sum(not o.info["format_ok"] for o in outcomes.values()) / n,
        sampled / n,
        seconds,
        sum(len(t.void_leaves()) for t in trees),
        trees,
    )


def compare(before: Evaluation, after: Evaluation) -> tuple[float, float, float]:
    """Paired difference in success over the tasks both have: (mean, low, high) at 95 %."""
    shared = sorted(set(before.per_task) & set(after.per_task))
    return paired_difference([before.per_task[t] for t in shared], [after.per_task[t] for t in shared])
