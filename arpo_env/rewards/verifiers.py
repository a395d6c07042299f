"""The table of verifiers by name, for families that read their verifier from a declaration.

A verifier is a function ``(answer, golds) -> Verdict``: the text inside the policy's box against all
accepted golds. Adding one is adding a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from arpo_env.errors import unknown
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.choice import choice_equal
from arpo_env.rewards.math import math_equal_any
from arpo_env.rewards.mixed import mixed_equal
from arpo_env.rewards.paper import paper_f1
from arpo_env.rewards.qa import qa_equal, qa_f1

Verifier = Callable[[str, Sequence[str]], Verdict]


def _paper(answer: str, golds: Sequence[str]) -> Verdict:
    return Verdict(min(1.0, paper_f1(answer, golds)), "the authors' word F1, for comparison only")


VERIFIERS: Mapping[str, Verifier] = {
    "math": math_equal_any,
    "qa": qa_equal,
    "qa_f1": qa_f1,
    "choice": choice_equal,
    "mixed": mixed_equal,
    "paper": _paper,
}


def get_verifier(name: str) -> Verifier:
    """The verifier called ``name``.

    Raises:
        ConfigError: there is none; the nearest names are given.
    """
    if name not in VERIFIERS:
        raise unknown("verifier", name, VERIFIERS)
    return VERIFIERS[name]
