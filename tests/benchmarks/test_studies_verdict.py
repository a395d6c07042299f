"""From results to words: on made-up results whose answer is known, and by law."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_algo.stats import crossed_mean
from benchmarks.studies.catalogue import STUDIES
from benchmarks.studies.verdict import Claim, Estimate, Judgement, estimate, judge, overall

TASKS = [f"t/{i}" for i in range(100)]


def results(gain: float, *, seeds: int = 5, noise: float = 0.3, seed_noise: float = 0.0, key: int = 0) -> Estimate:
    """Differences of 100 tasks under ``seeds`` seeds around a true gain."""
    rng = np.random.default_rng(key)
    by_seed = {}
    for seed in range(seeds):
        shift = gain + seed_noise * rng.standard_normal()
        by_seed[seed] = {t: float(np.clip(shift + noise * rng.standard_normal(), -1, 1)) for t in TASKS}
    found = estimate(by_seed, bounded=True)
    assert found is not None
    return found


def plain(low: float, high: float, *, seeds: int = 3, **more: bool) -> Estimate:
    """An estimate with this interval, and seeds that spread accordingly."""
    middle = (low + high) / 2
    spread = (high - low) / 2
    crossed = crossed_mean([[middle + spread * x] for x in np.linspace(-1, 1, seeds)])
    return Estimate(crossed, low, high, None, None, 1, **more)


GAIN = Claim("above", 0.0, 0.02)


def test_a_clear_gain_supports_and_a_clear_loss_contradicts() -> None:
    assert judge(GAIN, results(0.2)).word == "supports"
    assert judge(GAIN, results(-0.2)).word == "contradicts"


def test_a_wide_interval_cannot_tell_and_says_how_many_seeds_would() -> None:
    found = results(0.05, seeds=3, seed_noise=0.08, key=1)
    said = judge(GAIN, found)
    assert said.word == "cannot tell"
    assert said.seeds_needed is not None
    assert said.seeds_needed > 3
    assert f"about {said.seeds_needed} seeds" in said.reason
    half = found.crossed.half_width(said.seeds_needed)
    assert half is not None
    assert half <= max(abs(found.mean), 0.02)


@pytest.mark.parametrize("claim", [GAIN, Claim("above"), Claim("below", 0.01, 0.02), Claim("within", 0.05)])
@pytest.mark.parametrize("mean", [-0.0583, -0.035, -0.0083, 0.004, 0.0123, 0.017, 0.031, 0.07])
def test_so_many_seeds_would_decide_and_one_less_would_not(claim: Claim, mean: float) -> None:
    """If the mean and the spreads stayed: the interval of that many seeds is judged, and that of one less."""
    now = crossed_mean([[mean - 0.05], [mean], [mean + 0.05]])
    assert now.low is not None
    assert now.high is not None
    said = judge(claim, Estimate(now, now.low, now.high, None, None, 1))
    assert said.word == "cannot tell"
    assert said.seeds_needed is not None

    def later(seeds: int) -> str:
        half = now.half_width(seeds)
        assert half is not None
        return judge(claim, Estimate(now, mean - half, mean + half, None, None, 1)).word

    assert later(said.seeds_needed) != "cannot tell"
    assert said.seeds_needed == 4 or later(said.seeds_needed - 1) == "cannot tell"


def test_where_the_level_was_not_reached_seeds_can_only_contradict() -> None:
    """Of 0.6 (0.4 to 0.9), "at least". Against 0.7 more seeds could only make sure of a small ratio, which it is not.

    By hand: t·0.16/√n is 0.0852 for 16 seeds, and log(0.6/0.55) is 0.0870; 0.148 for 7, and log(0.7/0.6) is 0.154.
    """
    middle = [[math.log(0.6) + d] for d in (-0.16, 0.0, 0.16)]
    found = crossed_mean(middle)
    assert found.low is not None
    assert found.high is not None
    never = Estimate(found, found.low, found.high, None, None, 1, ratio=True, at_least=True)
    assert judge(Claim("below", 0.55), never).seeds_needed == 16
    # Below the bound by its mean, and not by its interval.
    said = judge(Claim("below", 0.7), never)
    assert (said.word, said.seeds_needed) == ("cannot tell", None)
    assert "never reached" in said.reason
    assert judge(Claim("below", 0.7), dataclasses.replace(never, at_least=False)).seeds_needed == 7


def test_a_sure_nothing_contradicts_a_gain_worth_having() -> None:
    for span in ((-0.015, 0.018), (0.001, 0.01)):
        said = judge(GAIN, plain(*span))
        assert said.word == "contradicts"
        assert "matter" in said.reason
    assert judge(Claim("above"), plain(-0.015, 0.018)).word == "cannot tell"
    assert judge(Claim("above"), plain(0.001, 0.01)).word == "supports"


def test_one_seed_never_decides_between_algorithms() -> None:
    """However clear these two models differ: another seed may have turned out the other way."""
    found = estimate({0: dict.fromkeys(TASKS, 1.0)}, bounded=True)
    said = judge(GAIN, found)
    assert (said.word, said.seeds_needed) == ("cannot tell", 2)
    assert found is not None
    assert found.runs_low is not None  # what is known of the two models is still shown
    assert found.runs_low > 0.9


def test_one_seed_decides_what_is_claimed_of_a_model() -> None:
    rising = {0: {t: 0.1 + 0.01 * (i % 5) for i, t in enumerate(TASKS)}}
    assert judge(Claim("above"), estimate(rising, one_model=True)).word == "supports"
    mixed = {0: {t: (-1.0) ** i for i, t in enumerate(TASKS)}}
    said = judge(Claim("above"), estimate(mixed, one_model=True))
    assert (said.word, said.seeds_needed) == ("cannot tell", None)
    assert "more tasks" in said.reason


def test_a_spread_of_seeds_is_not_hidden_by_many_tasks() -> None:
    """Two seeds that disagree: over tasks the mean is sure, over seeds it is not."""
    found = estimate({0: dict.fromkeys(TASKS, 0.5), 1: dict.fromkeys(TASKS, 0.1)}, bounded=True)
    assert found is not None
    assert found.runs_low is not None
    assert found.runs_low > 0.2
    assert judge(GAIN, found).word == "cannot tell"


def test_seeds_that_agree_exactly_are_no_certainty() -> None:
    found = estimate({s: dict.fromkeys(TASKS[:10], 0.0) for s in range(3)}, bounded=True)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < -0.05 < 0.05 < found.high
    assert judge(GAIN, found).word == "cannot tell"


def test_only_tasks_that_all_seeds_have_are_counted() -> None:
    found = estimate({0: {"a": 0.1, "b": 0.2}, 1: {"b": 0.4, "c": 9.0}})
    assert found is not None
    assert (found.tasks, found.mean) == (1, pytest.approx(0.3))
    assert estimate({0: {"a": 1.0}, 1: {"b": 1.0}}) is None
    assert estimate({}) is None
    assert judge(GAIN, None) == Judgement("cannot tell", "no runs to compare")


def test_ratios_are_judged_in_their_unit() -> None:
    third = plain(math.log(0.3), math.log(0.4), ratio=True)
    most = plain(math.log(0.6), math.log(0.8), ratio=True)
    assert judge(Claim("below", 0.5), third).word == "supports"
    assert judge(Claim("below", 0.5), most).word == "contradicts"
    assert judge(Claim("below", 1.0), most).word == "supports"


def test_a_level_that_was_not_reached_supports_no_small_ratio() -> None:
    third = plain(math.log(0.3), math.log(0.4), ratio=True, at_least=True)
    assert judge(Claim("below", 0.5), third).word == "cannot tell"
    most = plain(math.log(0.6), math.log(0.8), ratio=True, at_least=True)
    assert judge(Claim("below", 0.5), most).word == "contradicts"


def test_within_a_margin() -> None:
    same = Claim("within", 0.05)
    assert judge(same, plain(-0.03, 0.04)).word == "supports"
    assert judge(same, plain(0.06, 0.2)).word == judge(same, plain(-0.2, -0.06)).word == "contradicts"
    assert judge(same, plain(-0.03, 0.2)).word == judge(same, plain(0.04, 0.06)).word == "cannot tell"


def test_few_tasks_cannot_be_made_up_for_by_seeds() -> None:
    """All seeds agree that one task of two gains and the other loses."""
    found = estimate({s: {"a": 0.5 + s / 1000, "b": -0.4 - s / 1000} for s in range(4)}, bounded=True)
    said = judge(GAIN, found)
    assert (said.word, said.seeds_needed) == ("cannot tell", None)


def test_overall() -> None:
    yes, no, open_ = (Judgement(w, "") for w in ("supports", "contradicts", "cannot tell"))  # type: ignore[arg-type]
    assert overall([yes, yes]) == "supports"
    assert overall([yes, open_]) == "cannot tell"
    assert overall([yes, open_, no]) == "contradicts"
    with pytest.raises(ValueError, match="decisive"):
        overall([])


ends = st.tuples(st.floats(-1, 1), st.floats(0.001, 1)).map(lambda p: (p[0], p[0] + p[1]))
RANK = {"contradicts": 0, "cannot tell": 1, "supports": 2}


class TestLaws:
    @given(ends, st.floats(-0.5, 0.5), st.floats(0, 0.2))
    def test_below_is_above_in_a_mirror(self, span: tuple[float, float], bound: float, worth: float) -> None:
        here = judge(Claim("above", bound, worth), plain(*span)).word
        assert here == judge(Claim("below", -bound, worth), plain(-span[1], -span[0])).word

    @given(ends, st.floats(0, 1), st.floats(0, 0.2))
    def test_more_is_never_worse_for_above(self, span: tuple[float, float], by: float, worth: float) -> None:
        claim = Claim("above", 0.0, worth)
        lower, higher = judge(claim, plain(*span)).word, judge(claim, plain(span[0] + by, span[1] + by)).word
        assert RANK[higher] >= RANK[lower]

    @given(
        ends, st.floats(0, 1), st.sampled_from([GAIN, Claim("above"), Claim("within", 0.3), Claim("below", 0.1, 0.05)])
    )
    def test_a_wider_interval_decides_nothing_new(self, span: tuple[float, float], by: float, claim: Claim) -> None:
        narrow, wide = judge(claim, plain(*span)).word, judge(claim, plain(span[0] - by, span[1] + by)).word
        assert wide in (narrow, "cannot tell")

    @given(ends, st.integers(2, 8))
    def test_seeds_needed_are_more_than_there_are(self, span: tuple[float, float], seeds: int) -> None:
        said = judge(GAIN, plain(*span, seeds=seeds))
        if said.seeds_needed is not None:
            assert said.word == "cannot tell"
            assert said.seeds_needed > seeds

    def test_no_effect_is_rarely_called_one(self) -> None:
        """Nothing differs but by chance, of seeds and of tasks: at most 5 % of studies may support a gain."""
        words = [judge(GAIN, results(0.0, seeds=3, seed_noise=0.05, key=k)).word for k in range(300)]
        assert words.count("supports") <= 0.05 * 300


@pytest.mark.parametrize("study", STUDIES.values(), ids=str)
def test_the_catalogue_says_what_would_decide(study) -> None:  # type: ignore[no-untyped-def]
    assert study.claim
    assert study.source
    assert study.supports != study.contradicts
    assert all(len(name) <= 17 for name in study.entrants), "names fit the charts"
    assert all(c.measure not in ("success",) or c.claim.kind == "within" or c.claim.worth for c in study.contrasts)


@pytest.mark.parametrize("values", [("within", 0.0), ("above", 0.0, -1.0)])
def test_claims_refuse(values: tuple) -> None:
    with pytest.raises(ValueError, match="worth >= 0"):
        Claim(*values)
