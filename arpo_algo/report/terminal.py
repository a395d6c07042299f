"""A rollout tree in the terminal, for ``arpo view --terminal``: no browser needed on a remote machine."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from arpo_algo.errors import ConfigError
from arpo_algo.report import words
from arpo_algo.tree import Node, Tree

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree as RichTree


def render_tree(tree: Tree, *, k: int | None = None, width: int = 100) -> RichTree:
    """The tree as a rich renderable: one line a turn and a result, fork decisions and outcomes beneath.

    Args:
        k: tokens that a fork probe averages over (see :func:`arpo_algo.report.words.fork_words`).
        width: characters of a node's text that are shown.

    Raises:
        ConfigError: rich is not installed.
    """
    try:
        from rich.tree import Tree as RichTree
    except ImportError as error:
        raise ConfigError("the terminal view needs rich; pip install 'arpo[train]'") from error
    leaves = tree.leaves()
    wins = sum(leaf.outcome.is_success for leaf in leaves if leaf.outcome is not None)
    head = _line(
        ("task ", "dim"),
        (tree.task_id, "bold"),
        (
            f"  {len(leaves)} trajectories, {wins} solved, "
            f"{tree.n_forks} forks, {tree.n_tokens} unique tokens for {tree.n_tokens_flat} flat",
            "dim",
        ),
    )
    root = RichTree(head, guide_style="dim")
    branches = {0: root.add(_line(("prompt  ", "dim"), (_short(tree.nodes[0].text, width), "")))}
    for node in tree.walk():
        if node.parent is None:
            continue
        # A line of turns stays on one level of indentation; only what really branches goes deeper.
        above = branches[node.parent]
        at = above.add(_action(tree, node, width) if node.kind == "action" else _result(tree, node, width))
        alone = len(tree.nodes[node.parent].children) == 1
        branches[node.id] = above if alone else at
        for decision in node.forks:
            style = "magenta" if decision.granted else "dim"
            branches[node.id].add(_line((words.fork_words(tree, decision, k), style)))
        if node.outcome is not None:
            branches[node.id].add(_outcome(tree, node))
    return root


def _action(tree: Tree, node: Node, width: int) -> Text:
    mean = f"H={math.fsum(node.entropies) / len(node.entropies):.3f}" if node.entropies else "H=?"
    fork = (f"⑂ fork of {node.fork_of}  ", "bold magenta") if node.fork_of is not None else ("", "")
    return _line(
        (f"{node.id:>3} ", "dim"), fork, ("model ", "cyan"), (f"{mean}  ", "yellow"), (_short(node.text, width), "")
    )


def _result(tree: Tree, node: Node, width: int) -> Text:
    above = tree.nodes[node.parent] if node.parent is not None else node
    call = words.tool_call(words.turn_text(tree, above))
    name = call[0] if call else "environment"
    mark = ("", "") if node.ok else ("failed ", "bold red")
    return _line(
        (f"{node.id:>3} ", "dim"), (f"{name} → ", "blue"), mark, (_short(words.result_body(node.text), width), "dim")
    )


def _outcome(tree: Tree, node: Node) -> Text:
    o = node.outcome
    assert o is not None
    if o.void:
        return _line(("void: ", "bold"), (_safe(o.stop_reason), "dim"))
    style = "bold green" if o.reward > 0 else "bold red" if o.reward < 0 else "bold"
    advantages = tree.meta.get("advantages")
    a = advantages.get(str(node.id)) if isinstance(advantages, dict) else None
    known = f", advantage {a:+z.2f}" if isinstance(a, int | float) else ""
    answer = "no answer" if o.answer is None else f"answer {_safe(o.answer)!r}"
    return _line((f"reward {o.reward:+z.2f}", style), (f"{known}, {answer}, {_safe(o.stop_reason)}", "dim"))


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _safe(text: str) -> str:
    """Without control characters: a tool's text must not drive the reader's terminal."""
    return _CONTROL.sub("\ufffd", text)


def _short(text: str, width: int) -> str:
    """One line of at most ``width`` characters."""
    line = " ".join(_safe(text).split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _line(*parts: tuple[str, str]) -> Text:
    from rich.text import Text

    return Text.assemble(*((_safe(text), style) for text, style in parts if text))
