"""Numbers into sentences: what the run achieved, and why a node forked or did not. All computed, none assumed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arpo_algo.report.charts import number
from arpo_algo.report.data import EvalRow, RunData
from arpo_algo.stats import paired_difference
from arpo_algo.tree import ForkDecision, Node, Tree


@dataclass(frozen=True, slots=True)
class Change:
    """The change in held-out success between two evaluations, with its 95 % interval and how that was made."""

    before: EvalRow
    after: EvalRow
    difference: float
    low: float
    high: float
    method: str


def final_rows(evals: Sequence[EvalRow]) -> list[EvalRow]:
    """One row a name, the last one, in order of first appearance."""
    return list({row.name: row for row in evals}.values())


def on_the_way(row: EvalRow) -> bool:
    """Whether it is one of the evaluations that the trainer makes during training (``step 50``)."""
    return re.fullmatch(r"step \d+", row.name) is not None


def headline_changes(run: RunData) -> list[Change]:
    """Cold start -> last evaluation, and first -> last (one of them when they are the same)."""
    rows = final_rows(run.evals)
    if len(rows) < 2:
        return []
    cold = next((r for r in rows if r.name.lower() == "cold start"), rows[0])
    befores = [r for r in dict.fromkeys((cold.name, rows[0].name)) if r != rows[-1].name]
    return [change(run, next(r for r in rows if r.name == name), rows[-1]) for name in befores]


def change(run: RunData, before: EvalRow, after: EvalRow) -> Change:
    """Paired over the tasks where both evaluations saved all their trees; else Newcombe's interval.

    Newcombe (1998, method 10): with proportions p, q and their intervals, the difference q − p lies in
    [d − √((q−q_low)² + (p_high−p)²), d + √((q_high−q)² + (p−p_low)²)], for independent samples.
    """
    a, b = _successes(run, before), _successes(run, after)
    if a is not None and b is not None and a.keys() == b.keys() and len(a) > 1:
        tasks = sorted(a)
        d, low, high = paired_difference([a[t] for t in tasks], [b[t] for t in tasks])
        return Change(before, after, d, low, high, f"paired over the same {len(tasks)} held-out tasks")
    d = after.success - before.success
    low = d - math.hypot(after.success - after.success_low, before.success_high - before.success)
    high = d + math.hypot(after.success_high - after.success, before.success - before.success_low)
    return Change(before, after, d, low, high, "Newcombe's interval, the two evaluations taken as independent")


def eval_file_of(run: RunData, row: EvalRow) -> Path | None:
    """Where the trees of an evaluation lie: ``before`` -> eval-before, ``cold start`` -> eval-after-sft, ``ARPO`` ->
    eval-after-arpo."""
    name = row.name.lower()
    stem = {"before": "eval-before", "cold start": "eval-after-sft"}.get(name, f"eval-after-{name.replace(' ', '-')}")
    return next((f.path for f in run.tree_files if f.name == stem), None)


def _successes(run: RunData, row: EvalRow) -> dict[str, float] | None:
    """Success by task id; None unless the saved trees are exactly the ones the row was computed from."""
    path = eval_file_of(run, row)
    if path is None:
        return None
    trees, _ = next(f for f in run.tree_files if f.path == path).read()
    found: dict[str, float] = {}
    for tree in trees:
        leaves = tree.leaves()
        if len(leaves) != 1 or tree.task_id in found or leaves[0].outcome is None:
            return None
        found[tree.task_id] = float(leaves[0].outcome.is_success)
    if len(found) != row.n or not math.isclose(sum(found.values()) / max(row.n, 1), row.success, abs_tol=1e-6):
        return None
    return found


def change_sentence(c: Change) -> str:
    """What may honestly be said about a change: rose, fell, or not shown."""
    points, low, high = (100 * x for x in (c.difference, c.low, c.high))
    span = f"95 % CI {low:+.1f} to {high:+.1f}"
    sides = f"from {100 * c.before.success:.1f} % ({c.before.name}) to {100 * c.after.success:.1f} % ({c.after.name})"
    if c.low > 0:
        return f"Held-out success rose by {points:.1f} points ({span}), {sides}."
    if c.high < 0:
        return f"Held-out success fell by {-points:.1f} points ({span}), {sides}."
    went = "did not change" if abs(points) < 0.05 else f"went {sides}, {points:+.1f} points"
    return f"No change in held-out success is shown: it {went}, and the interval ({span}) holds zero."


def fork_words(tree: Tree, decision: ForkDecision, k: int | None) -> str:
    """Why siblings were, or were not, forked: one sentence a probe.

    ``k``: tokens a probe averages over; with it, entropies are given in nats too. Without it only normalised.
    """
    verb = "rose" if decision.delta > 0 else "fell" if decision.delta < 0 else "stayed"
    now, before = decision.entropy, decision.baseline
    delta = f"ΔH = {'+' if decision.delta > 0 else ''}{number(decision.delta)}"
    nats = _nats(tree, decision, k)
    if nats is not None:
        size = f"from {number(nats[0])} to {number(nats[1])} nats a token ({delta} normalised)"
    else:
        size = f"from {number(before)} to {number(now)} normalised ({delta})"
    # The rule's own words begin with ΔH, which has just been said.
    rule, _, _ = re.sub(r"^ΔH=[^,]*,\s*", "", decision.reason).partition("; budget left")
    twins = [n for n in tree.nodes if n.fork_of == decision.probe_node]
    names = "" if not twins else f" (node{'s' if len(twins) > 1 else ''} {', '.join(str(n.id) for n in twins)})"
    if decision.granted:
        some = f"forked {_siblings(decision.granted)}{names}"
        if decision.granted < decision.wanted:
            some += f", not the {decision.wanted} wanted: the budget had no more"
    elif decision.wanted:
        some = f"{_siblings(decision.wanted)} wanted, but no fork budget was left here → not forked"
    else:
        some = "not forked"
    return f"Entropy {verb} {size} → {rule.strip()} → {some}."


def _siblings(n: int) -> str:
    return f"{n} sibling{'s' if n != 1 else ''}"


def _nats(tree: Tree, decision: ForkDecision, k: int | None) -> tuple[float, float] | None:
    """Mean entropy of the first k tokens, in nats: of the trajectory's own start, and of the probe."""
    if k is None or not 0 <= decision.probe_node < len(tree.nodes):
        return None
    start = next((n for n in tree.path(decision.probe_node) if n.kind == "action"), None)
    probe = tree.nodes[decision.probe_node]
    if start is None or not start.entropies or not probe.entropies:
        return None
    heads = (start.entropies[:k], probe.entropies[:k])
    return math.fsum(heads[0]) / len(heads[0]), math.fsum(heads[1]) / len(heads[1])


def no_probe_words(tree: Tree, node: Node) -> str:
    """Why a result carries no decision."""
    if not node.children:
        return "No probe: the trajectory ended before its next turn."
    return "No probe was taken here: the branching rule of this run never forks, or this is an evaluation."


_CALL = re.compile(r"<(?!think\b|result\b|answer\b)([A-Za-z_][\w-]{0,31})>(.*?)</\1>", re.DOTALL)


def tool_call(text: str) -> tuple[str, str] | None:
    """(tool, argument) of the call that ends a turn, for display; None when it holds none.

    Thoughts are cut first: what they mention is not done.
    """
    spoken = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    calls = list(_CALL.finditer(spoken))
    return (calls[-1][1], calls[-1][2].strip()) if calls else None


def turn_text(tree: Tree, node: Node) -> str:
    """What the model wrote in the turn that ends in ``node``, in however many nodes it lies."""
    text, at = node.text, node
    while at.parent is not None and tree.nodes[at.parent].kind == "action":
        at = tree.nodes[at.parent]
        text = at.text + text
    return text


def result_body(text: str) -> str:
    """A result without its ``<result>`` frame."""
    match = re.fullmatch(r"\s*<result>\n?(.*?)\n?</result>\s*", text, re.DOTALL)
    return match[1] if match else text
