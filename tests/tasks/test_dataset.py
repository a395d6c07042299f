"""File-backed families: fields, splits, order, broken rows, repairs; and the published samples where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from arpo_env.errors import ConfigError
from arpo_env.tasks.dataset import DatasetFamily

DATA = Path("/work/shared/data")
published = pytest.mark.skipif(not DATA.is_dir(), reason="the published samples are not on this machine")


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def rows(count: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(count)]


def test_rows_become_tasks(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", [{"question": "Who?", "answer": ["E. H. Shepard", "Shepard"]}])
    family = DatasetFamily(file, name="ARPO/Who", tools=("search",))
    task = family.task(0, "test", 0)
    assert (task.id, task.question, task.answer) == ("ARPO/Who/test/0/0", "Who?", "E. H. Shepard")
    assert task.meta == {"golds": ["E. H. Shepard", "Shepard"], "verifier": "qa", "file": "x.jsonl", "row": 1}
    assert family.tools == ("search",)
    assert family.verify(task, "E.H. Shepard").score == 1
    assert family.verify(task, "shepard").score == 1
    for answer in ("", "Who?", "Milne"):
        assert family.verify(task, answer).score == 0
    with pytest.raises(ConfigError, match="no scripted expert"):
        family.expert(task)


@pytest.mark.parametrize(
    ("row", "options", "right", "wrong"),
    [
        ({"question": "q", "answer": 70}, {"verifier": "math"}, "70.0", "7"),
        ({"question": "q", "answer": 2.5}, {"verifier": "math"}, r"\frac{5}{2}", "25"),
        ({"problem": "q", "answer": "025"}, {"question": "problem", "verifier": "math"}, "25", "250"),
        ({"question": "q", "answer": "so 9*2=18\n#### 18"}, {"verifier": "math", "answer_style": "hashes"}, "18", "9"),
        ({"question": "q", "answer": "#### 1,234 "}, {"verifier": "math", "answer_style": "hashes"}, "1234", "1"),
        ({"question": "q", "answer": "B"}, {"verifier": "choice"}, "(b) dog", "C"),
        ({"question": "q", "answer": "10 May"}, {"verifier": "qa_f1"}, "10 May", "June"),
        ({"a": {"q": "q"}, "b": {"c": ["x", "y"]}}, {"question": "a.q", "answer": "b.c"}, "y", "z"),
        (
            {"question": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "answer": "x"},
            {},
            "x",
            "s",
        ),
    ],
)
def test_declared_fields_and_verifiers(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], right: str, wrong: str
) -> None:
    family = DatasetFamily(write(tmp_path / "x.jsonl", [row]), name="x", **options)
    task = family.task(0, "test", 0)
    assert task.question == "q"
    assert family.verify(task, right).score == 1
    assert family.verify(task, wrong).score == 0


def test_each_row_its_own_verifier(tmp_path: Path) -> None:
    mixed = [{"question": "a", "answer": "0.5", "kind": "math"}, {"question": "b", "answer": "The cat", "kind": None}]
    family = DatasetFamily(
        write(tmp_path / "x.jsonl", mixed), name="x", verifier={"math": "math", "": "qa"}, verifier_field="kind"
    )
    for task in (family.task(0, "test", i) for i in range(2)):
        assert family.verify(task, "1/2" if task.question == "a" else "cat").score == 1
    with pytest.raises(ConfigError, match=r"kind.*is 'math'"):
        DatasetFamily(tmp_path / "x.jsonl", name="x", verifier={"": "qa"}, verifier_field="kind")
    with pytest.raises(ConfigError, match="verifier_field"):
        DatasetFamily(tmp_path / "x.jsonl", name="x", verifier={"": "qa"})


def test_a_seed_permutes_and_every_row_comes_once(tmp_path: Path) -> None:
    family = DatasetFamily(write(tmp_path / "x.jsonl", rows(50)), name="x")
    assert family.size("test") == 50
    orders = [[family.task(seed, "test", index).meta["row"] for index in range(50)] for seed in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(1, 51))
    assert orders[0] != sorted(orders[0])
    for bad in (50, -1):
        with pytest.raises(ConfigError, match=r"index in \[0, 50\)"):
            family.task(0, "test", bad)
    with pytest.raises(ConfigError, match="seed"):
        family.task(-1, "test", 0)


def test_a_folder_is_split_by_file(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", rows(5)[2:])
    write(tmp_path / "dev.jsonl", rows(2))
    write(tmp_path / "notes.jsonl", ["not read"])
    family = DatasetFamily(tmp_path, name="x")
    assert (family.size("train"), family.size("validation")) == (3, 2)
    with pytest.raises(ConfigError, match=r"no split 'test'.*train"):
        family.size("test")
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        family.task(0, "trian", 0)


def test_splits_are_held_against_each_other(tmp_path: Path) -> None:
    """Part 4 of the reference: a contamination check between splits."""
    write(tmp_path / "train.jsonl", rows(6))
    write(tmp_path / "dev.jsonl", rows(4)[2:])
    write(tmp_path / "test.jsonl", rows(3)[1:])
    with pytest.raises(ConfigError, match=r"4 of 10 rows .*\n.*row 1: the same as its own split test: 'What is 2"):
        DatasetFamily(tmp_path, name="x")
    dropped = DatasetFamily(tmp_path, name="x", on_overlap="drop")
    assert [dropped.size(split) for split in ("train", "validation", "test")] == [3, 1, 2]
    assert {task.meta["row"] for task in (dropped.task(0, "train", i) for i in range(3))} == {1, 5, 6}
    assert dropped.report.compared == ("its own split test", "its own split validation")
    kept = DatasetFamily(tmp_path, name="x", on_overlap="keep")
    assert (kept.size("train"), len(kept.report.overlaps)) == (6, 4)


def test_a_finite_split_begins_again_in_another_order(tmp_path: Path) -> None:
    family = DatasetFamily(write(tmp_path / "x.jsonl", rows(5)), name="x")
    ids = family.task_ids("test", 3, 0, 15)
    assert ids == [f"x/test/{seed}/{i}" for seed in (3, 4, 5) for i in range(5)]
    assert family.task_ids("test", 3, 7, 11) == ids[7:11]
    passes = [[family.task(seed, "test", i).meta["row"] for i in range(5)] for seed in (3, 4, 5)]
    assert all(sorted(one) == [1, 2, 3, 4, 5] for one in passes)
    assert len({tuple(one) for one in passes}) > 1


BROKEN = {
    "not JSON": "{oops",
    "expected an object": "[1, 2]",
    "no field 'answer'": {"question": "q"},
    "no field 'question'": {"answer": "a"},
    "field 'question' is empty": {"question": "  ", "answer": "a"},
    "must be text, got int": {"question": 5, "answer": "a"},
    "field 'answer' is empty": {"question": "q", "answer": ""},
    "is an empty list": {"question": "q", "answer": []},
    "got bool": {"question": "q", "answer": True},
    "got dict": {"question": "q", "answer": [{"a": 1}]},
    "is null": {"question": "q", "answer": None},
    "control character": {"question": "a \x01 b", "answer": "a"},
    "unbalanced braces": {"question": "q", "answer": "\\frac{1"},
    "a bracket that never closes": {"question": "q", "answer": "(37"},
    "without a user message": {"question": [{"role": "system", "content": "s"}], "answer": "a"},
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_row_stops_and_names_file_row_and_reason(tmp_path: Path, reason: str) -> None:
    file = write(tmp_path / "bad.jsonl", [*rows(2), BROKEN[reason], "", *rows(1), BROKEN[reason]])
    with pytest.raises(ConfigError, match=r"2 of 5 rows") as caught:
        DatasetFamily(file, name="x")
    assert f"{file}, row 3: " in str(caught.value)
    assert f"{file}, row 6: " in str(caught.value)
    assert reason in str(caught.value)
    family = DatasetFamily(file, name="x", on_broken="skip")
    assert (family.report.rows, family.report.kept, len(family.report.broken)) == (5, 3, 2)
    assert family.size("test") == 3


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"question": "q", "answer": "a"}\n{"question": "\xff", "answer": "a"}\n')
    family = DatasetFamily(file, name="x", on_broken="skip")
    assert family.report.kept == 1
    assert "not UTF-8" in str(family.report.broken[0])


def test_damaged_latex_is_repaired_and_counted(tmp_path: Path) -> None:
    damaged = {"question": "Give \x0crac{1}{2} in \x08oxed{}, \x07lpha", "answer": "\x0crac{1}{2}"}
    file = write(tmp_path / "x.jsonl", [damaged])
    family = DatasetFamily(file, name="x", verifier="math")
    task = family.task(0, "test", 0)
    assert task.question == r"Give \frac{1}{2} in \boxed{}, \alpha"
    assert task.answer == r"\frac{1}{2}"
    assert dict(family.report.repaired) == {r"\frac": 2, r"\boxed": 1, r"\alpha": 1}
    assert "1 \\boxed" in str(family.report)
    with pytest.raises(ConfigError, match="control character"):
        DatasetFamily(file, name="x", verifier="math", repair=False)
    uncertain = write(tmp_path / "y.jsonl", [{"question": "a \x08ogus word", "answer": "a"}])
    with pytest.raises(ConfigError, match="which nothing explains"):
        DatasetFamily(uncertain, name="y")


def test_duplicates(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", [{"question": q, "answer": "a"} for q in ("Who is it?", "who is it", "Where?")])
    assert DatasetFamily(file, name="x").size("test") == 3
    family = DatasetFamily(file, name="x", drop_duplicates=True)
    assert (family.size("test"), family.report.duplicates) == (2, 1)


def test_questions_that_differ_in_an_operator_are_no_duplicates(tmp_path: Path) -> None:
    texts = ["Compute 12 + 30.", "Compute 12 * 30.", "Compute 12 / 30.", "Solve x^2+1=0", "Solve x^2-1=0",
             "Is x < 5?", "Is x > 5?", "Compute 5!", "Compute 5", "Compute √2", "Compute 2"]  # fmt: skip
    repeated = ["compute 12+30", "Solve  $x^2 + 1 = 0$."]
    file = write(tmp_path / "x.jsonl", [{"question": text, "answer": "1"} for text in texts + repeated])
    family = DatasetFamily(file, name="x", drop_duplicates=True)
    assert family.questions("test") == texts
    assert family.report.duplicates == 2
    everything = DatasetFamily(file, name="x")
    assert (everything.size("test"), everything.report.duplicates) == (13, 0)


OPTIONS = "Which?\n\nA: $1-i$\n\n(B) be tangent to the x-axis\nC. no"


@pytest.mark.parametrize(
    ("question", "gold", "right", "wrong"),
    [
        (OPTIONS, "A: 1-i", ["A", "(A)", "1-i", "-i+1", "A: 1-i"], ["B", "1+i", "a dog", "A, B"]),
        (OPTIONS, "B. be tangent to the x-axis", ["B", "Be tangent to the x-axis"], ["A", "C", "the x-axis"]),
        ("Who drew it?", "E. H. Shepard", ["E.H. Shepard"], ["E", "H. Shepard"]),
        ("Who?\nA. him\nB. her", "E. H. Shepard", ["E.H. Shepard"], ["E", "H. Shepard"]),
    ],
)
def test_a_gold_with_the_letter_of_its_option(
    tmp_path: Path, question: str, gold: str, right: list[str], wrong: list[str]
) -> None:
    verifier = "qa" if "Shepard" in gold else "math"
    file = write(tmp_path / "x.jsonl", [{"question": question, "answer": gold}])
    family = DatasetFamily(file, name="x", verifier=verifier)
    task = family.task(0, "test", 0)
    assert task.answer == gold
    assert family.report.repaired["option"] == (verifier == "math")
    assert [family.verify(task, answer).score for answer in right] == [1] * len(right)
    assert [family.verify(task, answer).score for answer in wrong] == [0] * len(wrong)


def test_bad_calls(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", rows(1))
    for options, message in [
        ({"verifier": "maths"}, "did you mean 'math'"),
        ({"on_broken": "skipp"}, "did you mean 'skip'"),
        ({"answer_style": "hash"}, "did you mean 'hashes'"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"tools": "search"}, "sequence of tool names"),
        ({"name": ""}, "name is empty"),
    ]:
        with pytest.raises(ConfigError, match=message):
            DatasetFamily(file, **{"name": "x", **options})
    for path, message in [
        (tmp_path / "absent.jsonl", "no file or folder"),
        (write(tmp_path / "x.tsv", ["a"]), "must end in"),
        (write(tmp_path / "empty.jsonl", []), "no usable row"),
    ]:
        with pytest.raises(ConfigError, match=message):
            DatasetFamily(path, name="x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="named after a split"):
        DatasetFamily(tmp_path / "folder", name="x")


def test_parquet_in_the_published_layout(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def row(question: str, gold: str, ability: str | None) -> dict[str, Any]:
        chat = [{"role": "system", "content": "Answer in \x08oxed{}."}, {"role": "user", "content": question}]
        return {"prompt": chat, "ability": ability, "reward_model": {"ground_truth": gold, "style": "rule"}}

    table = [row("2^1/4?", "\x0crac{1}{2}", "math"), row("Who?", "The Cat", "qa"), row("who", "The Cat", "qa")]
    file = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([*table, row("Empty?", "", "qa"), row("Cut?", "(37", "math")]), file)
    family = DatasetFamily.published_training(file, name="mix")
    report = family.report
    assert (report.rows, report.kept, report.duplicates, len(report.broken)) == (5, 2, 1, 2)
    assert dict(report.repaired) == {r"\boxed": 5, r"\frac": 1}
    for task in (family.task(0, "train", i) for i in range(2)):
        assert family.verify(task, "0.5" if task.question == "2^1/4?" else "cat").score == 1
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(ConfigError, match="not a readable Parquet"):
        DatasetFamily(tmp_path / "bad.parquet", name="x")


SUITES: dict[str, dict[str, Any]] = {
    "2wiki": {}, "SimpleQA": {}, "bamboogle": {}, "hotpotqa": {}, "musique": {}, "webwalker": {},
    "math500": {"verifier": "math"}, "gsm8k": {"verifier": "math", "answer_style": "hashes"},
    "aime24": {"question": "problem", "verifier": "math"}, "aime25": {"question": "problem", "verifier": "math"},
}  # fmt: skip


@published
@pytest.mark.parametrize("suite", SUITES)
def test_published_suites(suite: str) -> None:
    family = DatasetFamily(DATA / "benchmarks" / suite, name=suite, **SUITES[suite])
    tasks = [family.task(0, "test", index) for index in range(family.size("test") or 0)]
    assert len(tasks) >= 15
    for task, other in zip(tasks, tasks[1:] + tasks[:1], strict=True):
        for gold in task.meta["golds"]:
            assert family.verify(task, gold).score == 1
            assert family.verify(task, rf"\text{{{gold}}}" if SUITES[suite] == {} else rf"$\,{gold}$.").score == 1
        for answer in ("", task.question, "zz 42"):
            assert family.verify(task, answer).score == 0
        if SUITES[suite].get("verifier") == "math" and task.answer != other.answer:
            assert family.verify(task, other.answer).score == 0


@published
def test_published_training_samples() -> None:
    pytest.importorskip("pyarrow")
    family = DatasetFamily.published_training(DATA / "train" / "train_sample.parquet", name="mix")
    report = family.report
    assert report.rows == 300
    assert report.repaired[r"\boxed"] == 2 * 300
    assert report.repaired[r"\frac"] == 1
    assert report.repaired["option"] == 3
    assert [broken.row for broken in report.broken] == [6]
    assert report.kept + len(report.broken) + report.duplicates == report.rows
    for index in range(family.size("train") or 0):
        task = family.task(0, "train", index)
        assert "\x08" not in task.question + task.answer
        assert family.verify(task, task.answer).score == 1
    assert (
        DatasetFamily.published_training(DATA / "train" / "hard_search_sample.parquet", name="hard").report.kept == 100
    )
