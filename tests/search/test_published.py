"""HotpotQA, 2Wiki and MuSiQue: every layout they are published in, on rows made by hand in that layout."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import arpo_env  # noqa: F401 (registers the environments)
from arpo_env.errors import ConfigError
from arpo_env.search.backends import open_backend
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.published import SUITES, build

CONTEXT = [
    ("Brim", ["Brim is a firm.", " It was founded by Ann Belov."]),
    ("Ann Belov", ["Ann Belov was born in Varport."]),
    ("Kel", ["Kel is a river."]),
]
#: HotpotQA's own JSON.
HOTPOT = {
    "_id": "5a8b",
    "question": "Where was the founder of Brim born?",
    "answer": "Varport",
    "type": "bridge",
    "level": "hard",
    "supporting_facts": [["Brim", 1], ["Ann Belov", 0]],
    "context": [[title, sentences] for title, sentences in CONTEXT],
}
#: The Hub's Parquet of it: structs of lists.
HOTPOT_HUB = {
    **{key: HOTPOT[key] for key in ("question", "answer", "type", "level")},
    "id": "5a8b",
    "supporting_facts": {"title": ["Brim", "Ann Belov"], "sent_id": [1, 0]},
    "context": {"title": [t for t, _ in CONTEXT], "sentences": [s for _, s in CONTEXT]},
}
WIKI = {
    **{key: HOTPOT[key] for key in ("_id", "question", "answer", "supporting_facts", "context")},
    "type": "compositional",
    "evidences": [["Brim", "founded by", "Ann Belov"], ["Ann Belov", "place of birth", "Varport"]],
}
#: The Hub's Parquet of it: lists written as text.
WIKI_HUB = {
    **WIKI,
    "supporting_facts": json.dumps(WIKI["supporting_facts"]),
    "context": repr(WIKI["context"]),  # and some copies hold Python's notation
}
MUSIQUE = {
    "id": "2hop__13_37",
    "question": "Where was the founder of Brim born?",
    "paragraphs": [
        {"idx": i, "title": title, "paragraph_text": "".join(sentences), "is_supporting": title != "Kel"}
        for i, (title, sentences) in enumerate(CONTEXT)
    ],
    "question_decomposition": [{"id": 13, "question": "Brim >> founded by", "answer": "Ann Belov"}],
    "answer": "Varport",
    "answer_aliases": ["Varport City", "Varport"],
    "answerable": True,
}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)


def questions(out: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "questions" / f"{split}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("suite", "file", "row"),
    [
        ("hotpotqa", "hotpot_dev_distractor_v1.json", HOTPOT),
        ("hotpotqa", "distractor/validation-00000-of-00001.parquet", HOTPOT_HUB),
        ("2wiki", "data/dev.json", WIKI),
        ("2wiki", "dev.parquet", WIKI_HUB),
        ("2wiki", "data/validation-00000-of-00001.parquet", HOTPOT_HUB),
        ("musique", "musique_ans_v1.0_dev.jsonl", MUSIQUE),
    ],
)
def test_every_published_layout(tmp_path: Path, suite: str, file: str, row: dict[str, Any]) -> None:
    write(tmp_path / "in" / file, [row])
    out = tmp_path / "out"
    built = build(suite, tmp_path / "in", out)
    assert (built.pages, built.paragraphs, built.questions, built.unanswered) == (3, 3, {"validation": 1}, 0)
    assert questions(out, "validation") == [
        {
            "id": row.get("_id", row.get("id")),
            "question": "Where was the founder of Brim born?",
            "answer": ["Varport", "Varport City"] if suite == "musique" else ["Varport"],
            "type": "2hop" if suite == "musique" else row["type"],
            "support": ["Brim", "Ann Belov"],
        }
    ]
    hit = open_backend(out).search("founder of Brim", 1)[0]
    assert (hit.title, hit.snippet) == ("Brim", "Brim is a firm. It was founded by Ann Belov.")
    assert hit.url == "https://en.wikipedia.org/wiki/Brim"


def test_splits_repeated_paragraphs_and_questions_without_answers(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write(folder / "train.json", [{**WIKI, "_id": str(i)} for i in range(5)])
    write(folder / "dev.json", [WIKI])
    # 2Wiki's test questions have no published answer, and paragraphs of their own.
    write(folder / "test.json", [{**WIKI, "answer": "", "supporting_facts": [], "context": [["Ida", ["Ida sang."]]]}])
    built = build("2wiki", folder, out)
    assert (built.pages, built.paragraphs, built.unanswered) == (4, 19, 1)
    assert built.questions == {"train": 5, "validation": 1}
    assert not (out / "questions" / "test.jsonl").exists()
    assert not list(out.glob("partial-*"))
    # Again, over the first: other splits, other questions, and nothing of the first stays.
    built = build("2wiki", folder, out, splits=["train"], limit=2)
    assert (built.pages, built.questions) == (3, {"train": 2})
    assert [p.name for p in (out / "questions").iterdir()] == ["train.jsonl"]
    assert len(BM25Index.load(out)) == 3


def test_other_settings_of_a_suite_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / "hotpot_dev_distractor_v1.json", [HOTPOT])
    write(folder / "hotpot_dev_fullwiki_v1.json", [{**HOTPOT, "context": [["Else", ["Else."]]]}])
    assert build("hotpotqa", folder, tmp_path / "a").pages == 3
    folder = tmp_path / "musique"
    write(folder / "musique_ans_v1.0_dev.jsonl", [MUSIQUE])
    write(folder / "musique_full_v1.0_dev.jsonl", [{**MUSIQUE, "answerable": False}])
    write(folder / "dev_test_singlehop_questions_v1.0.json", [{"id": 1}])
    built = build("musique", folder, tmp_path / "b")
    assert (built.questions, built.unanswered) == ({"validation": 1}, 0)


def test_a_big_list_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arpo_env.search.published._CHUNK", 7)
    path = tmp_path / "in" / "train.json"
    write(path, [{**HOTPOT, "_id": f'{i} \\" [{{'} for i in range(9)])
    path.write_text(path.read_text().replace("}, {", "}\n ,\n{"))
    assert build("hotpotqa", tmp_path / "in", tmp_path / "out").questions == {"train": 9}
    assert [row["id"] for row in questions(tmp_path / "out", "train")] == [f'{i} \\" [{{' for i in range(9)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{}]", r"row 1: not in a layout of 2wiki \(KeyError: 'context'\)"),
        ('[{"_id": "1"', "row 1: not JSON"),
        ("[3]", "row 1: not in a layout of 2wiki"),
        ('{"_id": "1"}', "expected a JSON list of questions"),
        (json.dumps([WIKI, {**WIKI, "question": " "}]), "row 2: not in a layout of 2wiki .*no question"),
        (json.dumps([{**WIKI, "context": "[('Brim'"}]), "row 1: not in a layout of 2wiki"),
    ],
)
def test_a_row_in_another_layout_stops_the_build_and_leaves_nothing(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "dev.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"dev\.json.*{message}"):
        build("2wiki", tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_bad_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown suite 'hotpot'; did you mean 'hotpotqa'"):
        build("hotpot", tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match="unknown split 'dev'"):
        build("musique", tmp_path, tmp_path / "out", splits=["dev"])
    with pytest.raises(ConfigError, match="holds no file of musique for"):
        build("musique", tmp_path, tmp_path / "out", splits=["train"])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("x")
    write(tmp_path / "in" / "dev.jsonl", [MUSIQUE])
    with pytest.raises(ConfigError, match="holds no index"):
        build("musique", tmp_path / "in", tmp_path / "thesis")
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match=r"thesis\.txt is a file"):
        build("musique", tmp_path / "in", tmp_path / "thesis" / "thesis.txt")


def test_the_hub_is_asked_for_the_suite_s_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in" / "musique_ans_v1.0_dev.jsonl", [MUSIQUE])
    asked: list[tuple[str, tuple[str, ...]]] = []

    def fetch(source: str, patterns: tuple[str, ...]) -> Path:
        asked.append((source, patterns))
        return tmp_path / "in"

    monkeypatch.setattr("arpo_env.search.published.fetch_hub", fetch)
    build("musique", "hub", tmp_path / "a")
    build("musique", "hub:me/copy@main", tmp_path / "b")
    patterns = SUITES["musique"].patterns
    assert asked == [("hub:dgslibisey/MuSiQue", patterns), ("hub:me/copy@main", patterns)]


def test_a_suite_runs_as_an_environment_offline(tmp_path: Path) -> None:
    write(tmp_path / "in" / "dev.json", [WIKI])
    build("2wiki", tmp_path / "in", tmp_path / "out")
    env = gymnasium.make(
        "ARPO-Dataset-v0",
        path=str(tmp_path / "out" / "questions"),
        name="ARPO/2Wiki",
        split="validation",
        search=str(tmp_path / "out"),
        tools=("search",),
    )
    env.reset(seed=0)
    observation = env.step("<think>Look.</think><search>Brim</search>")[0]
    assert "founded by Ann Belov" in observation
    *_, info = env.step("<think>Done.</think><answer>\\boxed{Varport}</answer>")
    assert info["is_success"]
    env.close()
