"""Reading a run folder: whole, growing, and broken."""

from __future__ import annotations

import gzip
import json
import math
from contextlib import closing
from pathlib import Path

import pytest
from report_runs import Maker, config, make_run, write_trees
from rich.console import Console

from arpo_algo.config import LogSection
from arpo_algo.report.data import RunFolderError, read_run
from arpo_algo.report.page_curves import curves
from arpo_algo.runfolder import RunFolder
from arpo_algo.tracking import Tracker

EVAL = {"name": "before", "step": 0, "n": 10, "success": 0.5, "success_low": 0.24, "success_high": 0.76, "reward": 0.4}


def test_a_full_run_is_read(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", steps=3, trees=2, tasks=5))
    assert run.config is not None
    assert run.config.seed == 0
    assert run.config.env_id == "ARPO-DeepSearch-v0"
    assert run.config.find("model") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert run.config.find("probe_tokens", "k") == 20  # nested in the algorithm's table
    assert run.probe_tokens == 20
    assert run.config.find("nothing") is None
    assert [row.step for row in run.phase("train")] == [0, 1, 2]
    assert len(run.phase("sft")) == 24
    assert [(e.name, e.n) for e in run.evals] == [("before", 5), ("cold start", 5), ("ARPO", 5)]
    assert run.evals[0].values["tool_calls"] == 2.4
    assert [f.name for f in run.tree_files] == [
        "train-000000", "train-000001", "train-000002", "eval-after-arpo", "eval-after-sft", "eval-before",
    ]  # fmt: skip
    assert [f.step for f in run.trees_of("train")] == [0, 1, 2]


def test_trees_are_read_back_exactly_and_counted(tmp_path: Path) -> None:
    made = [Maker(3).tree(f"t{i}") for i in range(4)]
    write_trees(tmp_path / "trees" / "train-000007.jsonl.gz", made)
    (file,) = read_run(tmp_path).tree_files
    trees, total = file.read()
    assert total == 4
    assert [t.to_json() for t in trees] == [t.to_json() for t in made]
    some, total = file.read(limit=1)
    assert (len(some), total) == (1, 4)


def test_an_empty_folder_is_a_run_that_has_not_begun(tmp_path: Path) -> None:
    run = read_run(tmp_path)
    assert (run.config, run.metrics, run.evals, run.tree_files) == (None, (), (), ())


def test_a_missing_folder_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"nowhere is not a folder"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval.jsonl"])
def test_a_half_written_last_line_is_ignored_and_a_whole_one_without_line_end_is_not(tmp_path: Path, name: str) -> None:
    row = json.dumps(EVAL if name == "eval.jsonl" else {"phase": "train", "step": 1, "reward": 0.5})
    for rest, expected in ((row[:-9], 1), (row, 2), ("", 1), ("7", 1)):
        (tmp_path / name).write_text(f"{row}\n\n{rest}")
        run = read_run(tmp_path)
        assert len(run.metrics) + len(run.evals) == expected, rest


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("metrics.jsonl", "{nope}", r"metrics\.jsonl, line 2: not JSON"),
        ("metrics.jsonl", "[1]", r"metrics\.jsonl, line 2: expected a JSON object, got list"),
        ("metrics.jsonl", '{"phase": "train"}', r"metrics\.jsonl, line 2: 'step' is missing"),
        ("metrics.jsonl", '{"phase": 3, "step": 1}', r"line 2: 'phase' must be str, got 3"),
        ("metrics.jsonl", '{"phase": "train", "step": true}', r"line 2: 'step' must be int, got True"),
        (
            "metrics.jsonl",
            '{"phase": "train", "step": 1, "loss": "low"}',
            r"line 2: 'loss' must be a number, got 'low'",
        ),
        (
            "metrics.jsonl",
            '{"phase": "train", "step": 1, "nonfinite": 3}',
            r"'nonfinite' must be a list of names, got 3",
        ),
        ("eval.jsonl", json.dumps(EVAL | {"success": None}), r"eval\.jsonl, line 2: 'success' is missing"),
        ("eval.jsonl", json.dumps(EVAL | {"success": 0.9}), r"line 2: need 0 <= success_low <= success"),
        ("eval.jsonl", json.dumps(EVAL | {"success_high": float("nan")}), r"line 2: need 0 <= success_low"),
    ],
)
def test_a_broken_line_names_file_and_line(tmp_path: Path, name: str, line: str, message: str) -> None:
    good = json.dumps(EVAL if name == "eval.jsonl" else {"phase": "train", "step": 1})
    (tmp_path / name).write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(RunFolderError, match=message):
        read_run(tmp_path)


def test_nulls_are_missing_values_and_non_finite_ones_are_kept(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"phase": "train", "step": 1, "loss": NaN, "reward": null}\n')
    (row,) = read_run(tmp_path).metrics
    assert list(row.values) == ["loss"]
    assert row.values["loss"] != row.values["loss"]


def test_what_the_tracker_wrote_as_not_finite_is_a_gap(tmp_path: Path) -> None:
    """It leaves such values out of the row, which JSON cannot hold, and names them."""
    with closing(RunFolder(tmp_path / "run")) as folder:
        tracker = Tracker(folder, Console(quiet=True), LogSection(boards=()), {})
        for step, loss in enumerate((0.5, float("nan"), 0.7)):
            tracker.log("train", step, {"loss": loss, "reward": 0.5})
        tracker.close()
    rows = read_run(tmp_path / "run").metrics
    assert [sorted(row.values) for row in rows] == [["loss", "reward"]] * 3
    assert math.isnan(rows[1].values["loss"])
    page = curves(read_run(tmp_path / "run"))
    assert "1 value not finite, left out" in page
    assert "nonfinite" not in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n"b" 2}', r"config\.json, line 2: not JSON"),
        ("[]", r"config\.json, line 1: expected a JSON object"),
        (json.dumps(config(config=[1])), r"config\.json: 'config' must be an object, got \[1\]"),
    ],
)
def test_a_broken_config_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunFolderError, match=message):
        read_run(tmp_path)


def test_a_gzip_file_that_is_still_growing_gives_its_whole_lines(tmp_path: Path) -> None:
    made = [Maker(5).tree(f"t{i}") for i in range(6)]
    path = tmp_path / "trees" / "train-000001.jsonl.gz"
    path.parent.mkdir()
    with gzip.open(path, "wt") as file:
        for tree in made[:3]:
            file.write(json.dumps(tree.to_json()) + "\n")
    first = path.read_bytes()
    write_trees(path, made)
    whole = path.read_bytes()
    (file,) = read_run(tmp_path).tree_files
    counts = []
    for size in (0, 5, 40, len(whole) // 2, len(whole) - 20, len(whole) - 1, len(whole)):
        path.write_bytes(whole[:size])
        trees, total = file.read()
        assert len(trees) == total
        assert [t.task_id for t in trees] == [f"t{i}" for i in range(total)]
        counts.append(total)
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 6)
    path.write_bytes(first + whole)  # two gzip members, as appending writes
    assert file.read()[1] == 9


def test_a_tree_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "trees" / "train-000001.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(b"this is plain text, not gzip")
    (file,) = read_run(tmp_path).tree_files
    with pytest.raises(RunFolderError, match=r"train-000001\.jsonl\.gz, after line 0: not a gzip file"):
        file.read()
    good = Maker().tree("a").to_json()
    for bad, message in (
        ({"format": 9}, "line 2: not a rollout tree .*format 9"),
        ({"format": 1}, "line 2: not a rollout"),
    ):
        with gzip.open(path, "wt") as out:
            out.write(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
        with pytest.raises(RunFolderError, match=message):
            file.read()
