"""reasoning-gym families: our seeds, their items, no trace in global state, nothing paid for nothing."""

from __future__ import annotations

import decimal
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from expert_driver import play, python_or_skip

from arpo_env.errors import ConfigError
from arpo_env.tasks.gym import DATASETS, ReasoningGymFamily
from arpo_env.tasks.math.partition import split_of
from arpo_env.tools.base import Tool

reasoning_gym = pytest.importorskip("reasoning_gym")
SPLITS = ("train", "validation", "test")
SOLVED = sorted(name for name, program in DATASETS.items() if program is not None)


@pytest.fixture(scope="module")
def python() -> Tool:
    return python_or_skip()


def test_the_choice_is_large_enough() -> None:
    assert len(DATASETS) >= 12
    assert len(SOLVED) >= 12


@pytest.mark.parametrize("name", SOLVED)
def test_the_expert_solves(name: str, python: Tool) -> None:
    family = ReasoningGymFamily(name)
    wrong = 0.0
    rng = np.random.default_rng(0)
    for task in [family.task(seed, split, index) for seed in (0, 1) for split in SPLITS for index in range(3)]:
        answer, calls, worked = play(family.expert(task), python)
        assert (calls, worked) == (1, 1)
        assert family.verify(task, answer).score == 1, (task, answer)
        wrong += family.verify(task, play(family.flawed_expert(task, rng), python)[0]).score
    assert wrong <= 3


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_gold_scores_and_cheap_answers_do_not(name: str, tmp_path: Path) -> None:
    family = ReasoningGymFamily(name)
    target = tmp_path / "touched"
    hostile = f"__import__('pathlib').Path({str(target)!r}).touch()"
    tasks = [family.task(seed, split, index) for seed in (0, 1) for split in SPLITS for index in range(15)]
    for task in tasks:
        assert family.verify(task, task.answer).score == 1
        for answer in ("", " ", task.question, hostile, "zz", "9" * 5000, "[" * 3000, "1e999999999", "\ud800"):
            assert family.verify(task, answer).score == 0, (task, answer)
    assert not target.exists(), "the scorer evaluated the policy's answer"


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_neither_infinities_nor_the_gold_with_more_around_it_score(name: str) -> None:
    family = ReasoningGymFamily(name)
    # Fractions are written in four styles and the scorer of one of them reads on; 12 tasks meet them all.
    for task in [family.task(0, "train", index) for index in range(12)]:
        gold = task.answer
        hostile = ["nan", "-nan", "nan + nani", "nani", "inf", "-inf", "inf + infi", "Infinity", "1e400", "1e400i"]
        more = [" zzzz", "zzzz", " or 7", ", zebra", f", {gold}", "\nzebra", f" {gold}", "+zz"]
        for answer in (*hostile, *(gold + tail for tail in more), f"The answer is {gold}", f"zebra, {gold}"):
            assert family.verify(task, answer).score == 0, (task, answer)
        assert family.verify(task, gold).score == 1


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_no_global_state_is_read_or_written(name: str) -> None:
    def item() -> object:
        return ReasoningGymFamily(name).task(3, "train", 4)

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    states = (random.getstate(), str(np.random.get_state()), str(decimal.getcontext()))  # noqa: NPY002
    first = item()
    assert states == (random.getstate(), str(np.random.get_state()), str(decimal.getcontext()))  # noqa: NPY002
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert item() == first


def test_importing_reasoning_gym_leaves_the_generators_alone() -> None:
    # In a fresh process: the import itself draws from the global generators.
    script = (
        "import random, numpy as np; from arpo_env.tasks.gym import ReasoningGymFamily as Family;"
        "states = lambda: (random.getstate(), str(np.random.get_state()));"
        "before = states(); Family('gcd').task(0, 'train', 0); assert states() == before"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_an_item_is_what_reasoning_gym_gives_for_that_seed(name: str) -> None:
    task = ReasoningGymFamily(name).task(1, "test", 2)
    fresh = reasoning_gym.create_dataset(name, seed=task.meta["item_seed"], size=1)[0]
    assert (task.question, task.answer) == (fresh["question"].strip(), str(fresh["answer"]))


@pytest.mark.parametrize("name", ["basic_arithmetic", "chain_sum", "count_bits", "simple_equations"])
def test_neighbouring_seeds_do_not_overlap(name: str) -> None:
    family = ReasoningGymFamily(name)
    mine = {seed: {family.task(seed, "train", index).question for index in range(100)} for seed in (42, 43)}
    assert len(mine[42] & mine[43]) <= 1
    theirs = {
        seed: {item["question"] for item in reasoning_gym.create_dataset(name, seed=seed, size=100)}
        for seed in (42, 43)
    }
    assert len(theirs[42] & theirs[43]) >= 98  # the defect this family is there to avoid


def test_splits_are_apart_for_certain() -> None:
    family = ReasoningGymFamily("lcm")
    for split in SPLITS:
        assert all(split_of(family.task(0, split, index).question) == split for index in range(20))


def test_bad_calls() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gcd'"):
        ReasoningGymFamily("gdc")
    for unsafe in ("spiral_matrix", "pool_matrix", "list_functions", "time_intervals"):
        with pytest.raises(ConfigError, match="unknown"):
            ReasoningGymFamily(unsafe)
    with pytest.raises(ConfigError, match="refuses the options"):
        ReasoningGymFamily("gcd", no_such_option=3)
    with pytest.raises(ConfigError, match="refuses the options"):
        ReasoningGymFamily("gcd", min_value=-5)
    with pytest.raises(ConfigError, match="seed"):
        ReasoningGymFamily("gcd", seed=3)
    family = ReasoningGymFamily("caesar_cipher")
    with pytest.raises(ConfigError, match="no scripted expert"):
        family.expert(family.task(0, "train", 0))


def test_options_reach_the_data_set_and_the_name() -> None:
    family = ReasoningGymFamily("gcd", min_value=5000, max_value=9000)
    assert family.name.startswith("gym-gcd-")
    numbers = [
        int(word.strip(".,")) for word in family.task(0, "train", 0).question.split() if word.strip(".,").isdigit()
    ]
    assert min(numbers) >= 5000
