"""Estimators, intervals and tests: against closed forms, brute force, and by simulation of clustered samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_algo.stats import (
    average_interval,
    bootstrap_mean,
    crossed_mean,
    holm,
    mean_interval,
    paired_difference,
    paired_permutation,
    pass_at_k,
    pass_hat_k,
    student_t95,
    tango,
    wilson,
)

shares = st.lists(st.floats(0, 1), min_size=1, max_size=40)


class TestPassAtK:
    @pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 4), (6, 6, 2), (7, 3, 7)])
    def test_is_the_share_of_subsets(self, n: int, c: int, k: int) -> None:
        right = [1] * c + [0] * (n - c)
        subsets = list(itertools.combinations(right, k))
        assert pass_at_k(n, c, k) == pytest.approx(np.mean([any(s) for s in subsets]))
        assert pass_hat_k(n, c, k) == pytest.approx(np.mean([all(s) for s in subsets]))

    def test_is_unbiased(self) -> None:
        p, n, k = 0.3, 8, 4
        weights = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
        assert sum(w * pass_at_k(n, c, k) for c, w in enumerate(weights)) == pytest.approx(1 - (1 - p) ** k)
        assert sum(w * pass_hat_k(n, c, k) for c, w in enumerate(weights)) == pytest.approx(p**k)

    @pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, 1, 0), (3, 1, 4)])
    def test_refuses(self, n: int, c: int, k: int) -> None:
        with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}"):
            pass_at_k(n, c, k)


class TestMeanInterval:
    @given(st.lists(st.booleans(), min_size=1, max_size=50))
    def test_is_wilson_for_single_samples(self, rights: list[bool]) -> None:
        got = mean_interval([float(r) for r in rights], samples=len(rights))
        assert got == pytest.approx(wilson(sum(rights), len(rights)), abs=1e-9)

    @given(shares)
    def test_holds_the_mean_inside_the_range(self, values: list[float]) -> None:
        low, high = mean_interval(values)
        assert 0 <= low <= np.mean(values) + 1e-9
        assert np.mean(values) - 1e-9 <= high <= 1

    @given(shares)
    def test_mirrors(self, values: list[float]) -> None:
        low, high = mean_interval(values)
        assert mean_interval([1 - v for v in values]) == pytest.approx((1 - high, 1 - low), abs=1e-9)

    def test_samples_of_one_task_do_not_count_as_tasks(self) -> None:
        """Ten tasks either always or never solved: more samples of each tell nothing new."""
        tasks = [1.0] * 5 + [0.0] * 5
        assert mean_interval(tasks, samples=10) == mean_interval(tasks, samples=80) == wilson(5, 10)

    def test_never_narrower_than_independent_samples(self) -> None:
        assert mean_interval([0.5] * 20, samples=80) == pytest.approx(wilson(40, 80))

    @pytest.mark.parametrize("values", [[], [1.2], [-0.1, 0.5]])
    def test_refuses(self, values: list[float]) -> None:
        with pytest.raises(ValueError, match="at least one value, all in"):
            mean_interval(values)

    @pytest.mark.parametrize("tasks", [10, 30, 100])
    @pytest.mark.parametrize("mean", [0.05, 0.1, 0.5, 0.9])
    @pytest.mark.parametrize("samples", [4, 8])
    def test_covers_under_clustering(self, tasks: int, mean: float, samples: int) -> None:
        """Difficulty from a beta distribution, correlation within a task 0.5; 2,500 draws: standard error 0.45 %."""
        rng = np.random.default_rng([tasks, samples, int(100 * mean)])
        rows = rng.binomial(samples, rng.beta(mean, 1 - mean, (2500, tasks))) / samples
        spans = [mean_interval(row, samples=tasks * samples) for row in rows]
        coverage = np.mean([low <= mean <= high for low, high in spans])
        assert 0.93 - 0.009 <= coverage <= 0.97 + 0.009, "93 to 97 %, give or take two standard errors"

    def test_coverage_over_the_cells_is_nominal(self) -> None:
        """Averaged over accuracies near 0, near 1 and between: the 93–97 % of the promise, without slack."""
        rng = np.random.default_rng(1)
        hits = []
        for mean in np.linspace(0.02, 0.98, 25):
            for samples in (1, 4):
                difficulty = rng.beta(mean, 1 - mean, (300, 30))
                for row in rng.binomial(samples, difficulty) / samples:
                    low, high = mean_interval(row, samples=30 * samples)
                    hits.append(low <= mean <= high)
        assert 0.94 <= np.mean(hits) <= 0.965


def outcomes(n: int, gain: float, loss: float) -> Iterator[tuple[int, int, float]]:
    """(gained, lost, probability) of n pairs: the trinomial distribution, whole."""
    for gained in range(n + 1):
        for lost in range(n - gained + 1):
            ways = math.comb(n, gained) * math.comb(n - gained, lost)
            yield gained, lost, ways * gain**gained * loss**lost * (1 - gain - loss) ** (n - gained - lost)


class TestTango:
    """Of one sample a task: exact, by enumeration of all outcomes."""

    @pytest.mark.parametrize(
        ("tasks", "gain", "loss"),
        [
            (100, 0.02, 0.0),  # two points on a hundred tasks: mean_interval covers this 87 % of the time
            (200, 0.02, 0.0), (20, 0.1, 0.0), (30, 0.05, 0.0), (60, 0.0375, 0.0125), (30, 0.075, 0.025), (10, 0.2, 0.0),
            (100, 0.05, 0.05), (60, 0.05, 0.05), (30, 0.05, 0.05), (30, 0.2, 0.2), (20, 0.05, 0.05), (10, 0.2, 0.2),
        ],
    )  # fmt: skip
    def test_covers(self, tasks: int, gain: float, loss: float) -> None:
        covered = 0.0
        for gained, lost, chance in outcomes(tasks, gain, loss):
            if chance > 1e-9:
                pairs = [(0.0, 1.0)] * gained + [(1.0, 0.0)] * lost + [(1.0, 1.0)] * (tasks - gained - lost)
                _, low, high = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
                covered += chance * (low <= gain - loss <= high)
        assert covered >= 0.93

    def test_by_hand(self) -> None:
        """No pair differs: |nδ| = z·√(nδ(1 − δ)), so δ = z²/(n + z²)."""
        end = 1.96**2 / (50 + 1.96**2)
        assert tango(0, 0, 50, z=1.96) == pytest.approx((-end, end))
        # None lost: beyond the mean none is expected to be, and what is left is the score interval of one proportion.
        assert tango(3, 0, 40)[1] == pytest.approx(wilson(3, 40)[1])

    @given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
    def test_laws(self, gained: int, lost: int, same: int) -> None:
        n = gained + lost + same
        if not n:
            return
        low, high = tango(gained, lost, n)
        assert -1 <= low <= (gained - lost) / n <= high <= 1
        assert tango(lost, gained, n) == pytest.approx((-high, -low), abs=1e-9)
        assert tango(gained, lost, n, z=3.0)[0] <= low, "surer is wider"

    @pytest.mark.parametrize("values", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
    def test_refuses(self, values: tuple[int, int, int]) -> None:
        with pytest.raises(ValueError, match="need gained, lost >= 0"):
            tango(*values)


class TestPairedDifference:
    def test_of_shares_is_as_it_was(self) -> None:
        a, b = [0.5, 0.0, 1.0, 0.25], [0.5, 0.5, 1.0, 0.0]
        mean, low, high = paired_difference(a, b)
        assert (low, high) == mean_interval([y - x for x, y in zip(a, b, strict=True)], low=-1.0, high=1.0)
        assert mean == pytest.approx(0.0625)
        assert paired_difference([1.0], [0.0]) == (-1.0, -1.0, 1.0), "one pair says nothing about the spread"

    def test_no_difference_is_no_certainty(self) -> None:
        mean, low, high = paired_difference([0.0] * 10, [0.0] * 10)
        assert mean == 0.0
        assert low < -0.05 < 0.05 < high

    @pytest.mark.parametrize(
        ("tasks", "mean", "gain"), [(30, 0.1, 0.0), (30, 0.5, 0.1), (100, 0.1, 0.1), (100, 0.5, 0.0)]
    )
    def test_covers(self, tasks: int, mean: float, gain: float) -> None:
        rng = np.random.default_rng([tasks, int(100 * mean)])
        easy = rng.beta(mean, 1 - mean, (2500, tasks))
        other = np.where(rng.random(easy.shape) < 0.7, easy, rng.beta(mean, 1 - mean, easy.shape))
        other = other + gain * (1 - other) / (1 - mean)
        a, b = rng.binomial(4, easy) / 4, rng.binomial(4, other) / 4
        spans = [paired_difference(x, y)[1:] for x, y in zip(a, b, strict=True)]
        assert 0.93 <= np.mean([low <= gain <= high for low, high in spans]) <= 0.99


grids = st.integers(2, 5).flatmap(
    lambda s: st.integers(1, 6).flatmap(
        lambda t: st.lists(st.lists(st.floats(-1, 1), min_size=t, max_size=t), min_size=s, max_size=s)
    )
)


class TestCrossedMean:
    def test_one_column_is_students_interval(self) -> None:
        found = crossed_mean([[1.0], [2.0], [6.0]])
        half = 4.30265 * math.sqrt(7 / 3)  # variance 7, t of 2 degrees of freedom
        assert (found.mean, found.low, found.high) == pytest.approx((3.0, 3 - half, 3 + half))

    def test_by_hand(self) -> None:
        """Rows 0 1 / 2 3: seeds differ by 2, tasks by 1, and nothing is left: MS_task = 2·0.5 = 1, over S·T = 4."""
        found = crossed_mean([[0.0, 1.0], [2.0, 3.0]])
        assert (found.mean, found.between_seeds, found.from_tasks) == pytest.approx((1.5, 2.0, 0.25))
        assert found.high == pytest.approx(1.5 + 12.7062 * math.sqrt(2.0 / 2 + 0.25))

    def test_one_seed_makes_no_interval(self) -> None:
        found = crossed_mean([[0.0, 1.0, 1.0]])
        assert (found.low, found.high, found.seeds_for(0.1)) == (None, None, None)

    @given(grids, st.floats(-2, 2))
    def test_moves_with_its_values_and_mirrors(self, rows: list[list[float]], by: float) -> None:
        found, moved = crossed_mean(rows), crossed_mean([[x + by for x in row] for row in rows])
        mirrored = crossed_mean([[-x for x in row] for row in rows])
        assert found.low is not None
        assert found.high is not None
        assert (moved.low, moved.high) == pytest.approx((found.low + by, found.high + by), abs=1e-6)
        assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=1e-6)
        assert found.low - 1e-9 <= found.mean <= found.high + 1e-9

    @given(grids, st.floats(0.01, 2))
    def test_seeds_for_is_the_fewest(self, rows: list[list[float]], half: float) -> None:
        found = crossed_mean(rows)
        needed = found.seeds_for(half, most=500)
        if needed is None:
            assert (found.half_width(500) or 0) > half
        else:
            assert needed >= 2
            assert (found.half_width(needed) or 0) <= half
            assert needed == 2 or (found.half_width(needed - 1) or 0) > half

    @pytest.mark.parametrize(
        ("seeds", "of_seeds", "of_tasks"), [(2, 0.05, 0.1), (3, 0.0, 0.0), (3, 0.1, 0.2), (5, 0.2, 0.0), (10, 0.0, 0.3)]
    )
    def test_covers(self, seeds: int, of_seeds: float, of_tasks: float) -> None:
        """Effects of seeds and of tasks, a task's own noise of 0.6, true mean 0; 1,500 draws: standard error 0.6 %."""
        rng = np.random.default_rng([seeds, int(100 * of_seeds), int(100 * of_tasks)])
        hits = 0
        for _ in range(1500):
            effects = of_seeds * rng.standard_normal((seeds, 1)) + of_tasks * rng.standard_normal((1, 50))
            found = crossed_mean(effects + 0.6 * rng.standard_normal((seeds, 50)))
            hits += (found.low or 0) <= 0 <= (found.high or 0)
        assert hits / 1500 >= 0.938

    def test_student_against_scipy(self) -> None:
        exact = pytest.importorskip("scipy.stats").t.ppf(0.975, np.arange(1, 300))
        assert [student_t95(df) for df in range(1, 300)] == pytest.approx(list(exact), abs=4e-4)

    @pytest.mark.parametrize("rows", [[], [[]], [[1.0], [1.0, 2.0]]])
    def test_refuses(self, rows: list[list[float]]) -> None:
        with pytest.raises(ValueError, match="rows of one length"):
            crossed_mean(rows)
        with pytest.raises(ValueError, match="degree of freedom"):
            student_t95(0)


class TestPermutation:
    def test_against_the_sign_test(self) -> None:
        """Equal differences: the binomial sign test in closed form."""
        assert paired_permutation([0.0] * 6, [1.0] * 6) == pytest.approx(2 / 2**6)
        # 7 of 8 in one direction: P(|X − 4| >= 3) = 2(1 + 8)/256
        assert paired_permutation([0] * 7 + [1], [1] * 7 + [0]) == pytest.approx(18 / 256)

    def test_draws_agree_with_enumeration(self) -> None:
        rng = np.random.default_rng(3)
        a, b = rng.random(14), rng.random(14) + 0.1
        exact = paired_permutation(a, b)
        # One pair that differs by next to nothing more: 15 tasks differ, so signs are drawn.
        drawn = paired_permutation([*a, 0.0], [*b, 1e-6], draws=40_000)
        assert drawn == pytest.approx(exact, abs=0.01)

    def test_size_under_the_null(self) -> None:
        rng = np.random.default_rng(4)
        p = [paired_permutation(*rng.binomial(2, 0.5, (2, 12)) / 2) for _ in range(1000)]
        assert np.mean(np.asarray(p) < 0.05) <= 0.05 + 0.014, "at most 5 % false alarms, within 2 standard errors"

    def test_nothing_differs(self) -> None:
        assert paired_permutation([1, 0, 1], [1, 0, 1]) == 1.0
        with pytest.raises(ValueError, match="equally long"):
            paired_permutation([1], [1, 0])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


class TestAverage:
    def test_symmetric_parts_add_as_squares(self) -> None:
        assert average_interval([(0.5, 0.4, 0.6), (0.7, 0.6, 0.8)]) == pytest.approx(
            (0.6, 0.6 - math.sqrt(0.02) / 2, 0.6 + math.sqrt(0.02) / 2)
        )

    def test_stays_inside(self) -> None:
        _, low, high = average_interval([(0.0, *wilson(0, 9)), (1.0, *wilson(9, 9))])
        assert 0 < low < 0.5 < high < 1


class TestBootstrap:
    def test_matches_the_normal_interval_for_many_values(self) -> None:
        x = np.random.default_rng(5).normal(10, 2, 400)
        low, high = bootstrap_mean(x, draws=4000)
        half = 1.96 * x.std() / 20
        assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.06)

    def test_covers_a_skewed_mean(self) -> None:
        """Token counts are about log-normal; the symmetric interval misses on one side, BCa leans the right way."""
        rng = np.random.default_rng(6)
        truth = math.exp(0.5**2 / 2)
        spans = [bootstrap_mean(np.exp(rng.normal(0, 0.5, 60)), draws=600) for _ in range(600)]
        assert 0.92 <= np.mean([low <= truth <= high for low, high in spans]) <= 0.98

    def test_constant_and_empty(self) -> None:
        assert bootstrap_mean([3.0, 3.0]) == (3.0, 3.0)
        with pytest.raises(ValueError, match="at least one value"):
            bootstrap_mean([])
