"""The viewer's JSON: spans of tokens, caps, and what each node carries."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import Maker, make_run, write_trees
from rich.console import Console

from arpo_algo.report import trees
from arpo_algo.report.data import TreeFile, read_run
from arpo_algo.report.page_trees import viewer
from arpo_algo.report.terminal import render_tree
from arpo_algo.tree import Node, Outcome, Tree


def test_nodes_carry_what_the_panel_says() -> None:
    tree = Maker(4).tree("a")
    encoded = trees.encode(tree, 20)
    assert len(encoded["nodes"]) == len(tree.nodes)
    assert (encoded["forks"], encoded["leaves"]) == (4, 8)
    for node, out in zip(tree.nodes, encoded["nodes"], strict=True):
        assert out["p"] == node.parent
        if node.kind == "action":
            assert "".join(encoded["pieces"][i] for i in out["x"]) == node.text
            assert out["h"] == [round(h, 4) for h in node.entropies]
            assert out["m"] == pytest.approx(sum(node.entropies) / len(node.entropies), abs=1e-5)
        else:
            assert "<result>" not in out["t"]
        assert out.get("fork") == node.fork_of
        if node.outcome is not None:
            assert out["o"]["r"] == pytest.approx(node.outcome.reward)
            assert out["o"]["a"] == pytest.approx(tree.meta["advantages"][str(node.id)], abs=1e-6)
        if node.kind == "result":
            assert out["probe"] == sum(d.granted for d in node.forks)
            assert len(out["why"]) == 1


def split_turns() -> Tree:
    """Two turns; the first lies in three nodes, as where an algorithm forks inside a turn."""
    tree, at = Tree("t", [1]), 0
    parts = [
        "<think>I ask.</think>",
        "<search>Ada ",
        "Brimco</search>",
        "<result>a page</result>",
        "<answer>7</answer>",
    ]
    for text in parts:
        node = tree.add(at, "result" if text.startswith("<result>") else "action", [5, 6], text=text)
        node.entropies = [0.5, 0.25] if node.kind == "action" else []
        at = node.id
    twin = tree.add(1, "action", [5], text="<answer>8</answer>")
    twin.fork_of, twin.outcome = 2, Outcome(0.0)
    tree.nodes[at].outcome = Outcome(1.0, is_success=True)
    return tree


def test_the_call_of_a_turn_in_several_nodes_is_found() -> None:
    nodes = trees.encode(split_turns(), None)["nodes"]
    assert nodes[3]["call"] == ["search", "Ada Brimco"]
    assert not any("call" in node for node in nodes if node is not nodes[3])
    text = io.StringIO()
    Console(file=text, width=200).print(render_tree(split_turns()))
    assert "search → a page" in text.getvalue()


def test_without_saved_pieces_the_plain_text_is_shown() -> None:
    tree = Maker(4).tree("a")
    tree.meta = {}
    nodes = trees.encode(tree, None)["nodes"]
    assert all("x" not in n for n in nodes)
    assert nodes[1]["t"] == tree.nodes[1].text
    assert all("a" not in n["o"] for n in nodes if "o" in n)


def test_non_finite_numbers_become_null() -> None:
    tree = Maker(4).tree("a")
    leaf = tree.leaves()[0]
    assert leaf.outcome is not None
    leaf.outcome.reward = float("nan")
    leaf.entropies[0] = float("inf")
    text = json.dumps(trees.encode(tree, 20), allow_nan=False)
    assert json.loads(text)["nodes"][leaf.id]["o"]["r"] is None


def test_a_mean_that_is_not_finite_is_left_out() -> None:
    tree = Maker(4).tree("a")
    tree.nodes[1].entropies[0] = float("nan")
    nodes = trees.encode(tree, 20)["nodes"]
    assert "m" not in nodes[1]
    assert nodes[1]["h"][0] is None


def test_colours_are_scaled_by_training_where_there_is_any(tmp_path: Path) -> None:
    """An untrained model's evaluation has nats where training has hundredths."""
    folder = make_run(tmp_path / "run", steps=2, trees=2, tasks=3)
    scale = trees.forest(read_run(folder), trees.load(read_run(folder)), 20).payload["scale"]
    wild = [Maker(5).tree(f"t{i}", M=1, N=1, forks=False) for i in range(3)]
    for tree in wild:
        for node in tree.nodes:
            node.entropies = [3.0 for _ in node.entropies]
    write_trees(folder / "trees/eval-before.jsonl.gz", wild)
    run = read_run(folder)
    found = trees.forest(run, trees.load(run), 20)
    assert found.payload["scale"] == scale
    assert max(scale.values()) < 3
    assert "nats or more" in viewer(found)
    for path in (folder / "trees").glob("train-*"):
        path.unlink()
    alone = read_run(folder)
    assert trees.forest(alone, trees.load(alone), 20).payload["scale"]["node"] == 3.0


def spans(pieces: list[str], text: str) -> list[tuple[str, float, int]] | None:
    tree = Tree("t", [1])
    tree.meta["pieces"] = {str(i): p for i, p in enumerate(pieces)}
    node = Node(
        1, 0, "action", 1, list(range(len(pieces))), entropies=[float(i) for i in range(len(pieces))], text=text
    )
    return trees.token_spans(tree, node)


BAD = "\ufffd"


@pytest.mark.parametrize(
    ("pieces", "text", "expected"),
    [
        (["a", " b"], "a b", [("a", 0, 1), (" b", 1, 1)]),
        (["a ", BAD, BAD, " b"], "a ☃ b", [("a ", 0, 1), ("☃", 1.5, 2), (" b", 3, 1)]),
        ([BAD, BAD], "é", [("é", 0.5, 2)]),
        (["a", BAD, BAD, "<|end|>"], "aé", [("a", 0, 1), ("é", 1.5, 2), ("<|end|>", 3, 1)]),
        ([BAD, BAD, "<|end|>", "<pad>"], "й", [("й", 0.5, 2), ("<|end|>", 2, 1), ("<pad>", 3, 1)]),
        (["a", BAD, BAD, "!", "<|end|>"], "aé!", [("a", 0, 1), ("é", 1.5, 2), ("!", 3, 1), ("<|end|>", 4, 1)]),
        (["a", BAD, "b", BAD, "c"], "aébüc", [("a", 0, 1), ("é", 1, 1), ("b", 2, 1), ("ü", 3, 1), ("c", 4, 1)]),
        (["a", BAD, "zz", BAD, "c"], "aéqüc", [("a", 0, 1), (BAD, 1, 1), ("zz", 2, 1), (BAD, 3, 1), ("c", 4, 1)]),
    ],
)
def test_characters_of_several_tokens_are_mended(
    pieces: list[str], text: str, expected: list[tuple[str, float, int]]
) -> None:
    assert spans(pieces, text) == expected


@given(st.lists(st.sampled_from(["ab", " c", BAD, "é", "\n"]), max_size=12), st.text(max_size=20))
def test_mending_loses_no_token_whatever_the_text(pieces: list[str], text: str) -> None:
    found = spans(pieces, text)
    assert found is not None
    assert sum(count for _, _, count in found) == len(pieces)


def test_caps_are_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_run(make_run(tmp_path / "run", steps=9, trees=3, tasks=3))
    whole = trees.forest(run, trees.load(run), 20)
    assert (whole.shown, whole.total, whole.notes) == (36, 36, [])
    size = len(json.dumps(whole.payload, ensure_ascii=False))

    monkeypatch.setattr(trees, "MAX_STEPS", 4)
    monkeypatch.setattr(trees, "MAX_TREES_PER_STEP", 2)
    some = trees.forest(run, trees.load(run), 20)
    steps = [f["name"] for f in some.payload["files"] if f["name"].startswith("train")]
    assert steps == ["train-000000", "train-000003", "train-000005", "train-000008"]
    assert all(len(f["trees"]) == 2 for f in some.payload["files"] if f["name"].startswith("train"))
    assert "4 of the 9 training steps" in some.notes[1]
    assert "17 of the 21 trees of these steps are shown (the limit of trees a step)" in some.notes[0]

    monkeypatch.setattr(trees, "MAX_CHARS", size // 4)
    cut = trees.forest(run, trees.load(run), 20)
    assert len(json.dumps(cut.payload, ensure_ascii=False)) < size // 3
    assert "the page's size limit" in cut.notes[0]
    assert {f["name"] for f in cut.payload["files"]} >= set(steps)  # every step keeps a tree


def test_where_room_is_scarce_evaluations_and_the_newest_steps_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(make_run(tmp_path / "run", steps=9, trees=3, tasks=3))
    loaded = trees.load(run)

    def size(tree: Tree) -> int:
        return len(json.dumps(trees.encode(tree, 20), ensure_ascii=False))

    evals = sum(size(f.trees[0]) for f in loaded if f.file.kind == "eval")
    largest = max(size(t) for f in loaded for t in f.trees)
    monkeypatch.setattr(trees, "MAX_CHARS", evals + 3 * largest)
    found = trees.forest(run, loaded, 20)
    kept = [f["name"] for f in found.payload["files"]]
    assert kept[-6:] == ["train-000006", "train-000007", "train-000008", "eval-before", "eval-after-sft",
                         "eval-after-arpo"]  # fmt: skip
    lost = [f"training step {s}" for s in range(6) if f"train-00000{s}" not in kept]
    assert lost, "there is not room for all"
    assert f"No tree is shown of {', '.join(lost)}: there was no room for one." in found.notes

    # A first tree that is too large does not keep the file's other trees out.
    alone = [trees.LoadedFile(f.file, f.label, sorted(f.trees, key=size, reverse=True), f.total) for f in loaded[:1]]
    assert size(alone[0].trees[0]) > size(alone[0].trees[2])
    monkeypatch.setattr(trees, "MAX_CHARS", size(alone[0].trees[2]))
    assert trees.forest(run, alone, 20).shown == 1

    monkeypatch.setattr(trees, "MAX_CHARS", 100)
    none = trees.forest(run, loaded, 20)
    assert (none.shown, none.total) == (0, 36)
    page = viewer(none)
    assert "None of the 36 saved trees fits on this page" in page
    assert "No trees have been saved yet" not in page
    assert "No trees have been saved yet" in viewer(trees.forest(run, [], 20))


def test_evaluations_on_the_way_are_spread_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MAX_EVALS", 3)
    for name in ("before", "after-sft", "after-arpo", *(f"after-step-{s}" for s in (50, 100, 150, 200, 250))):
        write_trees(tmp_path / f"trees/eval-{name}.jsonl.gz", [Maker(1).tree("t", M=1, N=1, forks=False)])
    run = read_run(tmp_path)
    loaded = trees.load(run)
    assert [f.label for f in loaded] == [
        "before", "after cold start", "after step 50", "after step 150", "after step 250", "after ARPO",
    ]  # fmt: skip
    assert "6 of the 8 evaluations with saved trees are used, spread evenly." in trees.forest(run, loaded, 20).notes


@given(st.integers(0, 200), st.integers(2, 40))
def test_spread_keeps_first_and_last_and_never_repeats(n: int, limit: int) -> None:
    files = [TreeFile(Path(str(i)), str(i), "train", i) for i in range(n)]
    kept = trees.spread(files, limit)
    assert len(kept) == min(n, limit)
    assert len({f.name for f in kept}) == len(kept)
    if n:
        assert (kept[0], kept[-1]) == (files[0], files[-1])
