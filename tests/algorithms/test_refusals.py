"""Bad input is refused before anything is sampled, with the value, the expectation and the fix."""

from __future__ import annotations

import math

import pytest
from forest import fork
from transformers import PreTrainedModel
from trees import tiny_model

from arpo_algo.algorithms import list_algorithms, make
from arpo_algo.branching import Surprise
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.learner import Learner
from arpo_algo.optimizer import LearnerConfig
from arpo_algo.rolloutconfig import RolloutConfig
from arpo_algo.tree import Outcome


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("apro", {}, "did you mean 'arpo'"),
        ("rlo", {}, "did you mean 'rloo'"),
        ("tree-grpo", {}, "did you mean 'tree_grpo'"),
        ("gspo", {"clip_hihg": 1e-3}, "did you mean 'clip_high'"),
        ("grpo", {"N": 4}, "unknown option of algorithm 'grpo' 'N'"),  # it never branches
        ("arpo", {"M": 4, "N": 8}, "1 <= N <= M"),
        ("arpo", {"N": 0}, "1 <= N <= M"),
        ("treerl", {"M": 4, "N": 6}, "1 <= N <= M"),
        ("treerl", {"ways": 0}, "points and ways"),
        ("tree_grpo", {"expansions": 0}, "expansions must be >= 1"),
        ("arpo_inverted", {"beta": 0.2}, "needs beta < 0"),
        ("arpo", {"attribution": "firm"}, "attribution"),
        ("arpo", {"Z": 1}, "Z counts the original"),
        ("aepo", {"penalty": 2.0}, "penalty must lie"),
        ("gspo", {"clip_low": -0.1}, "clip_low"),
        ("cispo", {"ratio_max": 0.5}, "ratio_max must be >= 1"),
        ("dapo", {"overlong": 1.0}, "overlong < 1"),
        ("dapo", {"max_length": 0}, "max_length"),
        ("dr_grpo", {"length": 0}, "length must be >= 1"),
        ("grpo", {"aggregation": "fixed"}, "aggregation"),  # it has no constant to divide by
        ("grpo", {"kl_coef": -0.1}, "kl_coef must be >= 0"),
        ("grpo", {"kl_coef": math.nan}, "kl_coef must be >= 0"),
        ("grpo", {"kl": "k4"}, "kl of algorithm 'grpo'"),
        ("grpo", {"tis_cap": 0.0}, "tis_cap must be > 0"),
        ("gigpo", {"gamma": 0.0}, "gamma"),
        ("ppo", {"lam": 1.5}, "lam"),
        ("ppo", {"value_lr": 0.0}, "value_lr"),
        ("grpo", {"dual_clip": 1.0}, "dual_clip must be > 1"),
        ("grpo", {"M": 2.5}, "must be int"),
    ],
)
def test_refused_when_made(name: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, **options)


@pytest.mark.parametrize("name", list_algorithms())
def test_a_group_of_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="nothing to compare"):
        make(name, M=1)


@pytest.mark.parametrize("name", list_algorithms())
def test_what_is_made_can_be_sampled_with(name: str) -> None:
    algorithm = make(name)
    RolloutConfig(M=algorithm.M, N=algorithm.N, branching=algorithm.branching)


@pytest.mark.parametrize("name", list_algorithms())
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_stops_the_update(name: str, bad: float) -> None:
    tree = fork()
    for node in tree.nodes:
        node.value = 0.0
    tree.nodes[4].outcome = Outcome(bad)
    with pytest.raises(TrainingError, match="reward of"):
        make(name).advantages([tree])


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama")


def test_what_an_algorithm_needs_must_be_there(model: PreTrainedModel) -> None:
    learner = Learner(model, LearnerConfig(precision="float32"))
    with pytest.raises(ConfigError, match="set_reference"):
        learner.update([fork()], make("grpo", kl_coef=0.1))
    with pytest.raises(ConfigError, match=r"Learner\(…, algorithm=…\)"):
        learner.update([fork()], make("ppo"))
    with pytest.raises(ConfigError, match="points and ways"):
        Surprise(points=0)
