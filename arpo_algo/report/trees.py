"""Rollout trees as the compact JSON that the page's viewer draws.

Long runs hold far more trees than a page can: steps and trees are capped, evenly over the run and first come in a
step (never by outcome). What the page's size allows is shared: each file gets one tree before any gets a second,
evaluations and the newest steps first. The page says what was left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from arpo_algo.report import words
from arpo_algo.report.data import RunData, TreeFile
from arpo_algo.tree import Node, Outcome, Tree

#: At most so many training steps are read, the first and the last among them.
MAX_STEPS = 40
#: At most so many evaluations made on the way are read; those before and after training always are.
MAX_EVALS = 12
#: At most so many trees a training step, and chains an evaluation, are embedded.
MAX_TREES_PER_STEP, MAX_TREES_PER_EVAL = 6, 12
#: What all embedded trees may weigh, in characters of JSON.
MAX_CHARS = 3_900_000
#: So many trees a training step, and chains an evaluation, are read for the statistics.
MAX_READ_PER_STEP, MAX_READ_PER_EVAL = 64, 2000
#: So many of the steps without a tree on the page are named there.
_NAMED = 6
#: A longer text of one node is cut in the page (and says so).
MAX_TEXT = 20_000


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """A tree file as read: ``trees`` are its first ones, ``total`` what it holds."""

    file: TreeFile
    label: str
    trees: list[Tree]
    total: int


@dataclass(slots=True)
class Forest:
    """What the viewer gets: ``payload`` is JSON-able."""

    payload: dict[str, Any]
    shown: int
    total: int
    notes: list[str] = field(default_factory=list)


def load(run: RunData) -> list[LoadedFile]:
    """Read the tree files that the page uses: at most :data:`MAX_STEPS` training steps and :data:`MAX_EVALS`
    evaluations on the way, spread evenly; evaluations in the order in which they were made."""
    out = []
    evals = sorted(run.trees_of("eval"), key=_when)
    kept = spread([f for f in evals if _on_the_way(f) is not None], MAX_EVALS)
    evals = [f for f in evals if _on_the_way(f) is None or f in kept]
    for file in [*spread(run.trees_of("train"), MAX_STEPS), *evals, *run.trees_of("other")]:
        trees, total = file.read(MAX_READ_PER_EVAL if file.kind == "eval" else MAX_READ_PER_STEP)
        if trees:
            out.append(LoadedFile(file, label(file), trees, total))
    return out


def _on_the_way(file: TreeFile) -> int | None:
    """``eval-after-step-50`` -> 50; None for the evaluations before and after training."""
    found = re.fullmatch(r"eval-after-step-(\d+)", file.name)
    return int(found[1]) if found else None


def _when(file: TreeFile) -> tuple[int, int, str]:
    step = _on_the_way(file)
    place = {"eval-before": 0, "eval-after-sft": 1}.get(file.name, 3 if step is None else 2)
    return place, step or 0, file.name


def spread(items: Sequence[TreeFile], limit: int) -> list[TreeFile]:
    """At most ``limit`` items, evenly spaced, first and last included."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def label(file: TreeFile) -> str:
    """``train-000003`` -> "training step 3", ``eval-after-sft`` -> "after cold start"."""
    if file.kind == "train":
        return f"training step {file.step}"
    if file.kind == "eval":
        words_ = file.name.removeprefix("eval-").split("-")
        return " ".join({"sft": "cold start", "arpo": "ARPO", "grpo": "GRPO"}.get(w, w) for w in words_)
    return file.name


def _listed(f: LoadedFile) -> str:
    """The label in the list of files, where it stands alone."""
    return f"evaluation {f.label}" if f.file.kind == "eval" else f.label


def forest(run: RunData, loaded: Sequence[LoadedFile], k: int | None) -> Forest:
    """Encode as many trees as the caps allow."""
    shares: list[list[dict[str, Any]]] = [[] for _ in loaded]
    waiting = [iter(f.trees[: MAX_TREES_PER_EVAL if f.file.kind == "eval" else MAX_TREES_PER_STEP]) for f in loaded]
    # Evaluations are chains, and small; of the rest the newest say most about the run as it stands.
    turn = sorted(range(len(loaded)), key=lambda i: (loaded[i].file.kind != "eval", -i))
    left, cut = MAX_CHARS, False
    while turn:
        for i in list(turn):
            for tree in waiting[i]:  # one a round: the next that there is room for
                encoded = encode(tree, k)
                size = len(json.dumps(encoded, ensure_ascii=False))
                if size <= left:
                    left -= size
                    shares[i].append(encoded)
                    break
                cut = True
            else:
                turn.remove(i)
    shown, total = sum(map(len, shares)), sum(f.total for f in loaded)
    notes = []
    if shown < total:
        why = "the page's size limit" if cut else "the limit of trees a step"
        rest = "the others are in the run folder under trees/"
        notes.append(f"{shown} of the {total} trees of these steps are shown ({why}); {rest}.")
    if lost := [_listed(f) for f, share in zip(loaded, shares, strict=True) if not share]:
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        notes.append(f"No tree is shown of {', '.join(lost[:_NAMED])}{more}: there was no room for one.")
    for what, every, kind in (
        ("training steps with saved trees", len(run.trees_of("train")), "train"),
        ("evaluations with saved trees", len(run.trees_of("eval")), "eval"),
    ):
        used = sum(f.file.kind == kind for f in loaded)
        if used < every:
            notes.append(f"{used} of the {every} {what} are used, spread evenly.")
    # An untrained model's evaluation has entropies of whole nats, beside which those of training cannot be seen.
    scaled = [f for f in loaded if f.file.kind == "train"] or loaded
    entropies = [h for f in scaled for t in f.trees for n in t.nodes for h in n.entropies if math.isfinite(h)]
    means = [math.fsum(n.entropies) / len(n.entropies) for f in scaled for t in f.trees for n in t.nodes if n.entropies]
    scale = {"token": _quantile(entropies, 0.99), "node": _quantile(means, 0.98)}
    files = [
        {"name": f.file.name, "label": _listed(f), "total": f.total, "trees": share}
        for f, share in zip(loaded, shares, strict=True)
        if share
    ]
    return Forest({"files": files, "scale": scale}, shown, total, notes)


def _quantile(values: list[float], q: float) -> float:
    """A robust maximum for a colour scale; 1 when there is nothing to scale."""
    finite = sorted(v for v in values if math.isfinite(v))
    return max(finite[min(len(finite) - 1, int(q * len(finite)))], 1e-3) if finite else 1.0


def encode(tree: Tree, k: int | None) -> dict[str, Any]:
    """One tree. Token texts are indices into the tree's own table ``pieces``."""
    table: dict[str, int] = {}
    advantages = tree.meta.get("advantages")
    nodes = [_node(tree, node, table, advantages if isinstance(advantages, dict) else {}, k) for node in tree.nodes]
    leaves = [n.outcome for n in tree.leaves() if n.outcome is not None]
    return {
        "task": tree.task_id,
        "unique": tree.n_tokens,
        "flat": tree.n_tokens_flat,
        "forks": tree.n_forks,
        "calls": tree.tool_calls,
        "leaves": len(leaves),
        "wins": sum(o.is_success for o in leaves),
        "reward": _finite(math.fsum(o.reward for o in leaves) / len(leaves)) if leaves else None,
        "pieces": list(table),
        "nodes": nodes,
    }


def _node(tree: Tree, node: Node, table: dict[str, int], advantages: dict[str, Any], k: int | None) -> dict[str, Any]:
    text = words.result_body(node.text) if node.kind == "result" else node.text
    out: dict[str, Any] = {"p": node.parent, "k": node.kind[0], "s": node.start, "n": len(node.tokens)}
    if node.kind == "action":
        spans = token_spans(tree, node)
        if spans is None:
            out["t"] = _cut(text)
        else:
            out["x"] = [table.setdefault(piece, len(table)) for piece, _, _ in spans]
            out["h"] = [_finite(h, 4) for _, h, _ in spans]
            if any(count > 1 for _, _, count in spans):
                out["c"] = [count for _, _, count in spans]
        mean = _finite(math.fsum(node.entropies) / len(node.entropies), 5) if node.entropies else None
        if mean is not None:  # an engine's entropies may be NaN
            out["m"] = mean
        ends = any(tree.nodes[c].kind == "result" for c in node.children)
        called = words.tool_call(words.turn_text(tree, node)) if ends else None
        if called:
            out["call"] = [called[0], _cut(called[1])]
        if node.fork_of is not None:
            out["fork"] = node.fork_of
    else:
        out["t"] = _cut(text)
    if node.kind == "result":
        out["ok"] = node.ok
        out["why"] = [words.fork_words(tree, d, k) for d in node.forks] or [words.no_probe_words(tree, node)]
        if node.forks:
            out["probe"] = sum(d.granted for d in node.forks)
    if node.outcome is not None:
        out["o"] = _outcome(node.outcome, advantages.get(str(node.id)))
    return out


def _outcome(o: Outcome, advantage: Any) -> dict[str, Any]:
    out: dict[str, Any] = {
        "r": _finite(o.reward),
        "terms": {str(name): _finite(v) for name, v in o.reward_terms.items()},
        "win": o.is_success,
        "stop": o.stop_reason,
        "cut": o.truncated,
        "calls": o.tool_calls,
        "turns": o.turns,
        "answer": None if o.answer is None else _cut(o.answer),
        "void": o.void,
        "info": {
            str(name): _cut(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str))
            for name, v in o.info.items()
        },
    }
    if isinstance(advantage, int | float):
        out["a"] = _finite(advantage)
    return out


def token_spans(tree: Tree, node: Node) -> list[tuple[str, float, int]] | None:
    """(text, mean entropy, tokens) of an action's tokens, in order; None when token texts were not saved.

    A character that several tokens share decodes to U+FFFD token by token; such tokens are joined into one span, with
    its true text taken from the node.
    """
    pieces = tree.meta.get("pieces")
    if not isinstance(pieces, dict) or len(node.entropies) != len(node.tokens):
        return None
    try:
        texts = [str(pieces[str(t)]) for t in node.tokens]
    except KeyError:
        return None
    spans = [(text, h, 1) for text, h in zip(texts, node.entropies, strict=True)]
    return _mend(spans, node.text) if any("\ufffd" in t for t in texts) else spans


def _mend(spans: list[tuple[str, float, int]], text: str) -> list[tuple[str, float, int]]:
    """Join runs of broken pieces and give them the text between the whole pieces around them.

    Where the pieces cannot be laid along the text, they are returned as they are.
    """
    runs = [(broken, list(group)) for broken, group in groupby(spans, key=lambda span: "\ufffd" in span[0])]
    out: list[tuple[str, float, int]] = []
    at = 0
    for i, (broken, run) in enumerate(runs):
        if not broken:
            at += len("".join(piece for piece, _, _ in run)) if i == 0 else 0
            out += run
            continue
        follow = [piece for piece, _, _ in runs[i + 1][1]] if i + 1 < len(runs) else []
        end, literal = -1, ""
        # The last run may end with special tokens, which the text leaves out: drop pieces until the rest is found.
        for kept in range(len(follow), 0, -1):
            literal = "".join(follow[:kept])
            end = text.find(literal, at + 1)
            if end >= 0 or i + 2 < len(runs):
                break
        if not follow or (end < 0 and i + 2 >= len(runs)):  # nothing of the tail is in the text
            end, literal = len(text), ""
        if end < 0:
            return spans
        out.append((text[at:end], math.fsum(h for _, h, _ in run) / len(run), len(run)))
        at = end + len(literal)
    return out


def _finite(value: float, digits: int = 6) -> float | None:
    value = float(value)
    return round(value, digits) if math.isfinite(value) else None


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… [cut: {len(text) - MAX_TEXT} more characters]"
