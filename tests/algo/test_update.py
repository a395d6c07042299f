"""An update by hand: whose log-probs the ratio divides by, the optimiser's settings, credits that do not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from trees import random_tree, tiny_model

from arpo_algo.advantages import actions, term_weights
from arpo_algo.algorithms import make
from arpo_algo.algorithms.base import Clipped
from arpo_algo.check import CheckError, check_algorithm
from arpo_algo.errors import ConfigError
from arpo_algo.learner import Learner
from arpo_algo.losses import LossBatch, LossOutput
from arpo_algo.optimizer import LearnerConfig
from arpo_algo.packing import Credit, Credited, pack
from arpo_algo.scoring import score
from arpo_algo.tree import Tree


def learner_of(**settings: Any) -> Learner:
    return Learner(tiny_model("llama"), LearnerConfig(precision="float32", **settings))


def two_trees() -> list[Tree]:
    return [random_tree(np.random.default_rng(seed)) for seed in (0, 1)]


class TestOldPolicy:
    """The trees' own log-probs are some 0.3 nats off the model's, as those of another policy are."""

    def seen(self, old_policy: str) -> tuple[list[LossBatch], list[torch.Tensor], list[torch.Tensor]]:
        """The terms of four mini-batches (two trees, twice); the start's log-probs of each tree's, and the engine's."""
        batches: list[LossBatch] = []

        @dataclass(frozen=True)
        class Watched(Clipped):
            def loss(self, batch: LossBatch) -> LossOutput:
                batches.append(batch)
                return super().loss(batch)

        trees, algorithm = two_trees(), Watched()
        learner = learner_of(lr=5e-2, mini_batch=1, epochs=2)
        start, engine = [], []
        for tree in trees:
            made = pack([Credited(tree, algorithm.advantages([tree])[0], term_weights([tree], "token")[0])])
            with torch.no_grad():
                start.append(score(learner.model, made).logp[made.term])
            engine.append(made.rollout_logp[made.term])
        learner.update(trees, algorithm, old_policy=old_policy)  # type: ignore[arg-type]
        return batches, start * 2, engine * 2

    def test_current_is_the_policy_at_the_updates_start_in_every_mini_batch(self) -> None:
        batches, start, engine = self.seen("current")
        for number, (batch, old, other) in enumerate(zip(batches, start, engine, strict=True)):
            assert torch.allclose(batch.old_logp, old, atol=1e-5)
            assert float((batch.old_logp - other).abs().max()) > 0.1
            moved = float((batch.logp - batch.old_logp).detach().abs().max())
            assert moved > 1e-2 if number else moved < 1e-5, "the ratio begins at 1 and leaves it"

    def test_rollout_is_the_policy_that_sampled(self) -> None:
        batches, _, engine = self.seen("rollout")
        for batch, old in zip(batches, engine, strict=True):
            assert torch.equal(batch.old_logp, old)


class TestOptimiser:
    def step(self, learner: Learner, size: float) -> float:
        """One optimiser step with every gradient at ``size``."""
        for parameter in learner.parameters:
            parameter.grad = torch.full_like(parameter, size)
        return learner.optimizer_step()

    def test_settings_reach_it_and_the_rate_warms_up(self) -> None:
        settings = LearnerConfig(lr=1e-3, weight_decay=0.03, betas=(0.8, 0.95), warmup_steps=4, precision="float32")
        learner = Learner(tiny_model("llama"), settings, algorithm=make("ppo", value_lr=0.5))
        policy, critic = learner.optimizer.param_groups
        assert (policy["weight_decay"], policy["betas"]) == (0.03, (0.8, 0.95))
        rates = []
        for _ in range(6):
            self.step(learner, 0.1)
            rates.append((policy["lr"], critic["lr"]))
        warm = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
        assert rates == [(pytest.approx(1e-3 * w), pytest.approx(0.5 * w)) for w in warm]

    @pytest.mark.parametrize(("size", "clipped"), [(10.0, True), (1e-4, False)])
    def test_a_gradient_is_clipped_to_its_norm(self, size: float, clipped: bool) -> None:
        learner = learner_of(lr=0.1, max_grad_norm=0.5)
        learner.optimizer = torch.optim.SGD(learner.parameters)  # AdamW's steps do not tell: they are free of scale
        before = [p.detach().clone() for p in learner.parameters]
        norm = self.step(learner, size)
        assert norm == pytest.approx(size * sum(p.numel() for p in learner.parameters) ** 0.5, rel=1e-4)
        moved = (
            sum(float((p.detach() - q).square().sum()) for p, q in zip(learner.parameters, before, strict=True)) ** 0.5
        )
        assert moved == pytest.approx(0.1 * (0.5 if clipped else norm), rel=1e-3)


def test_imitation_is_of_the_plain_distribution() -> None:
    """The cold start's loss is the mean negative log-likelihood at temperature 1, whatever rollouts are sampled at."""
    model, trees = tiny_model("llama", initializer_range=0.5), two_trees()
    stock = copy.deepcopy(model)
    said: list[float] = []
    with torch.no_grad():
        for tree in trees:
            for leaf in tree.leaves():
                ids = tree.tokens(leaf.id)
                logp = stock(torch.tensor([ids])).logits[0].log_softmax(-1)
                at = [i for n in tree.path(leaf.id) if n.kind == "action" for i in range(n.start, n.end)]
                said += [float(logp[i - 1, ids[i]]) for i in at]
    learner = Learner(model, LearnerConfig(precision="float32"), temperature=0.7)
    assert learner.imitate(trees)["loss"] == pytest.approx(-sum(said) / len(said), rel=1e-4)


def _empty(trees: Sequence[Tree], credits: list[Credit]) -> list[Credit]:
    return [{} for _ in trees]


def _too_few(trees: Sequence[Tree], credits: list[Credit]) -> list[Credit]:
    return credits[:-1]


def _other_keys(trees: Sequence[Tree], credits: list[Credit]) -> list[Credit]:
    return [{(leaf, node + 1): a for (leaf, node), a in credit.items()} for credit in credits]


def _short(trees: Sequence[Tree], credits: list[Credit]) -> list[Credit]:
    return [{key: [a] * (len(actions(t)[key].tokens) + 1) for key, a in c.items()} for t, c in zip(trees, credits)]  # type: ignore[misc]  # noqa: B905


def _array(trees: Sequence[Tree], credits: list[Credit]) -> list[Credit]:
    return [{key: np.full(2, a) for key, a in credit.items()} for credit in credits]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_empty, r"0 are not actions on that leaf's path and \d+ are missing; arpo_algo\.advantages\.actions"),
        (_too_few, r"advantages\(\) gave 1 credits for 2 trees; give one a tree"),
        (_other_keys, r"\d+ are not actions on that leaf's path and \d+ are missing"),
        (_short, r"must be one number, or a list of one a token \(\d+\), got a list of \d+"),
        (_array, r"must be one number, or a list of one a token \(\d+\), got a ndarray of 2"),
    ],
)
def test_credits_that_do_not_fit_the_trees_are_refused_by_name(
    spoil: Callable[[Sequence[Tree], list[Credit]], list[Credit]], message: str
) -> None:
    """They would train nothing with exit code 0, or end in a KeyError; the checker says the same."""

    @dataclass(frozen=True)
    class Misfit(Clipped):
        def advantages(self, trees: Sequence[Tree]) -> list[Credit]:
            return spoil(trees, super().advantages(trees))

    learner = learner_of()
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    with pytest.raises(ConfigError, match=f"algorithm Misfit: .*{message}"):
        learner.update(two_trees(), Misfit())
    assert all(torch.equal(v, before[k]) for k, v in learner.model.state_dict().items())
    with pytest.raises(CheckError, match=message):
        check_algorithm(Misfit())
