"""Synthetic run folders: what a deep-search run writes, without a model. ``python report_runs.py DIR`` writes one."""

from __future__ import annotations

import gzip
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from arpo_algo.branching import Entropy, FairBudget, Probe
from arpo_algo.stats import wilson
from arpo_algo.tree import ForkDecision, Node, Outcome, Tree

VOCAB = 49152
K = 20
#: What a page or a model may hold; must stay text wherever it is shown.
HOSTILE = "</script><img src=x onerror=\"document.documentElement.dataset.pwned='1'\"><b>&amp;\u2028{{css}}\x1b[31m"

_PEOPLE = ("Ada Brimco", "Teo Varn", "Lise Okafor", "Ruben Haas", "Mina Sato", "Iker Lund")
_CITIES = ("Varn", "Ostrel", "Quillane", "Marbeck", "Tessaly")


class Pieces:
    """A toy tokenizer: words with the blank before them; ids by first appearance."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [self.ids.setdefault(p, len(self.ids) + 5) for p in re.findall(r"\s?\w+|\s?[^\w\s]|\s+", text)]

    def table(self) -> dict[str, str]:
        return {str(i): p for p, i in self.ids.items()}


class Maker:
    """Makes trees with the shape, the forks and the entropies of a small deep-search run."""

    def __init__(self, seed: int = 0, hostile: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.hostile = hostile

    def turn(self, tree: Tree, above: int, pieces: Pieces, text: str, level: float) -> Node:
        node = tree.add(above, "action", pieces.encode(text), text=text)
        n = len(node.tokens)
        fade = np.exp(-np.arange(n) / 12.0)
        node.entropies = [round(float(h), 5) for h in self.rng.gamma(0.35, level / 0.35, n) * (0.3 + fade)]
        node.logprobs = [round(-h, 5) for h in node.entropies]
        return node

    def tree(self, task: str, *, M: int = 8, N: int = 4, skill: float = 0.5, forks: bool = True) -> Tree:
        rng, pieces = self.rng, Pieces()
        person, city = str(rng.choice(_PEOPLE)), str(rng.choice(_CITIES))
        question = (
            f"In which city was the founder of the company that {person} directs born? How many people live there?"
        )
        tree = Tree(task, pieces.encode(question), prompt_text=question)
        budget = FairBudget(M - N, N, rng)
        rule = Entropy(k=K)
        # (node above, turn, baseline, root)
        queue: list[tuple[int, int, float | None, int, Node | None]] = [(0, 0, None, root, None) for root in range(N)]
        while queue:
            above, turn, baseline, root, beside = queue.pop(0)
            last = turn >= int(rng.integers(2, 5))
            if last:
                good = bool(rng.random() < skill)
                said = (
                    f"<think>The pages name {city}.</think>\n<answer>\\boxed{{{city if good else 'Hollin'}}}</answer>"
                )
            elif turn % 2 == 1 and rng.random() < 0.5:
                a, b = (int(x) for x in rng.integers(100, 9000, 2))
                said = f"<think>Add the two districts.</think>\n<python>print({a} + {b})</python>"
            else:
                said = f"<think>I need {person}'s page, then the founder's.</think>\n<search>{person} company</search>"
            node = self.turn(tree, above, pieces, said, 0.02 if turn == 0 else float(rng.gamma(2.0, 0.05)))
            head = sum(node.entropies[:K]) / len(node.entropies[:K]) / math.log(VOCAB)
            if baseline is None:
                baseline = head
            elif beside is not None:
                node.fork_of = beside.id
            elif forks:
                wish = rule.wish(Probe(head, baseline, 0, turn, rng))
                granted = budget.take(root, wish.siblings)
                reason = wish.reason if granted == wish.siblings else f"{wish.reason}; budget left {granted}"
                decision = ForkDecision(node.id, head, baseline, wish.score, wish.siblings, granted, reason)
                tree.nodes[above].forks.append(decision)
                queue += [(above, turn, baseline, root, node)] * granted
            if last:
                terms = {"accuracy": float(good), "both_tools": 0.1 * good} if rng.random() > 0.12 else {"format": -1.0}
                node.outcome = Outcome(
                    sum(terms.values()),
                    terms,
                    good and "format" not in terms,
                    "answered",
                    False,
                    turn,
                    turn + 1,
                    city if good else "Hollin",
                    info={"format_ok": "format" not in terms, "verdict": "exact match" if good else "differs"},
                )
                continue
            found = (
                "8412"
                if "<python>" in said
                else (
                    f"[1] {person} (born 1961) directs Brimco Ltd. Brimco Ltd was founded by Teo Varn in 1984.\n"
                    f"[2] {city} is a city on the river Elm; 48,200 people live there.\n[3] Hollin: see Hollin (river)."
                )
            )
            if self.hostile:
                found = f"{HOSTILE} {found}"
            framed = f"<result>\n{found}\n</result>"
            result = tree.add(node.id, "result", pieces.encode(framed), text=framed)
            result.ok = bool(rng.random() > 0.08)
            queue.append((result.id, turn + 1, baseline, root, None))
        tree.meta = {"step": 0, "pieces": pieces.table()}
        leaves = tree.leaves()
        rewards = np.array([leaf.outcome.reward for leaf in leaves if leaf.outcome is not None])
        advantages = ((rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)).tolist() if len(leaves) > 1 else [0.0]
        tree.meta["advantages"] = {str(leaf.id): a for leaf, a in zip(leaves, advantages, strict=True)}
        return tree


def write_trees(path: Path, trees: list[Tree]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for tree in trees:
            file.write(json.dumps(tree.to_json()) + "\n")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def config(**changes: Any) -> dict[str, Any]:
    return {
        "config": {
            "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "algorithm": {"name": "arpo", "k": K, "M": 8, "N": 4},
        },
        "seed": 0,
        "versions": {"arpo": "0.1.0", "torch": "2.13.0", "transformers": "5.19.0"},
        "machine": {"cpu": "2 cores", "memory": "24 GiB", "gpu": None},
        "started": "2026-01-05T12:00:00Z",
        "algorithm": "arpo",
        "env_id": "ARPO-DeepSearch-v0",
        **changes,
    }


def make_run(
    run: Path, *, steps: int = 12, trees: int = 3, tasks: int = 60, seed: int = 0, hostile: bool = False
) -> Path:
    """A finished run: cold start, training, three evaluations with their trees."""
    run.mkdir(parents=True, exist_ok=True)
    maker = Maker(seed, hostile)
    rng = np.random.default_rng(seed + 1)
    (run / "config.json").write_text(json.dumps(config(), indent=1), encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {
            "phase": "sft",
            "step": s,
            "loss": 2.1 * math.exp(-s / 8) + 0.1,
            "grad_norm": 3.0 / (s + 1) + 0.4,
            "seconds": 3.1,
        }
        for s in range(24)
    ]
    for step in range(steps):
        share = (step + 1) / steps
        skill = 0.3 + 0.5 * share
        made = [maker.tree(f"deepsearch-train-{step * 10 + i}", skill=skill) for i in range(trees)]
        write_trees(run / "trees" / f"train-{step:06d}.jsonl.gz", made)
        leaves = [leaf.outcome for t in made for leaf in t.leaves() if leaf.outcome is not None]
        rows.append(
            {
                "phase": "train",
                "step": step,
                "reward": sum(o.reward for o in leaves) / len(leaves),
                "success": sum(o.is_success for o in leaves) / len(leaves),
                "loss": float(rng.normal(0, 0.02)),
                "entropy": 0.09 - 0.05 * share + float(rng.normal(0, 0.004)),
                "grad_norm": float(rng.gamma(4, 0.1)),
                "clip_fraction": float(rng.random() * 0.01),
                "policy_kl": float(rng.random() * 1e-3),
                "rollout_kl": float(rng.random() * 1e-5),
                "tool_calls": sum(o.tool_calls for o in leaves) / len(leaves),
                "tool_calls_made": float(sum(t.tool_calls for t in made)),
                "forks": float(sum(t.n_forks for t in made)),
                "format_errors": max(0.0, 0.2 - 0.18 * share),
                "tokens_unique": float(sum(t.n_tokens for t in made)),
                "tokens_flat": float(sum(t.n_tokens_flat for t in made)),
                "turns": 3.4,
                "seconds_rollout": 11 + float(rng.normal(0, 1)),
                "seconds_update": 9 + float(rng.normal(0, 0.5)),
                "seconds_tools": 0.4,
                "learning_rate": 3e-5,
            }
        )
    write_lines(run / "metrics.jsonl", rows)
    evals = []
    for name, file, step, skill in (
        ("before", "before", 0, 0.02),
        ("cold start", "after-sft", 0, 0.35),
        ("ARPO", "after-arpo", steps, 0.72),
    ):
        made = [maker.tree(f"deepsearch-test-{i}", M=1, N=1, skill=skill, forks=False) for i in range(tasks)]
        for tree in made:
            del tree.meta["advantages"]
        write_trees(run / "trees" / f"eval-{file}.jsonl.gz", made)
        outcomes = [t.leaves()[0].outcome for t in made]
        wins = sum(o.is_success for o in outcomes if o is not None)
        low, high = wilson(wins, tasks)
        evals.append(
            {
                "name": name,
                "step": step,
                "n": tasks,
                "success": wins / tasks,
                "success_low": low,
                "success_high": high,
                "reward": sum(o.reward for o in outcomes if o is not None) / tasks,
                "tool_calls": 2.4,
                "format_errors": 0.08,
                "tokens": 212.5,
                "seconds": 41.0,
            }
        )
    write_lines(run / "eval.jsonl", evals)
    return run


if __name__ == "__main__":
    make_run(Path(sys.argv[1]))
