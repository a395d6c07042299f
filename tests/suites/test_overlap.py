"""Contamination: what counts as the same question; and training on an evaluation set is refused unless asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_env.errors import ConfigError
from arpo_env.suites import evaluation_index, suite, training_set
from arpo_env.tasks.overlap import OverlapIndex, tokens

DATA = Path("/work/shared/data")
AIME = (
    "Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop afterwards. When she walks at a "
    "constant speed of $s$ kilometers per hour, the walk takes her 4 hours, including $t$ minutes spent in the coffee "
    r"shop. Suppose Aya walks at $s+\frac{1}{2}$ kilometers per hour. Find the number of minutes the walk takes her."
)


@pytest.fixture
def index() -> OverlapIndex:
    return OverlapIndex([
        ("AIME24", AIME),
        ("Bamboogle", "Who was president of the United States in the year that Citibank was founded?"),
        ("HotpotQA", "Who wrote Emma?"),
        ("WebWalkerQA", "在2022年9月南京理工大学计算机学院举办的专业教育讲座中，谁是讲座的主讲人？"),
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("text", "suite_name", "kind"),
    [
        (AIME, "AIME24", "exact"),
        (AIME.replace("$", "").replace(r"\frac", r"\dfrac ").upper().replace("DFRAC", "dfrac"), "AIME24", "exact"),
        ("who wrote emma", "HotpotQA", "exact"),
        ("在2022年9月 南京理工大学计算机学院举办的专业教育讲座中, 谁是讲座的主讲人?", "WebWalkerQA", "exact"),
        (AIME.replace("Aya", "Maya").replace("coffee", "tea"), None, ""),  # every fifth word: another question
        (AIME.replace("every morning", "each day").replace("4 hours", "5 hours"), "AIME24", "near"),
        (f"Solve this problem step by step and box the answer. {AIME} Think hard about it.", "AIME24", "near"),
        (" ".join(f"instruction {n}" for n in range(200)) + AIME, "AIME24", "near"),  # lost in a long prompt
        ("Who was president of the United States in the year in which Citibank was founded?", None, ""),
        ("Who was the president of the United States in the year that Citibank was founded?", "Bamboogle", "exact"),
        ("Who wrote Persuasion?", None, ""),
        ("", None, ""),
        ("?!", None, ""),
    ],
)
def test_what_counts_as_the_same(index: OverlapIndex, text: str, suite_name: str | None, kind: str) -> None:
    found = index.find(text)
    assert (found.suite if found else None, found.kind if found else "") == (suite_name, kind)


def test_the_nearest_one_is_named() -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    found = OverlapIndex([("A", f"{long} and quite another end of it"), ("B", f"{long} seventeen")]).find(
        f"{long} eighteen"
    )
    assert found is not None
    assert found.suite == "B"
    assert 0.75 <= found.similarity < 1.0


vocabulary = ["alpha", "beta", "gamma", "delta", "1", "2", "3", "+", "=", "find", "the", "value"]
words = st.lists(st.sampled_from(vocabulary), max_size=40).map(" ".join)


@given(words, words)
def test_every_question_finds_itself_and_similarity_is_symmetric(one: str, other: str) -> None:
    if tokens(one):
        found = OverlapIndex([("s", one)]).find(f"  {one.upper()} ! ")
        assert found is not None
        assert found.kind == "exact"
    here, there = OverlapIndex([("s", one)]).find(other), OverlapIndex([("s", other)]).find(one)
    if tokens(one) and tokens(one) == tokens(other):
        assert here is not None
        assert there is not None
    elif here is not None and there is not None:
        assert here.kind == there.kind == "near"


# ------------------------------------------------------------------------------------------------ training sets


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one suite, which ``ARPO_DATA`` names, and no Hub."""
    (tmp_path / "aime24").mkdir()
    (tmp_path / "aime24" / "test.jsonl").write_text(json.dumps({"problem": AIME, "answer": "204"}) + "\n")
    monkeypatch.setenv("ARPO_DATA", str(tmp_path))
    return tmp_path


def parquet(folder: Path, *questions: str) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def row(question: str) -> dict[str, Any]:
        chat = [{"role": "system", "content": "Use \x08oxed{}."}, {"role": "user", "content": question}]
        return {"prompt": chat, "ability": "math", "reward_model": {"ground_truth": "204", "style": "rule"}}

    file = folder / "train.parquet"
    pq.write_table(pa.Table.from_pylist([row(question) for question in questions]), file)
    return file


def test_overlap_is_refused_by_default_and_counted_either_way(data: Path) -> None:
    file = parquet(data, "What is 1 + 1?", AIME, "What is 2 + 2?")
    with pytest.raises(ConfigError, match=r"1 of 3 rows .* stand in an evaluation set:\n.*row 2: the same as AIME24"):
        training_set(file, name="mix", against=["AIME24"])
    dropped = training_set(file, name="mix", against=["AIME24"], on_overlap="drop")
    kept = training_set(file, name="mix", against=["AIME24"], on_overlap="keep")
    assert (dropped.size("train"), kept.size("train")) == (2, 3)
    for family in (dropped, kept):
        assert [found.row for found in family.report.overlaps] == [2]
        assert family.report.compared == ("AIME24",)
        assert "1 stand in an evaluation set (of AIME24)" in str(family.report)


def test_by_default_every_suite_on_this_machine_is_compared(data: Path) -> None:
    compared = training_set(parquet(data, "What is 1 + 1?"), name="mix").report.compared
    assert "AIME24" in compared
    assert set(compared) <= {"AIME24", "HumanEval"}
    with pytest.raises(ConfigError, match="AIME25 is not in ARPO_DATA"):
        training_set(parquet(data, "What is 1 + 1?"), name="mix", against=["AIME24", "AIME25"])
    with pytest.raises(ConfigError, match="unknown suite 'AIME23'"):
        training_set(parquet(data, "q"), name="mix", against=["AIME23"])
    with pytest.raises(ConfigError, match="sequence of suite names"):
        training_set(parquet(data, "q"), name="mix", against="AIME24")


def test_nothing_to_compare_with_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import arpo_env.suites.training as training

    monkeypatch.setattr(training, "SUITES", [])
    with pytest.warns(UserWarning, match="no evaluation suite is on this machine, so its questions were held against"):
        training_set(parquet(data, "What is 1 + 1?"), name="mix")
    training_set(parquet(data, "What is 1 + 1?"), name="mix", against=())  # meant, so nothing is said


def test_an_environment_over_a_training_set_refuses_too(data: Path) -> None:
    import gymnasium

    file = parquet(data, "What is 1 + 1?", AIME)
    options = {"path": file, "name": "mix", "layout": "published", "tools": (), "against": ("AIME24",)}
    with pytest.raises(ConfigError, match="stand in an evaluation set"):
        gymnasium.make("ARPO-Dataset-v0", **options)
    env = gymnasium.make("ARPO-Dataset-v0", **options, on_overlap="drop")
    assert env.reset(seed=0)[0] == "What is 1 + 1?"
    env.close()


# ------------------------------------------------------------------------------------------------ the published samples


@pytest.mark.skipif(not DATA.is_dir(), reason="the published samples are not on this machine")
def test_every_published_question_finds_itself_and_suites_do_not_find_each_other() -> None:
    names = ["AIME24", "AIME25", "MATH500", "GSM8K", "HotpotQA", "2WikiMultiHopQA", "MuSiQue", "Bamboogle", "SimpleQA",
             "WebWalkerQA"]  # fmt: skip
    index = evaluation_index([suite(name) for name in names], DATA / "benchmarks")
    assert index.suites == tuple(names)
    for name in names:
        family = suite(name).family(DATA / "benchmarks")
        for question in family.questions("test"):  # type: ignore[attr-defined]
            found = index.find(question)
            assert found is not None
            assert (found.suite, found.kind) == (name, "exact")
        others = evaluation_index([suite(other) for other in names if other != name], DATA / "benchmarks")
        assert [q for q in family.questions("test") if others.find(q)] == []  # type: ignore[attr-defined]
    # "What is the date of death of the director of film X?": one template, other questions.
    film = "What is the date of death of the director of film {}?"
    assert OverlapIndex([("s", film.format("Akalangalil"))]).find(film.format("Shocking Asia")) is None


@pytest.mark.skipif(not DATA.is_dir(), reason="the published samples are not on this machine")
@pytest.mark.parametrize(("file", "rows"), [("train_sample", 300), ("hard_search_sample", 100)])
def test_published_training_samples_load_with_every_row_accounted_for(file: str, rows: int) -> None:
    pytest.importorskip("pyarrow")
    family = training_set(
        DATA / "train" / f"{file}.parquet", name="mix", data_dir=DATA / "benchmarks", on_overlap="drop"
    )
    report = family.report
    assert len(report.compared) >= 10
    assert report.rows == rows == report.kept + len(report.broken) + report.duplicates + len(report.overlaps)
