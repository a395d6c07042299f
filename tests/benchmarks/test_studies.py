"""Studies end to end: measures on made-up runs, the tiny world, and the command on runs of seconds."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_algo import options
from arpo_algo.algorithms import make
from arpo_algo.config import RunConfig
from arpo_algo.errors import ConfigError
from arpo_algo.evaluation import Evaluation
from arpo_algo.runfolder import write_trees
from arpo_algo.sweep import SweepRow, entrant
from arpo_algo.tree import Outcome, Tree
from arpo_env.env import AgentEnv
from arpo_env.protocol import tool_turn
from benchmarks.studies import tiny
from benchmarks.studies.__main__ import main
from benchmarks.studies.catalogue import STUDIES
from benchmarks.studies.measures import MEASURES, RUN, Paired, Run
from benchmarks.studies.page import html, markdown
from benchmarks.studies.run import StudyResult, entrants_of, evaluate
from benchmarks.studies.verdict import estimate
from benchmarks.studies.words import cells, value

TINY = Path(tiny.__file__).with_name("tiny.toml")


def config(*overrides: str) -> RunConfig:
    return options.load(RunConfig, options.override(options.read(TINY), ["model=none-needed", *overrides]))


def row(label: str, seed: int, success: list[float], calls: list[float], final: dict[str, float]) -> SweepRow:
    """A finished run whose steps had 10 trajectories each and so many calls in total."""
    held_out = Evaluation(label.upper(), len(success), final, 0, 0, 0, 0, 0, 0, ())
    out = SweepRow(label, seed, held_out, success=success, task_seed=seed)
    out.spent = {
        "trajectories": [10.0 * (i + 1) for i in range(len(success))],
        "tokens": [100 * c for c in calls],
        "tool calls": calls,
    }
    return out


def run(*args, folder: Path = Path(), start: Path = Path(), k: int = 2) -> Run:  # type: ignore[no-untyped-def]
    one = row(*args)
    one.folder = folder
    return Run(one, "arpo", start, k)


# ------------------------------------------------------------------ measures


def compare(name: str, arm: Run, base: Run) -> dict[str, float] | str:
    found = MEASURES[name].compare(arm, base)
    return found if isinstance(found, str) else dict(found.values)


def test_success_is_paired_by_task() -> None:
    arm = run("a", 0, [0.5], [1.0], {"t/0": 1.0, "t/1": 0.0, "t/9": 1.0})
    base = run("b", 0, [0.5], [1.0], {"t/0": 0.0, "t/1": 0.0, "t/5": 1.0})
    assert compare("success", arm, base) == {"t/0": 1.0, "t/1": 0.0}


def test_success_by_calls_ends_where_the_thriftier_one_does() -> None:
    arm = run("a", 0, [0.2, 0.6], [10.0, 20.0], {})  # mean over 20 calls: 0.4
    base = run("b", 0, [0.2, 0.9], [16.0, 32.0], {})  # over its first 20: (16·0.2 + 4·0.9)/20 = 0.34
    assert compare("success by calls", arm, base) == {RUN: pytest.approx(0.06)}
    assert compare("success by calls", base, arm) == {RUN: pytest.approx(-0.06)}


def test_success_by_step_is_of_the_steps_that_both_made() -> None:
    arm, base = run("a", 0, [0.2, 0.6, 0.9], [1.0, 2.0, 3.0], {}), run("b", 0, [0.3, 0.4], [9.0, 18.0], {})
    assert compare("success by step", arm, base) == {RUN: pytest.approx(0.05)}
    other = run("b", 1, [0.3, 0.4], [9.0, 18.0], {})
    assert "not on the same questions" in compare("success by step", arm, other)
    base.row.spent["trajectories"] = [10.0, 30.0]  # it drew other questions in place of some (DAPO)
    assert "not on the same questions" in compare("success by step", arm, base)


curves = st.lists(st.tuples(st.floats(0, 1), st.floats(0.5, 9)), min_size=4, max_size=12)


def from_steps(label: str, steps: list[tuple[float, float]]) -> Run:
    spent: list[float] = []
    for _, cost in steps:
        spent.append(cost + (spent[-1] if spent else 0.0))
    return run(label, 0, [s for s, _ in steps], spent, {})


@given(curves, curves)
def test_turning_a_comparison_round_turns_its_sign(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> None:
    one, other = from_steps("a", a), from_steps("b", b)
    for name in ("success by calls", "calls a trajectory", "success by tokens", "tokens a trajectory"):
        there, back = compare(name, one, other), compare(name, other, one)
        assert isinstance(there, dict)
        assert isinstance(back, dict)
        assert there[RUN] == pytest.approx(-back[RUN], abs=1e-9)
        assert compare(name, one, one) == {RUN: pytest.approx(0.0, abs=1e-12)}


@given(curves)
def test_a_run_reaches_its_own_level_at_once(steps: list[tuple[float, float]]) -> None:
    one = from_steps("a", steps)
    found = MEASURES["calls to the level"].compare(one, one)
    assert isinstance(found, str) or (dict(found.values), found.at_least) == ({RUN: 0.0}, False)


def test_calls_to_the_level() -> None:
    flat, climb = [0.1, 0.1, 0.1], [0.1, 0.4, 0.7, 0.7, 0.7]
    base = run("b", 0, flat + climb, [10.0 * (i + 1) for i in range(8)], {})  # level 0.64, first at step 6 (70 calls)
    fast = run("a", 0, [0.1, 0.7, 0.7, 0.7, 0.7], [5.0 * (i + 1) for i in range(5)], {})  # at step 3 (20 calls)
    assert compare("calls to the level", fast, base) == {RUN: pytest.approx(math.log(20 / 80))}
    slow = run("a", 0, [0.1] * 5, [5.0 * (i + 1) for i in range(5)], {})
    never = MEASURES["calls to the level"].compare(slow, base)
    assert isinstance(never, Paired)
    assert never.at_least
    assert never.values[RUN] == pytest.approx(math.log(25 / 80))
    assert "learned nothing" in compare("calls to the level", fast, slow)


def chain(task: str, *turns: list[float]) -> Tree:
    tree, at = Tree(task, [1]), 0
    for i, entropies in enumerate(turns):
        if i:
            at = tree.add(at, "result", [7]).id
        node = tree.add(at, "action", list(range(len(entropies))))
        node.entropies, at = entropies, node.id
    tree.nodes[at].outcome = Outcome(0.0)
    return tree


def test_entropy_windows_by_hand(tmp_path: Path) -> None:
    """k = 2. Start 0.2; after 2.0 and 1.0; the two tokens after those 0.4; the two before the calls' ends 0.6, 4.75."""
    before = chain("t/0", [0.1, 0.3, 0.5, 0.7], [1.0, 3.0, 0.3, 0.5, 9.0], [0.0, 2.0, 8.0])
    silent = chain("t/1", [0.1, 0.1])
    write_trees(tmp_path / "start/trees/eval-after-sft.jsonl.gz", [before, silent])
    write_trees(tmp_path / "run/trees/eval-after-arpo.jsonl.gz", [chain("t/0", [0.0, 0.0], [0.5, 0.5])])
    one = run("arpo", 0, [1.0], [1.0], {}, folder=tmp_path / "run", start=tmp_path / "start")
    assert compare("rise on start", one, one) == {"t/0": pytest.approx(1.3)}
    assert compare("rise on later", one, one) == {"t/0": pytest.approx(1.6)}, "of the one turn that has four tokens"
    assert compare("rise on before", one, one) == {"t/0": pytest.approx(1.5 - (0.6 + 4.75) / 2)}
    assert compare("trained rise on start", one, one) == {"t/0": pytest.approx(0.5)}
    assert isinstance(compare("trained rise on later", one, one), str), "no turn is that long"
    assert compare("entropy change", one, one) == {"t/0": pytest.approx(-1.0)}
    lost = run("arpo", 0, [1.0], [1.0], {}, folder=tmp_path, start=tmp_path)
    assert compare("rise on start", lost, lost) == "no evaluation's trees with such turns"


# ------------------------------------------------------------------ a study from made-up runs


ACROSS = ("success by calls", "success by tokens", "calls to the level")


def frozen(seed: int, questions: int) -> dict[str, Run]:
    """Two runs that learn nothing and answer alike at each step; steps differ in how hard their questions are.

    ARPO's steps are cheaper, so that it gets to later questions for what both spent.
    """
    chance = np.random.default_rng(questions).beta(0.4, 0.8, (8, 8))  # of eight steps with eight questions
    runs = {}
    for key, (name, cost) in enumerate({"arpo": 0.74, "grpo": 1.0}.items()):
        right = np.random.default_rng([seed, key]).binomial(8, chance).mean(1) / 8
        runs[name] = run(name, seed, right.tolist(), [cost * 64 * (i + 1) for i in range(8)], {"t/0": 1.0})
        runs[name].row.task_seed = questions
    return runs


@pytest.mark.parametrize("same_questions", [True, False])
def test_the_luck_of_questions_that_all_seeds_share_is_not_taken_for_a_difference(same_questions: bool) -> None:
    found = [
        (entrant(name, config()).section, one.row)
        for seed in range(5)
        for name, one in frozen(seed, 0 if same_questions else seed).items()
    ]
    result = evaluate(STUDIES["budget"], config(), found, Path("sweep"), range(5))
    across = [f for f in result.findings if f.contrast.measure in ACROSS]
    assert len(across) == 4
    for finding in across:
        assert ("trained on the same questions" in finding.judgement.reason) == same_questions
        if same_questions:
            assert (finding.judgement.word, finding.estimate, cells(finding)[2]) == ("cannot tell", None, "–")
    (by_step,) = [f for f in result.findings if f.contrast.measure == "success by step"]
    assert by_step.estimate is not None, "at equal steps both answer the same questions"
    assert by_step.estimate.seeds == 5


def test_such_luck_is_rarely_a_difference_when_each_seed_has_its_own_questions() -> None:
    """300 studies of five seeds in which nothing differs: how many intervals of "success by tokens" lie above zero."""

    def above(study: int, *, same_questions: bool) -> bool:
        values = {}
        for seed in range(5 * study, 5 * study + 5):
            runs = frozen(seed, study if same_questions else seed)
            one = MEASURES["success by tokens"].compare(runs["arpo"], runs["grpo"])
            assert isinstance(one, Paired)
            values[seed] = one.values
        found = estimate(values, bounded=True)
        assert found is not None
        assert found.low is not None
        return found.low > 0

    wrong = {same: sum(above(study, same_questions=same) for study in range(300)) for same in (True, False)}
    assert wrong[False] <= 0.05 * 300
    assert wrong[True] > 0.1 * 300, "why they are refused"


def made_up(
    gains: dict[str, float], seeds: int = 4, tasks: int = 60, lost: tuple[str, int] | None = None
) -> StudyResult:
    """where-to-fork, of runs whose success is 0.3 + gain, exactly."""
    found = []
    for name, gain in gains.items():
        for seed in range(seeds):
            if (name, seed) != lost:
                right = round((0.3 + gain) * tasks)
                final = {f"t/{i}": float((i * 7 + seed) % tasks < right) for i in range(tasks)}
                curve = [0.1, 0.2, 0.3, 0.3 + gain]
                found.append((entrant(name, config()).section, row(name, seed, curve, [8.0, 16.0, 24.0, 32.0], final)))
    return evaluate(STUDIES["where-to-fork"], config(), found, Path("sweep"), range(seeds))


ALL = {"arpo": 0.5, "arpo_random": 0.1, "arpo_inverted": 0.0, "grpo": 0.0}


def test_a_study_supports_when_every_deciding_comparison_does() -> None:
    result = made_up(ALL)
    assert result.verdict == "supports"
    assert [f.judgement.word for f in result.findings if f.contrast.decisive] == ["supports"] * 3
    assert [r.label for r in result.rows][::4] == ["ARPO", "random forks", "inverted", "no forks"]


def test_one_rival_that_is_as_good_is_enough_against_it() -> None:
    assert made_up({**ALL, "arpo": 0.1, "arpo_random": 0.5}).verdict == "contradicts"


def test_what_is_not_there_is_said_and_cannot_tell() -> None:
    result = made_up({k: v for k, v in ALL.items() if k != "arpo_inverted"}, lost=("grpo", 2))
    assert result.verdict == "cannot tell"
    assert result.missing == ("inverted (arpo_inverted): seed 0, 1, 2, 3", "no forks (grpo): seed 2")
    inverted = result.findings[1]
    assert (inverted.estimate, cells(inverted)[2]) == (None, "–")
    assert result.findings[2].estimate is not None
    assert result.findings[2].estimate.seeds == 3
    with pytest.raises(ConfigError, match="no finished run of study 'where-to-fork'"):
        made_up({"dapo": 0.1})


def test_half_the_calls_is_judged_as_a_ratio() -> None:
    """ARPO makes hardly more than half of GRPO's calls, the least there can be, and is at its level as early in steps.

    Then "half" must come out as supported; and where it makes three quarters, as contradicted.
    """
    assert budget(0.505).verdict == "supports"
    result = budget(0.505)
    calls_made = next(f for f in result.findings if f.contrast.measure == "calls a trajectory")
    assert calls_made.judgement.word == "supports"
    assert re.fullmatch(r"0\.51× \(0\.5\d+ to 0\.5\d+\)", cells(calls_made)[2])
    for shown in (html(result), markdown(result)):
        assert "below 0.55 where the minimum is 0.50" in shown
    made = next(f for f in budget(0.75).findings if f.contrast.measure == "calls a trajectory")
    assert made.judgement.word == "contradicts"
    assert not made.left_out


def budget(share: float, flat: tuple[int, ...] = ()) -> StudyResult:
    """The study ``budget`` of four seeds; GRPO learns nothing under the seeds in ``flat``."""
    found = []
    for seed in range(4):
        calls = [10.0 + 0.1 * seed, 20.0 + 0.1 * seed, 30.0 + 0.1 * seed, 40.0 + 0.1 * seed]
        grpo = [0.1] * 4 if seed in flat else [0.1, 0.3, 0.5, 0.7]
        for name, part, curve in (("arpo", share, [0.1, 0.3, 0.5, 0.9]), ("grpo", 1.0, grpo)):
            final = {f"t/{i}": float(i < 60 * curve[-1]) for i in range(60)}
            found.append((entrant(name, config()).section, row(name, seed, curve, [part * c for c in calls], final)))
            found[-1][1].spent["tool calls"][-1] *= 1 + 0.01 * seed * (name == "arpo")
    return evaluate(STUDIES["budget"], config(), found, Path("sweep"), range(4))


def test_seeds_that_their_outcome_leaves_out_are_told() -> None:
    result = budget(0.505, flat=(1, 3))
    levels = [f for f in result.findings if f.contrast.measure == "calls to the level"]
    why = "the base learned nothing, so there is no level to reach"
    for finding in levels:
        assert finding.left_out == {1: why, 3: why}
        assert finding.estimate is not None
        assert finding.estimate.seeds == 2
        assert cells(finding)[-1].endswith(f"2 seeds left out: {why}")
    for shown in (html(result), markdown(result)):
        assert shown.count("2 seeds left out: the base learned nothing") == len(levels)
    assert json.loads(json.dumps(result.to_json()))["findings"][2]["left_out"] == {"1": why, "3": why}
    none = next(f for f in budget(0.505, flat=(0, 1, 2, 3)).findings if f.contrast.measure == "calls to the level")
    assert (none.estimate, none.judgement.reason) == (None, why)


def test_page_and_markdown_say_the_same() -> None:
    result = made_up({k: v for k, v in ALL.items() if k != "arpo_inverted"})
    page, text = html(result), markdown(result)
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    for shown in (page, text):
        assert "ARPO − random forks" in shown
        assert value(0.4, "points") in shown
        assert "Not there: inverted" in shown
    assert "Difference from" not in page, "the findings say it, and with the other sign"
    drawn = page.split('<div class="charts">')[1].split("</figure>")[0]
    assert "percentage points" in drawn
    assert "%" not in re.sub(r"<title>.*?</title>|aria-label=\"[^\"]*\"", "", drawn)
    assert page.count('class="worded says-good"') == sum(f.judgement.word == "supports" for f in result.findings)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows[:10]} == {8}
    assert json.loads(json.dumps(result.to_json()))["verdict"] == result.verdict


@pytest.mark.parametrize("study", STUDIES.values(), ids=list(STUDIES))
def test_every_entrant_can_be_made(study) -> None:  # type: ignore[no-untyped-def]
    for base in (config(), config("algorithm.options.M=16", "algorithm.options.N=8", "algorithm.options.k=20")):
        entrants = entrants_of(study, base)
        made = [make(e.section.name, **e.section.options) for e in entrants.values()]
        assert all(a != b for i, a in enumerate(made) for b in made[:i]), "no two are the same"


def test_options_that_change_nothing_are_left_out_so_that_studies_share_runs() -> None:
    labels = {name: e.label for name, e in entrants_of(STUDIES["N-of-M"], config()).items()}
    assert labels["N=M/2"] == "arpo"
    assert labels["N=M/4"] == "arpo-N=2"
    assert entrants_of(STUDIES["N-of-M"], config("algorithm.options.N=2"))["N=M/2"].label == "arpo-N=4"


def test_without_forks_all_attributions_are_one() -> None:
    """Why branching-or-update has one cell without forks."""
    tree = Tree("t", [1])
    for i, reward in enumerate((0.0, 1.0, 1.0, 0.5)):
        tree.add(0, "action", [2, 3 + i]).outcome = Outcome(reward)
    soft, hard = (make("arpo", M=4, N=4, attribution=a).advantages([tree]) for a in ("soft", "hard"))
    assert soft == hard == make("grpo", M=4).advantages([tree])


# ------------------------------------------------------------------ the tiny world


def test_the_expert_solves_it_and_the_flawed_one_often_does_not() -> None:
    env = gymnasium.make("ARPO-Signs-v0", hops=2)
    inner = env.unwrapped
    assert isinstance(inner, AgentEnv)
    right = {"expert": 0, "flawed": 0}
    for index in range(60):
        for who in right:
            _, info = env.reset(options={"task_id": f"signs-2/train/0/{index}"})
            rng = np.random.default_rng(index)
            player = inner.family.expert(inner.task) if who == "expert" else inner.family.flawed_expert(inner.task, rng)
            observation, over = "", False
            text = next(player)
            while not over:
                observation, _, over, _, info = env.step(text)
                text = text if over else player.send(observation)
            assert info["stop_reason"] == "answered"
            assert info["format_ok"]
            right[who] += info["is_success"]
    assert right["expert"] == 60
    assert 6 <= right["flawed"] <= 40


def test_its_clones_obey_the_law() -> None:
    env = gymnasium.make("ARPO-Signs-v0")
    env.reset(options={"task_id": "signs-2/train/0/3"})
    env.step(tool_turn("w1", "search", "w1"))
    twin = copy.deepcopy(env)
    assert env.step(tool_turn("w2", "search", "w2"))[:4] == twin.step(tool_turn("w2", "search", "w2"))[:4]
    other = copy.deepcopy(twin)
    assert isinstance(other.unwrapped, AgentEnv)
    assert isinstance(env.unwrapped, AgentEnv)
    assert other.unwrapped.get_state() == env.unwrapped.get_state()


def test_its_tokenizer_reads_what_it_writes(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.save_model(tmp_path))
    turn = r"<think>w3</think><answer>\boxed{w3}</answer>"
    ids = tokenizer.encode(turn, add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids
    assert re.sub(r"\s", "", tokenizer.decode(ids)) == turn


# ------------------------------------------------------------------ the command


FAST = [
    "budget.trajectories=16", "rollout.prompts=2", "algorithm.options.M=4", "algorithm.options.N=2", "eval.tasks=6",
    "sft.steps=2", "sft.batch=8",
]  # fmt: skip


def test_the_command_trains_resumes_and_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that a user does, in runs of two steps."""
    out = tmp_path / "out"
    assert main(["where-to-fork", "--tiny", "--seeds", "0", "1", "--out", str(out), *FAST]) == 0
    said = capsys.readouterr().out
    assert "cannot tell" in said
    finished = {f: f.stat().st_mtime_ns for f in out.glob("runs/*/seed-*/finished.json")}
    assert len(finished) == 8

    # Another study of the same runs trains what it lacks: here, nothing.
    assert main(["budget", "entropy", "--tiny", "--seeds", "0", "1", "--out", str(out), *FAST]) == 0
    assert {f: f.stat().st_mtime_ns for f in out.glob("runs/*/seed-*/finished.json")} == finished
    capsys.readouterr()

    before = {f: f.stat().st_mtime_ns for f in (out / "runs").rglob("*")}
    assert main(["where-to-fork", "N-of-M", "--from", str(out / "runs"), "--out", str(tmp_path / "judged")]) == 0
    assert {f: f.stat().st_mtime_ns for f in (out / "runs").rglob("*")} == before, "--from writes nothing there"
    judged = json.loads((tmp_path / "judged/where-to-fork.json").read_text())
    own = json.loads((out / "where-to-fork.json").read_text())
    assert judged["findings"] == own["findings"]
    assert judged["seeds"] == [0, 1]
    # The sweep has N = M/2 and no other N: what there is, is shown; what is not, is said.
    assert "not there: N=1 (arpo N=1): seed 0, 1" in capsys.readouterr().out


def test_the_list_names_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in STUDIES)


def test_what_cannot_be_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, message in (
        (["where-to-frok", "--tiny"], "did you mean 'where-to-fork'"),
        (["budget"], "Give --config FILE, --tiny, or --from FOLDER"),
        (["budget", "--from", str(tmp_path)], "holds no sweep"),
        (["budget", "--from", str(tmp_path), "--out", str(tmp_path / "x")], "where nothing may be written"),
        (["budget", "--from", str(tmp_path), "steps=3"], "judges runs as they are"),
    ):
        assert main(args) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")


def test_the_page_of_the_studies_names_them_all() -> None:
    text = (Path(__file__).parents[2] / "docs/studies.md").read_text(encoding="utf-8")
    assert [name for name in STUDIES if f"| `{name}` |" not in text] == []
