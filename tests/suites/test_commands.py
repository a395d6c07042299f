"""``arpo validate`` and ``arpo data check``: what they print, and their exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arpo_algo.cli import main

pytest.importorskip("math_verify")
QUESTION = "Every morning Aya goes for a 9 kilometre walk and stops at a coffee shop; how many minutes are that?"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ARPO_DATA", raising=False)
    for folder in ("aime24", "gsm8k"):
        (tmp_path / folder).mkdir()
    (tmp_path / "aime24" / "test.jsonl").write_text(json.dumps({"problem": QUESTION, "answer": "204"}) + "\n")
    rows = [{"question": f"{n} + {n}?", "answer": f"#### {2 * n}"} for n in range(4)]
    (tmp_path / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_validate_proves_and_refuses(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = ["--seconds", "600", "--data-dir", str(data)]
    assert main(["validate", "GSM8K", "AIME24", "Math", "--tasks", "3", *slow]) == 0
    out = capsys.readouterr().out
    assert out.count("proved") == 3
    assert main(["validate", "AIME25", *slow]) == 2
    assert "put it at" in capsys.readouterr().err
    assert main(["validate", "GSM9K"]) == 2
    assert "did you mean 'GSM8K'" in capsys.readouterr().err
    assert main(["validate", "Math", "--tasks", "-1"]) == 2


def test_validate_says_what_is_wrong(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "aime24" / "test.jsonl").write_text(json.dumps({"problem": "204", "answer": "204"}) + "\n")
    assert main(["validate", "AIME24", "--seconds", "600", "--data-dir", str(data)]) == 1
    out = capsys.readouterr().out
    assert "1 findings" in out
    assert "ARPO/AIME24/test/0/0: the question: scores" in out


def test_data_check(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = data / "train.jsonl"
    rows = [
        {"prompt": [{"role": "user", "content": question}], "ability": "math", "reward_model": {"ground_truth": gold}}
        for question, gold in ((QUESTION.upper(), "204"), ("What is \x0crac{1}{2}?", "0.5"), ("Cut?", "(37"))
    ]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["data", "check", str(train), "--data-dir", str(data), "--against"]
    assert main([*argv, "AIME24", "GSM8K"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    for text in (r"\frac, repaired", "row 3: ", "a bracket that never closes", "row 1: the same as AIME24"):
        assert text in out
    assert main([*argv, "GSM8K"]) == 0
    assert main([*argv, "AIME25"]) == 2
    assert "AIME25 is not in" in capsys.readouterr().err
