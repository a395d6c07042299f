"""``python -m benchmarks`` end to end, on real suites; bad input; and kill -9 in the middle of a real process."""

from __future__ import annotations

import importlib
import json
import linecache
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from loopback_chat import chat_server, completion, refusal

from benchmarks.__main__ import main
from benchmarks.store import LOG, read_samples

#: Deep search without Python: needs no sandbox, and a small world.
DEEP = ["--suites", "DeepSearch", "--set", "DeepSearch.tools=['search']", "--set", "DeepSearch.arithmetic=0.0",
        "--set", "DeepSearch.pages=120"]  # fmt: skip


@pytest.fixture(autouse=True)
def no_data_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARPO_DATA", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with six GSM8K-like rows and nothing else."""
    file = tmp_path / "data/gsm8k/test.jsonl"
    file.parent.mkdir(parents=True)
    rows = [{"question": f"What is {n} + {n}?", "answer": f"We add.\n#### {2 * n}"} for n in range(6)]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path / "data"


def run(out: Path, *arguments: Any) -> int:
    return main(["run", "--out", str(out), *map(str, arguments)])


def gsm8k(data: Path) -> list[str]:
    return ["--suites", "GSM8K", "--data", str(data), "--set", "GSM8K.tools=[]"]


class TestRun:
    def test_the_expert_and_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 4, *DEEP) == 0
        assert "100.0 (51.0–100.0)" in capsys.readouterr().out
        report = json.loads((tmp_path / "r/report.json").read_text())
        assert report["suites"]["DeepSearch"]["pass_at"]["1"]["value"] == 1.0
        assert report["suites"]["DeepSearch"]["means"]["tool_calls"]["value"] > 0
        assert {p.name for p in (tmp_path / "r").iterdir()} >= {
            "report.md",
            "report.html",
            "report.json",
            "config.json",
        }
        before = (tmp_path / "r" / LOG).read_bytes()
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 4, *DEEP) == 0
        assert (tmp_path / "r" / LOG).read_bytes() == before, "nothing is run twice"
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 5, "--samples", 2, *DEEP) == 0
        assert (tmp_path / "r" / LOG).read_bytes().startswith(before)
        assert len(list(read_samples(tmp_path / "r"))) == 10, "more may be asked for"
        assert main(["report", str(tmp_path / "r")]) == 0
        assert main(["compare", str(tmp_path / "r")]) == 0

    def test_options_that_are_part_of_the_familys_name(self, tmp_path: Path) -> None:
        kinds = ["--set", "DeepSearch.kinds=['person', 'city']"]
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 2, *DEEP, *kinds) == 0
        ids = {s.task.rpartition("/test/")[0] for s in read_samples(tmp_path / "r")}
        assert run(tmp_path / "s", "--policy", "expert", "--tasks", 2, *DEEP) == 0
        assert ids != {s.task.rpartition("/test/")[0] for s in read_samples(tmp_path / "s")}, "other questions"

    def test_grows_in_both_directions(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """2 tasks × 3 samples and then 4 × 1 are 8 samples, and with those the folder is finished."""
        for size in ((2, 3), (4, 1), (4, 1), (1, 2)):
            numbers = ["--tasks", size[0], "--samples", size[1]]
            assert run(tmp_path / "r", "--policy", "expert", *numbers, *DEEP) == 0
        assert "not run yet" not in capsys.readouterr().out
        assert len(list(read_samples(tmp_path / "r"))) == 8
        text = (tmp_path / "r/report.md").read_text()
        assert "| DeepSearch | 4 | 100.0 (51.0–100.0) | 100.0 (34.2–100.0), n=2 |" in text, "pass@3 is of two tasks"
        assert json.loads((tmp_path / "r/config.json").read_text())["suites"]["DeepSearch"]["asked"] == [[2, 3], [4, 1]]

    def test_each_start_is_recorded(self, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from benchmarks import session

        monkeypatch.setattr(session, "versions", lambda packages: dict.fromkeys(packages, "1"))
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 1, *gsm8k(data)) == 0
        monkeypatch.setattr(session, "versions", lambda packages: dict.fromkeys(packages, "2"))
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 2, *gsm8k(data)) == 0
        config = json.loads((tmp_path / "r/config.json").read_text())
        assert config["versions"]["torch"] == "1", "what the first samples were made with stays"
        assert [start["versions"]["torch"] for start in config["resumed"]] == ["2"]

    def test_an_edited_script_is_another_policy(
        self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        for answer, status in ((0, 0), (0, 0), (1, 2)):
            source = f"def act(messages):\n    return '<think>t</think><answer>\\\\boxed{{{answer}}}</answer>'\n"
            (tmp_path / "edited_policy.py").write_text(source)
            monkeypatch.delitem(sys.modules, "edited_policy", raising=False)
            linecache.clearcache()
            importlib.invalidate_caches()
            assert run(tmp_path / "r", "--policy", "script:edited_policy.act", "--tasks", 2, *gsm8k(data)) == status
        assert "--policy differs" in capsys.readouterr().err

    def test_a_folder_of_an_older_release_goes_on(self, tmp_path: Path, data: Path) -> None:
        """It recorded less: what it lacks is taken as it is now, and recorded."""
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 1, *gsm8k(data)) == 0
        file = tmp_path / "r/config.json"
        config = json.loads(file.read_text())
        for key in ("questions", "asked"):
            del config["suites"]["GSM8K"][key]
        file.write_text(json.dumps({**config, "resumed": ["2026-01-01T00:00:00+00:00"]}))
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 2, *gsm8k(data)) == 0
        assert json.loads(file.read_text())["suites"]["GSM8K"]["questions"]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (["--policy", "random"], "--policy differs"),
            (["--policy", "expert", "--seed", "1"], "--seed differs"),
            (["--policy", "expert", "--max-tool-calls", "3"], "max_tool_calls"),
            (["--policy", "expert", "--task-seed", "7"], "task_seed differs"),
        ],
    )
    def test_settings_do_not_mix(
        self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], change: list[str], says: str
    ) -> None:
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 2, *gsm8k(data)) == 0
        assert run(tmp_path / "r", "--tasks", 2, *gsm8k(data), *change) == 2
        error = capsys.readouterr().err
        assert says in error
        assert "choose another --out" in error

    def test_a_replaced_data_file_is_noticed(
        self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tmp_path / "r", "--policy", "expert", *gsm8k(data)) == 0
        (data / "gsm8k/test.jsonl").write_text(json.dumps({"question": "Other?", "answer": "#### 1"}) + "\n")
        assert run(tmp_path / "r", "--policy", "expert", *gsm8k(data)) == 2
        assert "first_task differs" in capsys.readouterr().err

    def test_a_changed_gold_of_any_question_is_noticed(
        self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 1, *gsm8k(data)) == 0
        first = next(iter(read_samples(tmp_path / "r"))).messages[1]["content"]
        rows = [json.loads(line) for line in (data / "gsm8k/test.jsonl").read_text().splitlines()]
        next(r for r in rows if r["question"] not in first)["answer"] = "#### 77"
        (data / "gsm8k/test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 6, *gsm8k(data)) == 2
        assert "questions differs" in capsys.readouterr().err

    def test_all_takes_what_is_here_and_says_how_to_get_the_rest(
        self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = ["--policy", "expert", "--suites", "domain:math,domain:deep-search", "--data", data]
        assert run(tmp_path / "r", *arguments, "--set", "GSM8K.tools=[]") == 0
        out = capsys.readouterr().out
        assert "without AIME24" in out
        assert "aime24/test.jsonl" in out
        assert "hf auth login" in out, "gated suites say how to get access"
        assert list(json.loads((tmp_path / "r/config.json").read_text())["suites"]) == ["GSM8K"]
        assert "Without MATH500" in (tmp_path / "r/report.md").read_text()


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--suites", "GSMK8"], "did you mean 'GSM8K'"),
            (["--suites", "domain:maths"], "did you mean 'math'"),
            (["--suites", "AIME24", "--data", "DATA"], "aime24/test.jsonl"),
            (["--data", "/no/such/folder"], "--data='/no/such/folder' is no folder"),
            (["--suites", "GSM8K", "--tasks", "0"], "--tasks must be >= 1"),
            (["--suites", "GSM8K", "--samples", "0"], "samples must be >= 1"),
            (["--suites", "GSM8K", "--metric", "f2"], "did you mean 'f1'"),
            (["--suites", "GSM8K", "--metric", "judge"], "go together"),
            (["--suites", "GSM8K", "--data", "DATA", "--set", "Math.level=2"], "not among the suites"),
            (["--suites", "GSM8K", "--data", "DATA", "--set", "GSM8K.tool=[]"], "did you mean 'tools'"),
            (["--suites", "GSM8K", "--data", "DATA", "--set", "level=2"], "must name a suite and a key"),
            (["--suites", "GSM8K", "--data", "DATA", "--prompt", "papr"], "did you mean 'paper'"),
            (["--suites", "GSM8K", "--prices", "/no/prices.toml"], "cannot be read"),
        ],
    )
    def test_is_told(
        self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
    ) -> None:
        given = [str(data) if a == "DATA" else a for a in arguments]
        assert run(tmp_path / "r", "--policy", "expert", *given) == 2
        assert says in capsys.readouterr().err
        # And the folder can be used once the mistake is mended.
        assert run(tmp_path / "r", "--policy", "expert", "--tasks", 1, *gsm8k(data)) == 0

    def test_search_suites_say_what_they_need(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "data/hotpotqa").mkdir(parents=True)
        (tmp_path / "data/hotpotqa/test.jsonl").write_text('{"question": "Who?", "answer": ["Ada"]}\n')
        arguments = ["--policy", "expert", "--suites", "HotpotQA", "--data", tmp_path / "data"]
        assert run(tmp_path / "r", *arguments) == 2
        assert "--search none to go without" in capsys.readouterr().err
        assert run(tmp_path / "r", *arguments, "--search", "none", "--set", "HotpotQA.tools=[]") == 0

    def test_broken_rows(self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = data / "gsm8k/test.jsonl"
        lines = file.read_text().splitlines()
        file.write_text("\n".join([*lines[:2], "{not json", '{"question": "no answer"}', *lines[2:]]) + "\n")
        assert run(tmp_path / "r", "--policy", "expert", *gsm8k(data)) == 2
        error = capsys.readouterr().err
        assert "2 of 8 rows" in error
        assert re.search(r"test\.jsonl, row 3: not JSON", error)
        assert run(tmp_path / "r", "--policy", "expert", "--on-broken", "skip", *gsm8k(data)) == 0
        assert len(list(read_samples(tmp_path / "r"))) == 6

    def test_a_folder_of_something_else(self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "r").mkdir()
        (tmp_path / "r/thesis.tex").touch()
        assert run(tmp_path / "r", "--policy", "expert", *gsm8k(data)) == 2
        assert "choose an empty or new folder" in capsys.readouterr().err
        assert main(["report", str(tmp_path / "none")]) == 2
        assert "is not there" in capsys.readouterr().err


class TestEndpoint:
    RIGHT = r"<think>t</think><answer>\boxed{0}"

    def test_scores_tokens_and_cost(self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "prices.toml").write_text("[m]\ninput = 1000\noutput = 10000\n")
        with chat_server([completion(self.RIGHT)]) as server:
            policy = f"openai:{server.url}#m"
            assert run(tmp_path / "r", "--policy", policy, "--prices", tmp_path / "prices.toml", *gsm8k(data)) == 0
        out = capsys.readouterr().out
        assert "16.7 (" in out, "one of the six answers is 0"
        assert "$0.2220" in out, "6 x (7 x 1000 + 3 x 10000) / 1e6"
        assert "cost of scored" in out
        assert "Cost of the scored episodes" in (tmp_path / "r/report.md").read_text()

    def test_down(self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with chat_server([completion(self.RIGHT)]) as server:
            url = server.url
        assert run(tmp_path / "r", "--policy", f"openai:{url}#m", *gsm8k(data)) == 1
        assert "cannot be reached" in capsys.readouterr().err
        assert not list(read_samples(tmp_path / "r"))

    def test_wrong_key(self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with chat_server([refusal(401, "Incorrect API key provided")]) as server:
            assert run(tmp_path / "r", "--policy", f"openai:{server.url}#m", *gsm8k(data)) == 2
        assert "set OPENAI_API_KEY" in capsys.readouterr().err
        with chat_server([completion(self.RIGHT)]) as server:
            # Another server is another policy, but nothing had begun: the folder is free.
            assert run(tmp_path / "r", "--policy", f"openai:{server.url}#m", *gsm8k(data)) == 0

    def test_that_fails_on_the_way(self, tmp_path: Path, data: Path) -> None:
        broken = [False]

        def answer(request: dict[str, Any]) -> Any:
            if broken[0]:
                return refusal(503, "loading")
            broken[0] = any("What is 2" in m["content"] for m in request["messages"])
            return completion(self.RIGHT)

        with chat_server(answer) as server:
            command = ["--policy", f"openai:{server.url}#m", "--retries", 0, "--concurrency", 1, *gsm8k(data)]
            status = run(tmp_path / "r", *command)
            saved = sum(s.status == "scored" for s in read_samples(tmp_path / "r"))
            assert status == 1
            assert saved < 6
            broken[0] = False
            server.answer = lambda request: completion(self.RIGHT)
            assert run(tmp_path / "r", *command) == 0
        last = {s.key: s for s in read_samples(tmp_path / "r")}
        assert Counter(s.status for s in last.values()) == {"scored": 6}

    def test_a_judge(self, tmp_path: Path, data: Path) -> None:
        """The judge says yes to everything; its verdicts are kept, so that going on asks nothing again."""
        with chat_server([completion(self.RIGHT)]) as player, chat_server([completion("Judgement: correct")]) as judge:
            command = [
                "--policy",
                f"openai:{player.url}#m",
                "--metric",
                "judge",
                "--judge",
                f"{judge.url}#j",
                *gsm8k(data),
            ]
            assert run(tmp_path / "r", *command) == 0
            assert len(judge.requests) == 6
            (tmp_path / "r" / LOG).write_bytes(b"")
            assert run(tmp_path / "r", *command) == 0
            assert len(judge.requests) == 6
        assert all(s.success for s in read_samples(tmp_path / "r"))
        assert "Judged by the language model" in (tmp_path / "r/report.md").read_text()


@pytest.mark.model
def test_a_real_model_by_its_folder(tmp_path: Path, default_model: Path) -> None:
    command = ["--policy", default_model, "--tasks", 2, "--samples", 2, "--max-turn-tokens", 12, *DEEP]
    assert run(tmp_path / "r", *command, "--concurrency", 3) == 0
    rows = list(read_samples(tmp_path / "r"))
    assert len(rows) == 4
    assert all(0 < (s.completion_tokens or 0) <= 12 * s.turns and s.prompt_tokens for s in rows)
    assert len({s.messages[2]["content"] for s in rows if s.task == rows[0].task}) == 2, "samples of a task differ"
    assert json.loads((tmp_path / "r/config.json").read_text())["policy"]["engine"] == "torch"


def test_suites_are_listed(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    assert main(["suites", "--data", str(data)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"GSM8K .* yes", out)
    assert re.search(r"GAIA .* no", out)
    assert "hf auth login" in out


# ---------------------------------------------------------------------- kill -9

POLICY = r"""
import os, time
def act(messages):
    # A line a call, written at once: what the test counts by. Slow enough to be killed in the middle.
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(messages[1]["content"] + "\n")
    time.sleep(0.05)
    return "<think>t</think><answer>\\boxed{4}</answer>"
"""


def test_kill_9_loses_and_repeats_nothing(tmp_path: Path, data: Path) -> None:
    (tmp_path / "slow_policy.py").write_text(POLICY)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}", "CALLS": str(tmp_path / "calls")}
    command = [
        sys.executable, "-m", "benchmarks", "run", "--policy", "script:slow_policy.act", "--out", str(tmp_path / "r"),
        "--samples", "6", *gsm8k(data),
    ]  # fmt: skip
    log = tmp_path / "r" / LOG
    finished: list[set[Any]] = []
    for least in (5, 15):
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < least):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()  # type: ignore[union-attr]
        process.stderr.close()  # type: ignore[union-attr]
        finished.append({s.key for s in read_samples(tmp_path / "r")})
    with log.open("ab") as torn:  # and a row that the kill cut in half
        torn.write(b'{"suite": "GSM8K", "task": "ARPO/GS')
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(read_samples(tmp_path / "r"))
    assert len(rows) == len({s.key for s in rows}) == 36, "every sample, and none twice"
    assert finished[0] < finished[1] < {s.key for s in rows}, "nothing that was finished was lost"
    calls = len((tmp_path / "calls").read_text().splitlines())
    assert 36 <= calls <= 36 + 2, "only what was under way at a kill was played again"
    assert sum(s.success for s in rows) == 6
