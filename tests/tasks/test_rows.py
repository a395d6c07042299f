"""Readers of rows: CSV and gzipped JSONL (plain JSONL and Parquet are met in ``test_dataset.py``); worked solutions."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from arpo_env.errors import ConfigError
from arpo_env.rows import Broken, read_rows
from arpo_env.tasks.dataset import DatasetFamily


def test_csv(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes('\ufeffproblem,answer\n"Who, ""he"" said\n?",A\nshort\n问,答\n'.encode())
    rows = list(read_rows(file))
    assert rows[0] == (3, {"problem": 'Who, "he" said\n?', "answer": "A"})
    assert isinstance(rows[1][1], Broken)
    assert "not 2 fields" in str(rows[1][1])
    assert rows[2] == (5, {"problem": "问", "answer": "答"})
    family = DatasetFamily(file, name="x", question="problem", on_broken="skip")
    assert (family.size("test"), len(family.report.broken)) == (2, 1)


def test_csv_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(b"a,b\n\xff,1\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        list(read_rows(file))
    file.write_bytes(b'a,b\n"open,1\n')
    with pytest.raises(ConfigError, match="not a readable CSV"):
        list(read_rows(file))


def test_gzipped_jsonl(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "test.jsonl.gz", "wb") as file:
        file.write(json.dumps({"question": "q", "answer": "a"}).encode() + b"\n\n{oops\n")
    family = DatasetFamily(tmp_path, name="x", on_broken="skip")
    assert (family.size("test"), [broken.row for broken in family.report.broken]) == (1, [3])


def test_a_field_of_any_length(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    file = tmp_path / "x.csv"
    file.write_text("question,answer\n" + "x" * 200_000 + ",a\n")
    assert [len(row["question"]) for _, row in read_rows(file)] == [200_000]
    assert csv.field_size_limit() == limit


def test_files_that_are_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl.gz"
    whole = gzip.compress(b"".join(json.dumps({"a": n * n}).encode() + b"\n" for n in range(1000)))
    for damaged in (whole[: len(whole) // 2], b"no gzip", whole[:40] + b"\0" * 200 + whole[240:]):
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"x\.jsonl\.gz is cut short or no gzip file"):
            list(read_rows(file))


def test_a_parquet_file_damaged_in_its_middle(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [f"text {n * n}" for n in range(5000)]}), file, compression="gzip")
    content = bytearray(file.read_bytes())
    content[100:900] = b"\xff" * 800
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged after row"):
        list(read_rows(file))


def test_several_files_and_wanted_rows_only(tmp_path: Path) -> None:
    files = []
    for number in range(2):
        files.append(tmp_path / f"part-{number}.jsonl")
        rows = [{"question": f"q{number}{n}", "answer": "a", "image": "" if n else "data:…"} for n in range(3)]
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    family = DatasetFamily(files, name="x", where={"image": ("", None)})
    assert family.questions("test") == ["q01", "q02", "q11", "q12"]
    assert (family.report.rows, family.report.kept, family.report.left_out) == (6, 4, 2)
    assert "2 left out" in str(family.report)


def test_worked_solutions(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    rows = [
        {"question": "q", "answer": r"First \boxed{1}, so it is \boxed{\frac{1}{2}}."},
        {"question": "q2", "answer": "no box"},
        {"question": "q3", "answer": r"We get $x = \boxed 3$."},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    family = DatasetFamily(file, name="x", answer_style="boxed", verifier="math", on_broken="skip")
    assert {family.task(0, "test", n).answer for n in range(2)} == {r"\frac{1}{2}", "3"}
    assert r"no \boxed{answer}" in str(family.report.broken[0])
