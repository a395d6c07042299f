"""Entropy, branching rules, budgets, advantages, statistics, losses: numbers by hand and laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trees import random_tree

from arpo_algo.advantages import group_normalised, hard, leave_one_out, rewards, soft, term_weights
from arpo_algo.algorithms import list_algorithms, make
from arpo_algo.branching import Entropy, FairBudget, Never, Probe, Random
from arpo_algo.entropy import entropy_bounds_from_top_logprobs, entropy_from_logits, normalised_mean
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.losses import LossBatch, clipped
from arpo_algo.stats import paired_difference, wilson
from arpo_algo.tree import Outcome, Tree


class TestEntropy:
    def test_uniform_and_certain(self) -> None:
        assert float(entropy_from_logits(torch.zeros(50))) == pytest.approx(math.log(50))
        certain = torch.full((50,), -math.inf)
        certain[3] = 0
        assert float(entropy_from_logits(certain)) == 0.0
        assert math.isnan(float(entropy_from_logits(torch.full((5,), math.nan))))

    @given(st.integers(0, 10_000), st.integers(1, 40), st.floats(0.2, 4))
    def test_top_k_bounds_hold_and_close(self, seed: int, k: int, scale: float) -> None:
        logits = torch.randn(40, generator=torch.Generator().manual_seed(seed)) * scale
        logp = logits.log_softmax(-1).sort(descending=True).values.tolist()
        exact = float(entropy_from_logits(logits))
        low, high = entropy_bounds_from_top_logprobs(logp[:k], 40)
        assert low - 1e-5 <= exact <= high + 1e-5
        if k == 40:
            assert high - low < 1e-6

    def test_mean_of_what_is_there(self) -> None:
        assert normalised_mean([1.0, 3.0, 100.0], 2, 256) == pytest.approx(2 / math.log(256))
        assert normalised_mean([1.0], 20, 256) == pytest.approx(1 / math.log(256))
        with pytest.raises(ValueError, match="no entropies"):
            normalised_mean([], 20, 256)


def probe(entropy: float, baseline: float = 0.1, seed: int = 0) -> Probe:
    return Probe(entropy, baseline, 0, 1, np.random.default_rng(seed))


class TestRules:
    def test_threshold_is_the_papers_rule(self) -> None:
        rule = Entropy()  # α = τ: fork iff ΔH > 0, whatever β is
        assert rule.wish(probe(0.2)).siblings == 1
        assert rule.wish(probe(0.1)).siblings == 0
        assert rule.wish(probe(0.05)).siblings == 0
        assert rule.wish(probe(0.2)).score == pytest.approx(0.5 + 0.2 * 0.1)
        strict = Entropy(alpha=0.4, beta=1.0, tau=0.5, Z=3)
        assert strict.wish(probe(0.21)).siblings == 2
        assert strict.wish(probe(0.19)).siblings == 0

    def test_bernoulli_probability_is_alpha_plus_beta_delta(self) -> None:
        rule = Entropy(rule="bernoulli", alpha=0.3, beta=1.0)
        forks = [rule.wish(probe(0.3, 0.1, seed)).siblings for seed in range(4000)]
        assert np.mean(forks) == pytest.approx(0.5, abs=0.03)
        assert Entropy(rule="bernoulli", alpha=-5).wish(probe(0.3)).siblings == 0
        assert Entropy(rule="bernoulli", alpha=5).wish(probe(0.3)).siblings == 1

    def test_turned_sign_forks_where_certain(self) -> None:
        rule = Entropy(beta=-0.2)
        assert rule.wish(probe(0.2)).siblings == 0
        assert rule.wish(probe(0.05)).siblings == 1

    def test_never_and_random(self) -> None:
        assert Never().wish(probe(9.0)).siblings == 0
        assert np.mean([Random(0.25).wish(probe(0.0, seed=s)).siblings for s in range(4000)]) == pytest.approx(
            0.25, abs=0.03
        )

    @pytest.mark.parametrize("bad", [{"k": 0}, {"Z": 1}, {"rule": "coin"}])
    def test_bad_values(self, bad: dict) -> None:
        with pytest.raises(ConfigError):
            Entropy(**bad)

    @given(
        st.integers(0, 40), st.integers(1, 9), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=60)
    )
    def test_budget_is_fair_and_never_exceeded(self, forks: int, roots: int, wants: list[tuple[int, int]]) -> None:
        budget = FairBudget(forks, roots, np.random.default_rng(0))
        assert sum(budget.quota) == forks
        assert max(budget.quota) - min(budget.quota) <= 1
        granted = 0
        for i, (root, want) in enumerate(wants):
            root %= roots
            if i % 7 == 6:
                budget.retire(root)
                continue
            granted += budget.take(root, want)
        assert granted + budget.left == forks


def hand_tree() -> Tree:
    """Two roots; the first forks after its result: leaves 4 and 5 share node 1 (2 tokens), leaf 2 is alone."""
    tree = Tree("hand", [1, 2, 3])
    shared = tree.add(0, "action", [4, 5])
    alone = tree.add(0, "action", [6])
    result = tree.add(shared.id, "result", [7])
    left = tree.add(result.id, "action", [8])
    right = tree.add(result.id, "action", [9, 10, 11])
    for node, reward in ((alone, 0.0), (left, 1.0), (right, 2.0)):
        node.outcome = Outcome(reward)
    for node in tree.nodes:
        node.logprobs = [0.0] * len(node.tokens) if node.kind == "action" else []
    return tree


class TestAdvantages:
    def test_by_hand(self) -> None:
        tree = hand_tree()
        assert [leaf.id for leaf in tree.leaves()] == [2, 4, 5]
        assert rewards(tree) == [0.0, 1.0, 2.0]
        a = group_normalised(rewards(tree))  # mean 1, sample std 1
        assert a == pytest.approx([-1, 0, 1], abs=1e-5)
        assert soft(tree, a) == pytest.approx({(2, 2): -1, (4, 1): 0, (4, 4): 0, (5, 1): 1, (5, 5): 1}, abs=1e-5)
        # the shared node 1: (0 + 1) / 2 in both trajectories
        assert hard(tree, a) == pytest.approx({(2, 2): -1, (4, 1): 0.5, (4, 4): 0, (5, 1): 0.5, (5, 5): 1}, abs=1e-5)

    def test_equal_rewards_give_zeros_not_nan(self) -> None:
        for reward, n in itertools.product((0.7, 1.1, 0.1, -1.0), (1, 2, 5, 8, 16)):  # means differ in the last bit
            assert group_normalised([reward] * n) == [0.0] * n
            assert group_normalised([reward] * n, scale=False) == [0.0] * n
            assert leave_one_out([reward] * n) == [0.0] * n
        assert group_normalised([-1.0]) == [0.0]
        assert group_normalised([1.0, 1.0 + 1e-12]) == [0.0, 0.0]

    def test_weights_by_hand(self) -> None:
        tree = hand_tree()  # terms: leaf 2: 1; leaf 4: 2 + 1; leaf 5: 2 + 3 -> 9
        (token,) = term_weights([tree], "token")
        assert set(token.values()) == {1 / 9}
        (sequence,) = term_weights([tree], "sequence")
        assert sequence == pytest.approx({(2, 2): 1 / 3, (4, 1): 1 / 9, (4, 4): 1 / 9, (5, 1): 1 / 15, (5, 5): 1 / 15})
        (once,) = term_weights([tree], "token", shared_once=True)  # unique tokens: 1 + 2 + 1 + 3 = 7
        assert once == pytest.approx({(2, 2): 1 / 7, (4, 1): 1 / 14, (4, 4): 1 / 7, (5, 1): 1 / 14, (5, 5): 1 / 7})

    @given(st.integers(0, 500), st.sampled_from(["token", "sequence"]), st.booleans())
    def test_weights_of_a_minibatch_sum_to_one(self, seed: int, aggregation: str, once: bool) -> None:
        trees = [random_tree(np.random.default_rng([seed, i])) for i in range(2)]
        total = sum(
            w * len(tree.nodes[node].tokens)
            for tree, weights in zip(trees, term_weights(trees, aggregation, shared_once=once), strict=True)  # type: ignore[arg-type]
            for (_, node), w in weights.items()
        )
        assert total == pytest.approx(1.0)

    def test_a_reward_that_is_not_finite_stops_the_run(self) -> None:
        tree = hand_tree()
        tree.nodes[2].outcome = Outcome(math.nan)
        with pytest.raises(TrainingError, match="reward of nan"):
            rewards(tree)


def test_clipped_surrogate_by_hand() -> None:
    def loss(ratio: float, advantage: float, dual: float | None = 3.0) -> float:
        one = torch.ones(1)
        logp = torch.tensor([math.log(ratio)])
        batch = LossBatch(logp, 0 * one, 0 * one, advantage * one, one, one.int(), one.int(), one)
        return float(clipped(batch, 0.2, 0.28, dual).loss)

    assert loss(1.1, 2.0) == pytest.approx(-2.2)
    assert loss(1.5, 2.0) == pytest.approx(-2 * 1.28), "clipped above"
    assert loss(0.5, 2.0) == pytest.approx(-1.0), "not clipped: the minimum is the plain one"
    assert loss(0.5, -2.0) == pytest.approx(1.6), "clipped below"
    assert loss(2.0, -2.0) == pytest.approx(4.0)
    assert loss(9.0, -2.0) == pytest.approx(6.0), "dual clip bounds the loss at c·|A|"
    assert loss(9.0, -2.0, None) == pytest.approx(18.0)


class TestStats:
    def test_wilson_known_values(self) -> None:
        # Newcombe 1998, table I: 81 of 263 -> 0.2553 .. 0.3662; 0 of 20 -> 0 .. 0.1611
        assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
        assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
        with pytest.raises(ValueError, match="successes"):
            wilson(3, 2)

    def test_wilson_covers(self) -> None:
        rng = np.random.default_rng(0)
        hits = [low <= 0.3 <= high for low, high in (wilson(int(s), 100) for s in rng.binomial(100, 0.3, 4000))]
        assert 0.93 <= np.mean(hits) <= 0.97

    def test_paired_difference(self) -> None:
        mean, low, high = paired_difference([0, 0, 1, 0], [1, 0, 1, 1])
        assert mean == 0.5
        assert low < 0.0 < 0.5 < high < 1.0, "four tasks show nothing"
        assert paired_difference([0], [1]) == (1.0, -1.0, 1.0), "one task (eval.tasks=1), still less"
        for a, b in (([], []), ([0], [1, 1])):
            with pytest.raises(ValueError, match="equally long"):
                paired_difference(a, b)


class TestRegistry:
    def test_names_and_errors(self) -> None:
        assert {"arpo", "grpo"} <= set(list_algorithms())
        with pytest.raises(ConfigError, match="did you mean 'arpo'"):
            make("apro")
        with pytest.raises(ConfigError, match="did you mean 'attribution'"):
            make("arpo", atribution="hard")
        with pytest.raises(ConfigError, match="1 <= N <= M"):
            make("arpo", M=2, N=4)
        with pytest.raises(ConfigError, match="must be int"):
            make("arpo", M="16")
        with pytest.raises(ConfigError, match="M >= 2"):
            make("grpo", M=1)

    def test_grpo_is_arpo_without_branching(self) -> None:
        tree = random_tree(np.random.default_rng(2))
        assert make("grpo").advantages([tree]) == make("arpo").advantages([tree])
        assert make("grpo").branching.probe_tokens == 0
