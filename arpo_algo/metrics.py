"""What a batch of trees says about a policy, as numbers for logs and guards."""

from __future__ import annotations

from collections.abc import Sequence

from arpo_algo.advantages import no_signal
from arpo_algo.tree import Tree


def tree_metrics(trees: Sequence[Tree]) -> dict[str, float]:
    """Means over scored trajectories, totals, and shares. Trees without a scored trajectory count as void only."""
    scored = [t for t in trees if t.leaves()]
    outcomes = [leaf.outcome for t in scored for leaf in t.leaves() if leaf.outcome is not None]
    n = len(outcomes)
    void = sum(len(t.void_leaves()) for t in trees)
    results = [node for t in trees for node in t.nodes if node.kind == "result"]
    sampled = sum(len(node.tokens) for t in scored for node in t.nodes if node.kind == "action")
    forks = sum(t.n_forks for t in scored)
    return {
        "trajectories": float(n),
        "reward": sum(o.reward for o in outcomes) / n,
        "success": sum(o.is_success for o in outcomes) / n,
        "format_errors": sum(not o.info["format_ok"] for o in outcomes) / n,
        "truncated": sum(o.truncated for o in outcomes) / n,
        "tool_calls": sum(o.tool_calls for o in outcomes) / n,
        "turns": sum(o.turns for o in outcomes) / n,
        "tool_calls_made": float(sum(t.tool_calls for t in trees)),
        "tool_errors": sum(not r.ok for r in results) / max(len(results), 1),
        "forks": float(forks),
        "fork_rate": forks / n,
        "tokens_sampled": sampled / n,
        "tokens_computed": float(sum(t.n_tokens for t in trees)),
        "tokens_unique": float(sum(t.n_tokens for t in scored)),
        "tokens_flat": float(sum(t.n_tokens_flat for t in scored)),
        "groups_without_signal": sum(no_signal([x.outcome.reward for x in t.leaves() if x.outcome]) for t in scored)
        / len(scored),
        "void": float(void),
        "void_share": void / (n + void),
    }
