"""Trees in the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from report_runs import Maker, make_run
from rich.console import Console

from arpo_algo.cli import main, view
from arpo_algo.report.terminal import render_tree
from arpo_algo.tree import Outcome, Tree


def shown(tree: Tree) -> str:
    out = io.StringIO()
    Console(file=out, width=220, color_system=None).print(render_tree(tree, k=20))
    return out.getvalue()


def test_every_turn_fork_and_outcome_is_shown() -> None:
    tree = Maker(2).tree("deepsearch-7")
    text = shown(tree)
    assert "deepsearch-7" in text
    assert text.count("model H=") == sum(n.kind == "action" for n in tree.nodes)
    assert text.count("⑂ fork of") == tree.n_forks == 4
    assert text.count("reward ") == len(tree.leaves())
    assert text.count("Entropy ") == sum(len(n.forks) for n in tree.nodes)


def test_the_command_gives_entropies_in_nats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", steps=1, trees=1, tasks=1)
    out = io.StringIO()
    monkeypatch.setattr(view, "console", Console(file=out, width=220, color_system=None))
    assert main(["view", str(tmp_path / "run"), "--terminal"]) == 0
    said = out.getvalue()
    assert said.count("Entropy ") == said.count("nats a token") > 0


def test_texts_can_neither_style_nor_drive_the_terminal() -> None:
    tree = Maker(2, hostile=True).tree("[bold]x[/bold]\x1b]0;owned\x07")
    tree.nodes[0].text = "\x1b[2J[red]prompt\u202e"
    leaf = tree.leaves()[0]
    leaf.outcome = Outcome(1.0, answer="\x9b31m", stop_reason="\x1b[0m")
    tree.nodes[leaf.id - 1].text += "\x07"
    text = shown(tree)
    assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert "[bold]x[/bold]" in text
    assert "[red]prompt" in text


def test_a_void_leaf_and_a_bare_tree() -> None:
    tree = Tree("t", [1], prompt_text="p")
    tree.add(0, "action").outcome = Outcome(0.0, stop_reason="infra: gone", void=True)
    assert "void: infra: gone" in shown(tree)
    assert "H=?" in shown(tree)
