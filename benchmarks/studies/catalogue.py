"""The studies, as data: what the paper claims, what is trained, what is compared, and what would decide it.

An entrant is written as for ``arpo sweep`` (:func:`arpo_algo.sweep.entrant`); ``{M}``, ``{half}`` (of M), ``{k}`` …
stand for values of the configuration (:func:`benchmarks.studies.run.placeholders`). All studies of one configuration
share their runs. Sources: the ARPO paper (arXiv 2507.19849) and what its readers asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks.studies.measures import MEASURES
from benchmarks.studies.verdict import Claim

#: The smallest difference in success that would matter. The paper reports +1.8 to +4.2 over GRPO on average.
WORTH = 0.02
#: Within so much, settings count as equally good.
MARGIN = 0.05
#: Up to this ratio counts as "half": with N = M/2 a tree needs at least N/M = 0.5 of the calls of separate
#: trajectories, so that no interval could lie below a half itself.
HALF = 0.55


@dataclass(frozen=True)
class Contrast:
    """One comparison: ``arm`` against ``base`` (names of entrants) by a measure, and what is claimed of it.

    ``decisive``: it counts for the study's verdict; others are shown beside it. ``one_model``: the claim is about what
    a model does, so one seed can decide it for that model.

    Raises:
        ValueError: an unknown measure.
    """

    arm: str
    base: str
    measure: str
    claim: Claim
    decisive: bool = True
    one_model: bool = False

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"unknown measure {self.measure!r}; known: {', '.join(MEASURES)}")


@dataclass(frozen=True)
class Study:
    """``entrants``: short name -> algorithm with options; the first is the one the paper proposes.

    ``supports``, ``contradicts``: in words, what result would.

    Raises:
        ValueError: a contrast of entrants that are not there, or none that is decisive.
    """

    name: str
    question: str
    claim: str
    source: str
    entrants: Mapping[str, str]
    contrasts: tuple[Contrast, ...]
    supports: str
    contradicts: str
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "entrants", MappingProxyType(dict(self.entrants)))
        lost = {n for c in self.contrasts for n in (c.arm, c.base)} - set(self.entrants)
        if lost or not any(c.decisive for c in self.contrasts):
            raise ValueError(f"study {self.name}: unknown entrants {sorted(lost)}, or no decisive contrast")


_GAIN = Claim("above", 0.0, WORTH)
_SAME = Claim("within", MARGIN)
_HALF = Claim("below", HALF)
_FEWER = Claim("below", 1.0)
_RISES = Claim("above", 0.0)


def _same_as_default(names: Mapping[str, str]) -> tuple[Contrast, ...]:
    return tuple(Contrast(name, "default", "success", _SAME) for name in list(names)[1:])


_ALPHA_BETA_TAU = {
    "default": "arpo",
    "α=0.4 (rarely)": "arpo alpha=0.4",
    "α=0.6 (mostly)": "arpo alpha=0.6",
    "τ=0.51": "arpo tau=0.51",
    "P(fork)=P, β=0.2": "arpo rule=bernoulli",
    "P(fork)=P, β=0": "arpo rule=bernoulli beta=0.0",
    "P(fork)=P, β=2": "arpo rule=bernoulli beta=2.0",
}
_WINDOW = {"default": "arpo", "k/2": "arpo k={half_k}", "2k": "arpo k={twice_k}", "4k": "arpo k={four_k}"}

STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        Study(
            "entropy",
            "Does entropy rise right after a tool result?",
            "Models are more uncertain right after a tool result than at the start, over the first 10 to 50 tokens.",
            "introduction, figure 1 left. Readers: with statistics? Does training lower it?",
            {"ARPO": "arpo"},
            (
                Contrast("ARPO", "ARPO", "rise on start", _RISES, one_model=True),
                Contrast("ARPO", "ARPO", "rise on later", _RISES, one_model=True),
                Contrast("ARPO", "ARPO", "rise on before", _RISES, False, one_model=True),
                Contrast("ARPO", "ARPO", "trained rise on start", _RISES, False, one_model=True),
                Contrast("ARPO", "ARPO", "trained rise on later", _RISES, False, one_model=True),
                Contrast("ARPO", "ARPO", "entropy change", Claim("below"), False, one_model=True),
            ),
            "after a result entropy is above that of the start, and above that of equally many tokens further on, "
            "where no result has just come in",
            "either difference is below zero",
            "The window before the call ends in a closing tag, which is always certain, so it decides nothing.",
        ),
        Study(
            "where-to-fork",
            "Is it entropy that tells where forking pays?",
            "Forking where entropy rose beats sampling whole trajectories; so entropy must be worth more than chance.",
            "adaptive rollout; main tables. Readers: a random control at the same number of forks.",
            {"ARPO": "arpo", "random forks": "arpo_random", "inverted": "arpo_inverted", "no forks": "grpo"},
            (
                Contrast("ARPO", "random forks", "success", _GAIN),
                Contrast("ARPO", "inverted", "success", _GAIN),
                Contrast("ARPO", "no forks", "success", _GAIN),
                Contrast("ARPO", "random forks", "success by step", _GAIN, False),
                Contrast("ARPO", "no forks", "success by step", _GAIN, False),
                Contrast("ARPO", "random forks", "success by calls", _GAIN, False),
                Contrast("ARPO", "no forks", "success by calls", _GAIN, False),
                Contrast("ARPO", "random forks", "success by tokens", _GAIN, False),
                Contrast("ARPO", "no forks", "success by tokens", _GAIN, False),
                Contrast("random forks", "no forks", "success", _GAIN, False),
            ),
            "at equal trajectories ARPO ends above random forks, above forks where entropy fell, and above no forks",
            "the gain over any of the three is below two points",
            "Inverted forks only where entropy fell. Where that is rare it makes few forks and is nearly GRPO.",
        ),
        Study(
            "budget",
            "Is it the same success for half the tool calls?",
            "ARPO outperforms GRPO with only half of its tool calls.",
            "abstract, figures 1 right and 7",
            {"ARPO": "arpo", "GRPO": "grpo"},
            (
                Contrast("ARPO", "GRPO", "success", _GAIN),
                Contrast("ARPO", "GRPO", "calls a trajectory", _HALF),
                Contrast("ARPO", "GRPO", "calls to the level", _HALF),
                Contrast("ARPO", "GRPO", "calls a trajectory", _FEWER, False),
                Contrast("ARPO", "GRPO", "calls to the level", _FEWER, False),
                Contrast("ARPO", "GRPO", "success by step", _GAIN, False),
                Contrast("ARPO", "GRPO", "success by calls", _GAIN, False),
                Contrast("ARPO", "GRPO", "tokens a trajectory", _FEWER, False),
                Contrast("ARPO", "GRPO", "success by tokens", _GAIN, False),
            ),
            f"ARPO ends higher at equal trajectories, with at most half the calls (below {HALF}×), and reaches GRPO's "
            "level with half",
            f"it does not end higher, or needs more than half the calls (above {HALF}×)",
            "A forked tree needs at least N/M of the calls of separate trajectories: with N = M/2 half is the least "
            f"there can be, and no interval could lie below it. So 'half' is judged with a tolerance: below {HALF} "
            "where the minimum is 0.50.",
        ),
        Study(
            "branching-or-update",
            "Is it the branching or the update?",
            "Both parts of ARPO matter: adaptive rollout, and advantages attributed to shared and own segments.",
            "adaptive rollout, advantage attribution. Readers: each alone.",
            {
                "forks, soft": "arpo",
                "no forks": "grpo",
                "forks, hard": "arpo attribution=hard",
                "forks, once": "arpo shared_once=true",
            },
            (
                Contrast("forks, soft", "no forks", "success", _GAIN),
                Contrast("forks, hard", "forks, soft", "success", _GAIN, False),
                Contrast("forks, once", "forks, soft", "success", _GAIN, False),
                Contrast("forks, hard", "no forks", "success", _GAIN, False),
                Contrast("forks, once", "no forks", "success", _GAIN, False),
                Contrast("forks, soft", "no forks", "success by calls", _GAIN, False),
            ),
            "forks with GRPO's own update (soft) end above no forks; the other rows then say what the update adds",
            "forks with GRPO's own update gain less than two points",
            "Without forks nothing is shared, and all attributions are GRPO's: the cells 'no forks' × update are one.",
        ),
        Study(
            "alpha-beta-tau",
            "How much does it depend on α, β and τ?",
            "One setting, α=0.5, β=0.2, τ=0.5, serves all models and tasks.",
            "training settings. Readers: sensitivity.",
            _ALPHA_BETA_TAU,
            _same_as_default(_ALPHA_BETA_TAU),
            f"every other setting ends within {MARGIN:.0%} of it",
            f"some setting ends more than {MARGIN:.0%} away",
            "With the threshold rule and α=τ, β is without effect: a fork is made wherever entropy rose at all.",
        ),
        Study(
            "window-k",
            "How much does it depend on k?",
            "Entropy is high over the first 10 to 50 tokens after a result; the code takes k=20.",
            "entropy analysis; released code. Readers: sensitivity.",
            _WINDOW,
            _same_as_default(_WINDOW),
            f"every other k ends within {MARGIN:.0%} of the configuration's",
            f"some k ends more than {MARGIN:.0%} away",
        ),
        Study(
            "N-of-M",
            "How many of the M trajectories should start at the root?",
            "A balance is best: N = M/2, better than forks from one root and than no forks at all.",
            "training settings (N=8, M=16), scaling analysis. Readers: sensitivity.",
            {
                "N=M/2": "arpo N={half}",
                "N=1": "arpo N=1",
                "N=M/4": "arpo N={quarter}",
                "N=3M/4": "arpo N={three_quarters}",
                "N=M": "grpo",
            },
            (
                Contrast("N=M/2", "N=1", "success", _GAIN),
                Contrast("N=M/2", "N=M", "success", _GAIN),
                Contrast("N=M/2", "N=M/4", "success", _GAIN, False),
                Contrast("N=M/2", "N=3M/4", "success", _GAIN, False),
                Contrast("N=M/2", "N=1", "success by calls", _GAIN, False),
                Contrast("N=M/2", "N=M", "success by calls", _GAIN, False),
            ),
            "N=M/2 ends above both N=1 and N=M at equal trajectories",
            "it gains less than two points over one of them",
            "With N = M nothing can fork, and ARPO is GRPO, number for number.",
        ),
        Study(
            "soft-hard",
            "Is the soft advantage better than the hard one?",
            "Soft advantage estimation gives higher and steadier reward than hard.",
            "advantage attribution: soft against hard",
            {
                "soft": "arpo aggregation=sequence",
                "hard": "arpo aggregation=sequence attribution=hard",
                "soft, token mean": "arpo",
                "hard, token mean": "arpo attribution=hard",
            },
            (
                Contrast("soft", "hard", "success", _GAIN),
                Contrast("soft", "hard", "success by calls", _GAIN, False),
                Contrast("soft, token mean", "hard, token mean", "success", Claim("within", WORTH), False),
            ),
            "under the paper's objective (1/|y|) soft ends above hard",
            "soft gains less than two points",
            "With a token mean, one step a batch and siblings in one minibatch the two have the same gradient, so that "
            "the last row should show no difference beyond chance.",
        ),
    )
}
