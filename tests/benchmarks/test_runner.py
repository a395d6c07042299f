"""The loop: each sample once, as many at a time as the policy takes, failures of machinery apart from answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from bench_toys import Answers, right, tasks, toy_suite
from toy_env import ToyFamily

from arpo_algo.episodes import run_episode
from arpo_algo.errors import TrainingError
from arpo_env.env import AgentEnv
from arpo_env.errors import InfraError
from benchmarks.runner import Runner, RunStopped, SuiteTasks
from benchmarks.store import BenchFolder, Sample, StorageError


def run(path: Path, policy: Answers, suites: Sequence[SuiteTasks], samples: int = 1, **options: object) -> list[Sample]:
    with BenchFolder(path) as folder:
        folder.write_config({"policy": {}, "suites": {}})
        Runner(folder, policy, pause=0.001, **options).run(suites, samples)  # type: ignore[arg-type]
        return list(folder.samples.values())


def test_every_sample_once(tmp_path: Path) -> None:
    policy = Answers(lambda env, seed: env.task.answer if seed[-1] else "no", concurrency=3)
    found = run(tmp_path, policy, [toy_suite(4), toy_suite(2, "Other")], samples=2)
    keys = {(suite, task, n) for suite, count in (("Toy", 4), ("Other", 2)) for task in tasks(count) for n in range(2)}
    assert {s.key for s in found} == keys
    assert all(s.success == (s.sample == 1) for s in found)
    assert {(s.status, s.stop_reason, s.prompt_tokens, s.completion_tokens) for s in found} == {
        ("scored", "answered", 10, 5)
    }
    assert found[0].messages[-1]["role"] == "assistant", "the trajectory is kept"
    assert all(s.gold for s in found)


def test_goes_on_without_repeating(tmp_path: Path) -> None:
    run(tmp_path, Answers(right), [toy_suite(3)])
    again = Answers(right)
    found = run(tmp_path, again, [toy_suite(4)], samples=2)
    assert len(found) == 8
    first, second, third, new = tasks(4)
    assert sorted(again.played) == [(first, 1), (second, 1), (third, 1), (new, 0), (new, 1)]


def test_a_sample_draws_by_its_own_name(tmp_path: Path) -> None:
    """Neither order nor what else is run changes a sample's random stream; the run's seed does."""
    one, other, third = Answers(right), Answers(right, concurrency=3), Answers(right)
    run(tmp_path / "a", one, [toy_suite(3)], samples=2)
    run(tmp_path / "b", other, [toy_suite(2, "Other"), toy_suite(3)], samples=1)
    run(tmp_path / "c", third, [toy_suite(3)], seed=1)
    assert len(set(one.seeds)) == 6
    assert {seed for seed in one.seeds if seed[-1] == 0} <= set(other.seeds)
    assert len(set(other.seeds)) == 5, "the same task in another suite is another sample"
    assert not set(third.seeds) & set(one.seeds)


def test_no_more_at_once_than_the_policy_takes(tmp_path: Path) -> None:
    meet = threading.Barrier(3)  # the run would hang here if fewer than three were played at a time
    policy = Answers(lambda env, seed: (meet.wait(60), env.task.answer)[1], concurrency=3)
    run(tmp_path, policy, [toy_suite(6)])
    assert policy.most == 3


class TestInfrastructure:
    def test_is_retried_counted_and_never_scored(self, tmp_path: Path) -> None:
        """Task 0 fails once, task 1 always: one is scored in the end, the other void."""
        fails = {tasks(3)[0]: 1, tasks(3)[1]: 99}

        def answer(env: AgentEnv, seed: Sequence[int]) -> str:
            if fails.get(env.task.id, 0) > 0:
                fails[env.task.id] -= 1
                raise InfraError("endpoint overloaded")
            return env.task.answer

        found = run(tmp_path, Answers(answer), [toy_suite(3)], retries=2)
        assert [(s.status, s.success, len(s.errors)) for s in sorted(found, key=lambda s: s.task)] == [
            ("scored", True, 1), ("void", False, 3), ("scored", True, 0),
        ]  # fmt: skip

    def test_of_the_verifier_and_of_tools_too(self, tmp_path: Path) -> None:
        answers = iter(["unjudgeable", "0", "0"])
        found = run(tmp_path, Answers(lambda env, seed: next(answers)), [toy_suite(2)], retries=1)
        assert [s.status for s in found] == ["scored", "scored"]
        assert sum(bool(s.errors) for s in found) == 1

    def test_void_samples_are_tried_again_by_the_next_run(self, tmp_path: Path) -> None:
        down = [True]

        def answer(env: AgentEnv, seed: Sequence[int]) -> str:
            if down[0] and env.task.id.endswith("/1"):
                raise InfraError("down")
            return env.task.answer

        assert sum(s.status == "void" for s in run(tmp_path, Answers(answer), [toy_suite(3)], retries=0)) == 1
        down[0] = False
        again = Answers(answer)
        assert all(s.status == "scored" for s in run(tmp_path, again, [toy_suite(3)]))
        assert len(again.played) == 1

    def test_nothing_but_failures_stops_the_run(self, tmp_path: Path) -> None:
        def answer(env: AgentEnv, seed: Sequence[int]) -> str:
            if int(env.task.id.rsplit("/", 1)[1]) >= 2:
                raise InfraError("connection refused")
            return env.task.answer

        policy = Answers(answer)
        with pytest.raises(RunStopped, match=r"last 3 samples all failed.*connection refused"):
            run(tmp_path, policy, [toy_suite(50)], retries=0)
        assert len(policy.played) == 5, "it does not go through all fifty"
        with BenchFolder(tmp_path) as folder:
            assert sum(s.status == "scored" for s in folder.samples.values()) == 2


class TestStops:
    def test_at_a_bug_and_keeps_what_is_done(self, tmp_path: Path) -> None:
        def answer(env: AgentEnv, seed: Sequence[int]) -> str:
            if env.task.id.endswith("/3"):
                raise TrainingError("the script is wrong")
            return env.task.answer

        with pytest.raises(TrainingError, match="the script is wrong"):
            run(tmp_path, Answers(answer), [toy_suite(9)])
        with BenchFolder(tmp_path) as folder:
            assert len(folder.samples) == 3

    def test_without_waiting_for_what_hangs(self, tmp_path: Path) -> None:
        """One episode hangs, another fails: the run ends now, and what was finished meanwhile is saved."""
        release = threading.Event()

        def answer(env: AgentEnv, seed: Sequence[int]) -> str:
            if env.task.id.endswith("/0"):
                release.wait(120)
            if env.task.id.endswith("/2"):
                raise TrainingError("stop here")
            return env.task.answer

        try:
            with pytest.raises(TrainingError, match="stop here"):
                run(tmp_path, Answers(answer, concurrency=2), [toy_suite(5)])
            with BenchFolder(tmp_path) as folder:
                assert tasks(2)[1] in {s.task for s in folder.samples.values()}
        finally:
            release.set()

    def test_at_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with BenchFolder(tmp_path) as folder:
            folder.write_config({"policy": {}, "suites": {}})
            monkeypatch.setattr("benchmarks.store.os.fsync", _full_after(2))
            with pytest.raises(StorageError, match="The 2 samples before are saved"):
                Runner(folder, Answers(right)).run([toy_suite(9)], 1)
        monkeypatch.undo()
        assert len(run(tmp_path, Answers(right), [toy_suite(9)])) == 9


def _full_after(rows: int) -> object:
    count = [0]

    def fsync(descriptor: int) -> None:
        count[0] += 1
        if count[0] > rows:
            raise OSError(28, "No space left on device")

    return fsync


def test_an_episode_that_runs_out_of_budget_is_truncated_and_scored(tmp_path: Path) -> None:
    class Silent(Answers):
        def play(self, env: AgentEnv, messages: object, seed: object) -> object:  # type: ignore[override]
            return
            yield

    env = toy_suite(1).env
    episode = run_episode(env, Silent(right), {"task_id": tasks(1)[0]}, (0,))  # type: ignore[arg-type]
    assert (episode.outcome.truncated, episode.outcome.is_success) == (True, False)
    assert (episode.outcome.stop_reason, episode.completion_tokens) == ("max_tokens", 0)


def test_sessions_are_closed_whatever_happens(tmp_path: Path) -> None:
    from toy_env import toy

    env, python, search = toy()

    def answer(env: AgentEnv, seed: Sequence[int]) -> str:
        if env.task.id.endswith(("/1", "/2")):
            raise InfraError("gone")
        return env.task.answer

    run(tmp_path, Answers(answer), [SuiteTasks("Toy", env, tasks(4))], retries=1)
    assert python.still_open() == search.still_open() == 0
    assert isinstance(env.family, ToyFamily)
