"""Golden numbers: every advantage and every loss against closed forms worked out by hand, as fractions."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction as F

import numpy as np
import pytest
import torch
from forest import comb, fill, fork, star
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_algo.advantages import kl_of, leave_one_out, term_weights, whitened
from arpo_algo.algorithms import make
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.losses import LossBatch, kl_penalty, truncated_importance, value_loss
from arpo_algo.tree import Outcome, Tree


def near(expected: dict) -> object:
    return pytest.approx({k: float(v) for k, v in expected.items()}, abs=2e-5)


class TestAdvantages:
    def test_grpo(self) -> None:
        (a,) = make("grpo").advantages([star([1, 0, 0, 1])])  # mean 1/2, sample variance 1/3
        assert a == near(
            {(1, 1): math.sqrt(3) / 2, (2, 2): -math.sqrt(3) / 2, (3, 3): -math.sqrt(3) / 2, (4, 4): math.sqrt(3) / 2}
        )

    def test_dr_grpo_has_no_std(self) -> None:
        (a,) = make("dr_grpo").advantages([star([1, 0, 0, 0])])
        assert a == near({(1, 1): F(3, 4), (2, 2): F(-1, 4), (3, 3): F(-1, 4), (4, 4): F(-1, 4)})

    def test_dr_grpo_divides_by_a_constant(self) -> None:
        (w,) = term_weights([fork()], "fixed", length=10)
        assert w == near(dict.fromkeys([(2, 2), (4, 1), (4, 4), (5, 1), (5, 5)], F(1, 30)))
        with pytest.raises(ConfigError, match="constant length"):
            term_weights([fork()], "fixed")

    def test_rloo_is_the_mean_of_the_others(self) -> None:
        (a,) = make("rloo").advantages([star([3, 0, 1])])
        assert a == near({(1, 1): 3 - F(1, 2), (2, 2): 0 - F(2), (3, 3): 1 - F(3, 2)})

    @settings(deadline=None)
    @given(st.lists(st.integers(-5, 5), min_size=2, max_size=9))
    def test_rloo_law(self, r: list[int]) -> None:
        others = [F(x) - F(sum(r) - x, len(r) - 1) for x in r]
        assert leave_one_out(r) == pytest.approx([float(x) for x in others], abs=1e-9)

    def test_arpo_soft_and_hard(self) -> None:
        (soft,) = make("arpo").advantages([fork()])  # rewards 0, 1, 2: mean 1, std 1
        assert soft == near({(2, 2): -1, (4, 1): 0, (4, 4): 0, (5, 1): 1, (5, 5): 1})
        (hard,) = make("arpo", attribution="hard").advantages([fork()])
        assert hard == near({(2, 2): -1, (4, 1): F(1, 2), (4, 4): 0, (5, 1): F(1, 2), (5, 5): 1})
        for control in ("arpo_random", "arpo_inverted"):
            assert make(control).advantages([fork()]) == [soft]

    def test_dapo_overlong(self) -> None:
        # fork(): lengths 4 (leaf 2), 7 (leaf 4), 9 (leaf 5). L_max 10, L_cache 5: −0, −2/5, −4/5
        assert make("dapo", max_length=10, overlong=0.5).scores(fork()) == pytest.approx([0, 1 - 0.4, 2 - 0.8])
        assert make("dapo").scores(fork()) == [0, 1, 2]
        noted = fork()
        noted.meta["max_tokens"] = 5  # beyond the limit: −1, never more
        assert make("dapo", overlong=0.2).scores(noted) == pytest.approx([0, 0, 1])

    def test_dapo_keeps_groups_that_differ(self) -> None:
        assert make("dapo").keep(star([0, 1]))
        assert not make("dapo").keep(star([1, 1]))
        late = fill(fork(), {2: 1.0, 4: 1.0, 5: 1.0})
        algorithm = make("dapo", max_length=10, overlong=0.5)
        assert algorithm.scores(late) == pytest.approx([1, 1 - 0.4, 1 - 0.8])
        assert not algorithm.keep(late), "that one answer is too long is no difference in reward"

    def test_reinforce_pp_whitens_over_tokens_of_the_batch(self) -> None:
        # tokens: 2 with r = 3, 1 with r = 0 -> mean 2, sample variance (1 + 1 + 4)/2 = 3
        trees = [star([3], tokens=2), star([0], tokens=1)]
        a, b = make("reinforce_pp").advantages(trees)
        assert a == near({(1, 1): 1 / math.sqrt(3)})
        assert b == near({(1, 1): -2 / math.sqrt(3)})

    def test_reinforce_pp_baseline_takes_the_group_mean_off_first(self) -> None:
        # group 1: 2, 4 -> −1, 1; group 2: 0, 0 -> 0, 0; one token each: mean 0, sample variance 2/3
        a, b = make("reinforce_pp_baseline").advantages([star([2, 4], 1), star([0, 0], 1)])
        assert a == near({(1, 1): -math.sqrt(1.5), (2, 2): math.sqrt(1.5)})
        assert b == near({(1, 1): 0, (2, 2): 0})
        assert make("reinforce_pp", baseline=True).advantages([star([2, 4], 1)]) == make(
            "reinforce_pp_baseline"
        ).advantages([star([2, 4], 1)])

    def test_reinforce_pp_takes_the_kl_to_go_off_the_return(self) -> None:
        tree = fork()
        for node in tree.nodes:
            if node.kind == "action":  # k1 = logprob − ref = 1/2 a token
                node.ref_logprobs = [-1.5] * len(node.tokens)
        credit = make("reinforce_pp", kl_coef=0.2).returns_to_go(tree)
        assert credit[5, 5] == pytest.approx([2 - 0.3, 2 - 0.2, 2 - 0.1])
        assert credit[5, 1] == pytest.approx([2 - 0.5, 2 - 0.4])
        assert credit[4, 1] == pytest.approx([1 - 0.3, 1 - 0.2])
        assert credit[2, 2] == pytest.approx([0 - 0.1])
        assert make("rloo", kl_coef=0.2, kl_in="reward", kl="k1").scores(tree) == pytest.approx(
            [-0.1, 1 - 0.3, 2 - 0.5]
        )

    def test_gigpo(self) -> None:
        # scale off, γ = 1/2. Rewards 0, 1, 2; episode level: −1, 0, 1.
        # Anchor "prompt": steps (2,2): 0; (4,1): 1/2; (5,1): 1 -> mean 1/2. "seen": (4,4): 1; (5,5): 2 -> mean 3/2
        (a,) = make("gigpo", gamma=0.5, scale=False).advantages([fork()])
        step = {(2, 2): F(-1, 2), (4, 1): 0, (5, 1): F(1, 2), (4, 4): F(-1, 2), (5, 5): F(1, 2)}
        episode = {2: -1, 4: 0, 5: 1}
        assert a == near({k: episode[k[0]] + v for k, v in step.items()})
        (half,) = make("gigpo", gamma=0.5, scale=False, omega=0.5).advantages([fork()])
        assert half == near({k: episode[k[0]] + F(v) / 2 for k, v in step.items()})

    def test_gigpo_groups_by_what_was_seen_not_by_node(self) -> None:
        tree = Tree("anchors", [1])
        for text, reward in (("same", 1.0), ("same", 0.0), ("other", 5.0)):
            first = tree.add(0, "action", [2])
            seen = tree.add(first.id, "result", [3], text=text)
            tree.add(seen.id, "action", [4]).outcome = Outcome(reward)
        (a,) = make("gigpo", scale=False, gamma=1.0).advantages([tree])
        # rewards 1, 0, 5: episode −1, −2, 3; "same": ±1/2; "other", met once: 0
        assert [a[3, 3], a[6, 6], a[9, 9]] == pytest.approx([-0.5, -2.5, 3.0])

    def test_tree_grpo_adds_both_levels(self) -> None:
        # fork(): sub-tree of node 1 has rewards 1, 2 (∓1/√2), that of node 2 one leaf (0); prompt level −1, 0, 1
        (a,) = make("tree_grpo").advantages([fork()])
        s = 1 / math.sqrt(2)
        assert a == near({(2, 2): -1, (4, 1): -s, (4, 4): -s, (5, 1): 1 + s, (5, 5): 1 + s})

    def test_treerl(self) -> None:
        # comb(): leaves 5 (1), 6 (0), 7 (1), 8 (0). V(root) 1/2; V(1) 2/3 over 3; V(3) 1/2 over 2.
        (a,) = make("treerl").advantages([comb()])
        one = (F(1, 6) + F(1, 6)) / math.sqrt(3)  # node 1: its parent is the root
        three = (F(0) + (F(1, 2) - F(2, 3))) / math.sqrt(2)  # node 3: its parent segment is node 1
        assert a == near(
            {
                (5, 1): one, (6, 1): one, (7, 1): one, (5, 3): three, (6, 3): three,
                (5, 5): F(1, 2) + F(1, 2), (6, 6): F(-1, 2) - F(1, 2),
                (7, 7): F(1, 2) + F(1, 3), (8, 8): F(-1, 2) - F(1, 2),
            }
        )  # fmt: skip

    def test_treerl_segments_span_turns(self) -> None:
        tree = Tree("long", [1])
        first = tree.add(0, "action", [2])
        last = tree.add(tree.add(first.id, "result", [3]).id, "action", [4])
        tree.add(0, "action", [5]).outcome = Outcome(0.0)
        last.outcome = Outcome(1.0)
        (a,) = make("treerl").advantages([tree])  # no fork between first and last: one segment, V − V_root = 1/2 twice
        assert a[last.id, first.id] == a[last.id, last.id] == 1.0

    def test_aepo_shapes_by_entropy(self) -> None:
        tree = star([0, 1], tokens=2)
        tree.nodes[1].entropies, tree.nodes[2].entropies = [0.0, 1.0], [1.0, 2.0]
        (a,) = make("aepo").advantages([tree])  # mean 1, sample variance 2/3; Â = ∓1/√2
        z, s = 1 / math.sqrt(2 / 3), 1 / math.sqrt(2)
        assert a[1, 1] == pytest.approx([-s * (1 - 0.2 * z), -s], abs=1e-5)
        assert a[2, 2] == pytest.approx([s, s * (1 + 0.2 * z)], abs=1e-5)

    def test_ppo_gae_over_turns(self) -> None:
        tree = fork()
        for node, value in ((1, 0.5), (2, 0.25), (4, 1.0), (5, 3.0)):
            tree.nodes[node].value = value
        advantage, returns = make("ppo", gamma=0.5, lam=0.5).gae(tree)
        # leaf 5: δ₂ = 2 − 3 = −1; δ₁ = ½·3 − ½ = 1; Â₁ = 1 + ¼·(−1)
        assert advantage == near({(5, 5): -1, (5, 1): F(3, 4), (4, 4): 0, (4, 1): 0, (2, 2): F(-1, 4)})
        assert returns == near({(5, 5): 2, (5, 1): F(5, 4), (4, 4): 1, (4, 1): F(1, 2), (2, 2): 0})
        monte_carlo, goal = make("ppo", gamma=1.0, lam=1.0).gae(tree)
        assert goal == near({(5, 5): 2, (5, 1): 2, (4, 4): 1, (4, 1): 1, (2, 2): 0})
        with pytest.raises(TrainingError, match="has no value"):
            make("ppo").advantages([fork()])
        white = make("ppo", gamma=1.0, lam=1.0).advantages([tree])
        assert white == [near(dict(whitened([tree], [monte_carlo])[0]))]

    def test_kl_estimators(self) -> None:
        tree = star([0, 1], tokens=1)
        tree.nodes[1].logprobs, tree.nodes[1].ref_logprobs = [-1.0], [-1.0 - math.log(2)]  # d = ln 2
        assert kl_of(tree.nodes[1], "k1") == pytest.approx([math.log(2)])
        assert kl_of(tree.nodes[1], "k2") == pytest.approx([math.log(2) ** 2 / 2])
        assert kl_of(tree.nodes[1], "k3") == pytest.approx([0.5 - 1 + math.log(2)])
        with pytest.raises(TrainingError, match="no reference"):
            kl_of(tree.nodes[2], "k1")


def batch(ratio: list[float], advantage: list[float], leaf: list[int] | None = None, **more: torch.Tensor) -> LossBatch:
    n = len(ratio)
    logp = torch.tensor(ratio, dtype=torch.float64).log().requires_grad_()
    zero, index = torch.zeros(n, dtype=torch.float64), torch.tensor(leaf or [0] * n)
    a = torch.tensor(advantage, dtype=torch.float64)
    return replace(LossBatch(logp, zero, zero, a, zero, index, index, torch.full_like(a, 1 / n)), **more)


def slope(algorithm: str, b: LossBatch, **options: object) -> tuple[float, list[float]]:
    loss = make(algorithm, **options).loss(b).loss
    return float(loss.detach()), torch.autograd.grad(loss, b.logp)[0].tolist()


class TestLosses:
    def test_gspo(self) -> None:
        # trajectory 0: ratios 1.2, 1/1.2 -> s = 1; trajectory 1: 1.21, 1 -> s = 1.1, clipped at 1.05 for A > 0
        b = batch([1.2, 1 / 1.2, 1.21, 1.0], [1, 1, 2, 2], [0, 0, 1, 1])
        loss, gradient = slope("gspo", b, clip_low=0.05, clip_high=0.05)
        assert loss == pytest.approx(-(1 + 2 * 1.05) / 2)
        assert gradient == pytest.approx([-0.25, -0.25, 0, 0])
        down = batch([1.2, 1 / 1.2, 1.21, 1.0], [1, 1, -2, -2], [0, 0, 1, 1])
        loss, gradient = slope("gspo", down, clip_low=0.05, clip_high=0.05)
        assert loss == pytest.approx(-(1 - 2 * 1.1) / 2)
        assert gradient == pytest.approx([-0.25, -0.25, 0.55, 0.55])

    def test_cispo_no_token_loses_its_gradient(self) -> None:
        b = batch([0.5, 1.0, 9.0], [1, 1, 1])
        loss, gradient = slope("cispo", b, ratio_max=5.0)
        assert gradient == pytest.approx([-0.5 / 3, -1 / 3, -5 / 3])
        assert loss == pytest.approx(-(0.5 * math.log(0.5) + 5 * math.log(9)) / 3)

    def test_dapo_clips_higher_above(self) -> None:
        assert slope("dapo", batch([1.25], [1]))[1] == pytest.approx([-1.25])
        assert slope("dapo", batch([1.3], [1]))[1] == [0]
        assert slope("dapo", batch([0.75], [-1]))[1] == [0]
        assert slope("grpo", batch([1.25], [1]))[1] == [0]

    def test_aepo_keeps_the_gradient_above(self) -> None:
        for advantage, ratio, value, gradient in (
            (1.0, 1.1, 1.1, 1.1),  # inside
            (1.0, 2.0, 1.2, 1.2),  # clipped above: value and gradient (1 + ε)·∇ln π
            (1.0, 0.5, 0.5, 0.5),
            (-1.0, 0.5, -0.8, 0.0),  # clipped below: gone, as in PPO
            (-1.0, 2.0, -2.0, -2.0),
        ):
            loss, (g,) = slope("aepo", batch([ratio], [advantage]))
            assert (loss, g) == (pytest.approx(-value), pytest.approx(-gradient)), (advantage, ratio)

    def test_kl_and_entropy_terms(self) -> None:
        ref = torch.tensor([math.log(0.5)], dtype=torch.float64)  # d = ln 2 at ratio 1
        plain, _ = slope("grpo", batch([1.0], [1]))
        for kl, value, gradient in (
            ("k1", math.log(2), math.log(2) + 1),
            ("k2", math.log(2) ** 2 / 2, math.log(2)),
            ("k3", 0.5 - 1 + math.log(2), 1 - 0.5),
        ):
            loss, (g,) = slope("grpo", batch([1.0], [1], ref_logp=ref), kl_coef=0.1, kl=kl)
            assert loss == pytest.approx(plain + 0.1 * value)
            assert g == pytest.approx(-1 + 0.1 * gradient)
        h = torch.tensor([2.0], dtype=torch.float64)
        assert slope("grpo", batch([1.0], [1], entropy=h), entropy_coef=0.01)[0] == pytest.approx(plain - 0.02)
        with pytest.raises(ConfigError, match="set_reference"):
            kl_penalty(batch([1.0], [1]), "k3")

    def test_kl_estimators_are_right_on_average(self) -> None:
        """Exact expectation over a small vocabulary: k1 and k3 are unbiased; the gradients are those of the KL."""
        logits = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        ref = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
        logp = logits.log_softmax(-1)
        p = logp.detach().exp()
        exact = (logp.exp() * (logp - ref)).sum()
        (wanted,) = torch.autograd.grad(exact, logits, retain_graph=True)
        every = LossBatch(logp, logp.detach(), logp.detach(), p, p, p, p, p, ref)  # weight p: the expectation
        for kl in ("k1", "k3"):
            assert float(kl_penalty(every, kl).detach()) == pytest.approx(float(exact.detach()))
        for kl in ("k1", "k2"):
            (got,) = torch.autograd.grad(kl_penalty(every, kl), logits, retain_graph=True)
            assert got.tolist() == pytest.approx(wanted.tolist(), abs=1e-12)

    def test_importance_correction_is_truncated(self) -> None:
        one = torch.ones(2, dtype=torch.float64)
        b = replace(batch([1, 1], [1, 1]), rollout_logp=torch.tensor([2.0, 0.5], dtype=torch.float64).log())
        assert truncated_importance(b, 1.5).advantage.tolist() == pytest.approx([0.5, 1.5])
        old, rollout = (torch.tensor(x, dtype=torch.float64).log() for x in ([2.0, 0.5], [4.0, 0.1]))
        moved = replace(batch([3, 3], [1, 1]), old_logp=old, rollout_logp=rollout)  # π has left π_old meanwhile
        assert truncated_importance(moved, 1.5).advantage.tolist() == pytest.approx([2 / 4, 1.5])
        assert slope("grpo", b, tis_cap=1.5)[1] == pytest.approx([-0.25, -0.75])
        assert slope("grpo", b)[1] == pytest.approx((-one / 2).tolist())

    def test_value_loss(self) -> None:
        b = batch([1, 1], [0, 0], value=torch.tensor([1.0, 2.0]), returns=torch.tensor([0.0, 4.0]))
        assert float(value_loss(b)) == pytest.approx((1 + 4) / 4)
        assert slope("ppo", b, value_coef=0.5)[0] == pytest.approx(0.625)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_whitened_has_mean_zero_and_unit_variance_over_tokens(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trees = [star(list(rng.normal(3, 2, 3)), tokens=int(rng.integers(1, 5))) for _ in range(3)]
    white = make("reinforce_pp").advantages(trees)
    flat = [v for t, c in zip(trees, white, strict=True) for (_, n), v in c.items() for _ in t.nodes[n].tokens]
    assert np.mean(flat) == pytest.approx(0, abs=1e-9)
    assert np.var(flat, ddof=1) == pytest.approx(1, abs=1e-4)
