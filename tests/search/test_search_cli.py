"""``arpo corpus`` and ``arpo serve-search``, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from arpo_algo.cli import main
from arpo_env.search.backends import open_backend
from arpo_env.search.base import Page
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.corpus import write_jsonl
from arpo_env.tasks.deepsearch import World, WorldSpec

PAGES = [Page("1", "Varn", "City on the Tol."), Page("2", "Kel", "A river near Varn.")]


def test_pages_are_built_searched_and_rebuilt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "c.jsonl", tmp_path / "out"
    write_jsonl(PAGES, source)
    assert main(["corpus", "build", "pages", "--from", str(source), "--out", str(out)]) == 0
    assert "2 pages" in capsys.readouterr().out
    assert main(["corpus", "search", str(out), "river", "-k", "1"]) == 0
    assert "[1] Kel" in capsys.readouterr().out
    assert main(["corpus", "search", str(out), "zzz"]) == 0
    assert "Nothing found." in capsys.readouterr().out
    source.write_text('{"head": "Ida", "id": 1, "body": "one two three"}\n')
    command = ["corpus", "build", "pages", "--from", str(source), "--out", str(out), "--field", "title=head"]
    assert main([*command, "--field", "text=body", "--passage-words", "2"]) == 0
    assert [page.id for page in BM25Index.load(out).pages] == ["1#1", "1#2"]
    assert main([*command, "--field", "text"]) == 2
    assert "OURS=THEIRS" in capsys.readouterr().err


def test_a_world_is_built_into_a_folder(tmp_path: Path) -> None:
    options = ["--pages", "120", "--split", "test", "--stale", "0.5"]
    assert main(["corpus", "build", "world", "--out", str(tmp_path), *options]) == 0
    world = World(WorldSpec(0, 120, "test", 0.5, 0.1, 1.0, 0.5))
    assert list(BM25Index.load(tmp_path).pages) == list(world)


def test_a_suite_is_built_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "_id": "1",
        "question": "Who?",
        "answer": "",
        "type": "x",
        "context": [["A", ["b."]]],
        "supporting_facts": [],
    }
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "dev.json").write_text(json.dumps([row, {**row, "_id": "2", "answer": "Ann"}]))
    command = ["corpus", "build", "2wiki", "--from", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 pages of 2 paragraphs" in text
    assert "questions: 1 validation" in text
    assert "1 questions without a published answer" in text
    assert main(["corpus", "build", "musique", "--out", str(tmp_path / "b")]) == 2
    assert "where from?" in capsys.readouterr().err


def test_a_server_answers_in_the_wire_format_and_stops_when_asked(tmp_path: Path) -> None:
    BM25Index.build(PAGES, tmp_path / "corpus")
    command = [sys.executable, "-m", "arpo_algo.cli", "serve-search", str(tmp_path / "corpus"), "--port", "0"]
    command += ["--cassette", str(tmp_path / "tape.sqlite")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it, and so would its child

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=listen) as server:
        try:
            assert server.stdout is not None
            url = next(line for line in server.stdout if line.startswith("Serving at")).split()[2]
            assert url.startswith("http://127.0.0.1:")
            body = json.dumps({"queries": ["river", "city"], "topk": 1, "return_scores": True}).encode()
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=60) as reply:
                result = json.load(reply)["result"]
            assert [hits[0]["document"]["contents"] for hits in result] == [
                '"Kel"\nA river near Varn.',
                '"Varn"\nCity on the Tol.',
            ]
            assert [hit.title for hit in open_backend(url).search("river", 1)] == ["Kel"]
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    assert server.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: expected .jsonl"),
        (["CORPUS", "--retriever", "bm52"], "did you mean 'bm25'"),
        (["CORPUS", "--host", "256.0.0.1"], "cannot listen on 256.0.0.1"),
        (["CORPUS", "--cassette", "TAPE", "--mode", "replay"], "no cassette at"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    BM25Index.build(PAGES, tmp_path / "corpus")
    names = {"CORPUS": str(tmp_path / "corpus"), "TAPE": str(tmp_path / "tape")}
    assert main(["serve-search", *(names.get(a, a) for a in arguments)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
