"""A step done again gives what the run recorded; and one step ahead is as repeatable as step by step."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from tiny_run import config, outcome, quiet, run

from arpo_algo.algorithms.dapo import DAPO
from arpo_algo.cli import main
from arpo_algo.config import AlgorithmSection
from arpo_algo.errors import ConfigError
from arpo_algo.replay import replay_rollout, replay_update
from arpo_algo.runfolder import read_rows, read_trees, write_trees
from arpo_algo.trainer import Trainer
from arpo_env.search.base import Hit
from arpo_env.search.retriever import HttpRetriever, RetrieverServer


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("replay") / "run"
    run(out, config(tiny_model, **{"log.replay": True, "keep": 9, "algorithm.options.kl_coef": 0.1}))
    return out


@pytest.mark.parametrize("step", [0, 2])
def test_the_update_from_the_trees_alone(finished: Path, step: int) -> None:
    out = replay_update(finished, step)
    assert out.weights == 0.0, "bit for bit the next checkpoint"
    assert out.metrics == out.recorded
    assert out.metrics["grad_norm"] > 0


@pytest.mark.parametrize("step", [0, 1])
def test_the_rollouts_from_their_seeds(finished: Path, step: int) -> None:
    out = replay_rollout(finished, step)
    assert (out.same_trees, out.saved) == (2, 2)
    saved = read_trees(finished / "replay" / f"train-{step:06d}.jsonl.gz")
    assert [n.logprobs for t in out.trees for n in t.nodes] == [n.logprobs for t in saved for n in t.nodes]


def test_a_changed_tree_is_noticed(finished: Path, tmp_path: Path) -> None:
    import shutil

    run_folder = tmp_path / "run"
    shutil.copytree(finished, run_folder)
    file = run_folder / "replay" / "train-000001.jsonl.gz"
    trees = read_trees(file)
    leaf = trees[0].leaves()[0]
    assert leaf.outcome is not None
    leaf.outcome.reward += 3.0
    write_trees(file, trees)
    assert replay_update(run_folder, 1).weights != 0.0
    assert replay_rollout(run_folder, 1).same_trees == 1
    assert main(["replay", str(run_folder), "1"]) == 1


def test_a_step_that_replaced_groups(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DAPO, "keep", lambda self, tree: not tree.task_id.endswith("/2"))
    settings = config(tiny_model, **{"log.replay": True, "keep": 9, "steps": 2})
    run(tmp_path / "run", dataclasses.replace(settings, algorithm=AlgorithmSection("dapo", {"M": 4})))
    (row,) = (r for r in read_rows(tmp_path / "run" / "metrics.jsonl") if r["step"] == 1)
    assert row["groups_dropped"] == 1
    out = replay_rollout(tmp_path / "run", 1)
    assert [t.task_id.rsplit("/", 1)[-1] for t in out.trees] == ["3", "4"]
    assert (out.same_trees, out.saved) == (2, 2)


def test_the_command(finished: Path) -> None:
    assert main(["replay", str(finished), "1", "--update", "--rollout"]) == 0


def test_what_is_missing_is_named(finished: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint step-000007"):
        replay_update(finished, 7)
    with pytest.raises(ConfigError, match="holds no run"):
        replay_update(tmp_path, 0)
    run(tmp_path / "plain", config(tiny_model, steps=1))
    with pytest.raises(ConfigError, match=r"log\.replay=true"):
        replay_update(tmp_path / "plain", 0)


# ------------------------------------------------------------------ rollouts that search the web


class Changing:
    """An index of a web that changes: no two answers are the same."""

    deterministic = False
    fingerprint = "changing"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def search(self, query: str, k: int) -> list[Hit]:
        self.asked.append(query)
        return [Hit(f"{query} {len(self.asked)}", "https://example.org/", "as of now", 1.0)]


class Asks(gymnasium.Wrapper[str, str, str, str]):
    """The random policy's turns choose what is searched for, or answer."""

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        said = zlib.crc32(action.encode("utf-8", "replace")) % 8
        turn = "<answer>\\boxed{Tol}</answer>" if said == 0 else f"<search>rivers of {said}</search>"
        observation, reward, terminated, truncated, info = self.env.step(f"<think>x</think>{turn}")
        return observation, float(reward) + len(action) % 3, terminated, truncated, info


def make_asking(cassette: str, cache: str = "record", **options: Any) -> gymnasium.Env[str, str]:
    inner = gymnasium.make("ARPO-Web-v0", disable_env_checker=True, cassette=cassette, cache=cache, **options)
    return Asks(inner)


if "Asking-v0" not in gymnasium.registry:
    gymnasium.register("Asking-v0", entry_point=make_asking)


@pytest.fixture
def searched(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that searched, and recorded; whom it asked is gone."""
    questions = tmp_path / "questions"
    questions.mkdir()
    rows = [{"id": str(i), "question": f"Which river, {i}?", "answer": "Tol"} for i in range(4)]
    (questions / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    web = Changing()
    with RetrieverServer(web) as server:
        monkeypatch.setattr("arpo_env.search.live.LiveSearch", lambda *_, **__: HttpRetriever(server.url, retries=0))
        of_env = {"cassette": str(tmp_path / "tape.sqlite"), "path": str(questions), "name": "toy"}
        options = {f"env.options.{k}": v for k, v in {**of_env, "verifier": "qa", "tools": ["search"]}.items()}
        budget = {"rollout.max_tokens": 1000, "steps": 2, "env.eval_split": "train"}
        # Over the web results come in when they come, unless a lag is asked for: then batches repeat bit by bit.
        budget |= {"rollout.tool_lag": 1, "log.replay": True, "keep": 9}
        settings = config(tiny_model, **{"env.id": "Asking-v0", **options, **budget})
        run(tmp_path / "run", settings)
    assert len(set(web.asked)) > 3
    return tmp_path / "run"


def test_rollouts_from_their_seeds_and_the_cassette(searched: Path) -> None:
    for step in (0, 1):
        saved = read_trees(searched / "replay" / f"train-{step:06d}.jsonl.gz")
        assert sum(n.kind == "result" for t in saved for n in t.nodes) > 3
        out = replay_rollout(searched, step)
        assert (out.same_trees, out.saved, out.void_reason) == (2, 2, "")
        assert [n.logprobs for t in out.trees for n in t.nodes] == [n.logprobs for t in saved for n in t.nodes]
    assert main(["replay", str(searched), "1", "--rollout"]) == 0


def test_what_the_cassette_lacks_is_said_and_not_asked(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = searched.parent / "tape.sqlite"
    with closing(sqlite3.connect(tape)) as connection, connection:
        connection.execute("DELETE FROM answers WHERE arguments LIKE '%rivers%'")
    assert main(["replay", str(searched), "0", "--rollout"]) == 1
    assert "strict replay asks nobody" in capsys.readouterr().out.replace("\n", " ")
    tape.unlink()
    with pytest.raises(ConfigError, match=r"tape\.sqlite.* is not there"):
        replay_rollout(searched, 0)


class TestOneStepAhead:
    @pytest.mark.parametrize("correction", ["tis", "ratio"])
    def test_same_seed_same_weights(self, tiny_model: Path, tmp_path: Path, correction: str) -> None:
        settings = config(tiny_model, **{"rollout.overlap": "one-step", "rollout.correction": correction, "steps": 4})
        run(tmp_path / "a", settings)
        run(tmp_path / "b", settings)
        assert outcome(tmp_path / "a") == outcome(tmp_path / "b")

    def test_trees_are_one_step_old_and_no_older(self, tiny_model: Path, tmp_path: Path) -> None:
        """Step s samples with the weights before update s-1: step 0 and 1 as the untrained model, 2 as after one."""
        trainer = Trainer(
            config(tiny_model, **{"rollout.overlap": "one-step", "steps": 4}), tmp_path / "on", console=quiet()
        )
        used: list[torch.Tensor] = []
        after: list[torch.Tensor] = [trainer.model.get_input_embeddings().weight.detach().clone()]
        engine = trainer.rollouts.engine  # type: ignore[attr-defined]
        sample, update = trainer.rollouts.sample, trainer.learner.update

        def sampled(job: Any, on_leaf: Any = None) -> Any:
            if job.kind == "train":
                used.append(engine.model.get_input_embeddings().weight.detach().clone())
            return sample(job, on_leaf)

        def updated(*args: Any, **options: Any) -> Any:
            out = update(*args, **options)
            after.append(trainer.model.get_input_embeddings().weight.detach().clone())
            return out

        trainer.rollouts.sample = sampled  # type: ignore[method-assign]
        trainer.learner.update = updated  # type: ignore[method-assign]
        trainer.run()
        trainer.close()
        assert [next(i for i, w in enumerate(after) if torch.equal(w, u)) for u in used] == [0, 0, 1, 2]

    def test_the_first_step_is_that_of_the_strict_run(self, tiny_model: Path, tmp_path: Path) -> None:
        for mode in ("off", "one-step"):
            run(tmp_path / mode, config(tiny_model, **{"rollout.overlap": mode}))
        rows = [read_rows(tmp_path / mode / "metrics.jsonl") for mode in ("off", "one-step")]
        assert rows[0][0]["reward"] == rows[1][0]["reward"]
        assert rows[0][1]["rollout_kl"] < 1e-6 < rows[1][1]["rollout_kl"], "from the second on, another policy sampled"

    def test_an_algorithm_without_the_correction_is_refused(self, tiny_model: Path, tmp_path: Path) -> None:
        from arpo_algo.assembly import for_stale_trees

        settings = config(tiny_model, **{"rollout.overlap": "one-step"})
        with pytest.raises(ConfigError, match=r"rollout\.correction=ratio"):
            for_stale_trees(settings, object())
