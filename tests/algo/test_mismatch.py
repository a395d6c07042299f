"""Engine log-probs against the learner's own: what is logged of their difference."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from trees import random_tree, tiny_model

from arpo_algo.algorithms import make
from arpo_algo.learner import Learner
from arpo_algo.optimizer import LearnerConfig


def test_the_worst_token_is_named_by_its_ratio() -> None:
    model = tiny_model("llama")
    algorithm = make("arpo", kl_coef=0.01)
    learner = Learner(model, LearnerConfig(lr=1e-9, precision="float32"), algorithm=algorithm)
    learner.set_reference(copy.deepcopy(model))
    tree = random_tree(np.random.default_rng(0))
    learner.annotate([tree], algorithm)
    actions = [n for n in tree.nodes if n.kind == "action"]
    for node in actions:
        node.logprobs = list(node.ref_logprobs)  # the engine said just what the learner computes
    same = learner.update([tree], algorithm)
    assert same["rollout_ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert same["rollout_kl"] == pytest.approx(0.0, abs=1e-6)
    actions[0].logprobs[0] += math.log(3)
    off = learner.update([tree], algorithm)
    assert off["rollout_ratio_max"] == pytest.approx(3.0, rel=1e-3), "also where the engine's is the larger one"
    assert off["rollout_kl"] > same["rollout_kl"] + 1e-3
