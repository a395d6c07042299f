"""The benchmark suites: the paper's thirteen, four more, and the generated families, each under one name.

>>> from arpo_env.suites import list_suites, suite
>>> suite("GSM8K").env_id
'ARPO/GSM8K-v0'
>>> suite("Math").available() is None
True

What a suite is made of is data (``table.py``); where its rows lie is found by ``sources.py``.
"""

from __future__ import annotations

from arpo_env.errors import unknown
from arpo_env.suites.suite import METRICS, Suite
from arpo_env.suites.table import SUITES
from arpo_env.suites.training import evaluation_index, training_set

__all__ = ["METRICS", "Suite", "evaluation_index", "list_suites", "suite", "training_set"]

_BY_NAME = {one.name: one for one in SUITES}


def list_suites(*, paper: bool | None = None, domain: str | None = None) -> list[str]:
    """Names of the suites, in the paper's order; ``paper``/``domain`` select."""
    return [
        one.name for one in SUITES if (paper is None or one.paper == paper) and (domain is None or one.domain == domain)
    ]


def suite(name: str) -> Suite:
    """The suite of that name or environment id. Case and hyphens matter only where two names would meet.

    Raises:
        ConfigError: there is none; the nearest names are given.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    for one in SUITES:
        if name == one.env_id:
            return one
    folded = [full for full in _BY_NAME if full.casefold().replace("-", "") == name.casefold().replace("-", "")]
    if len(folded) == 1:
        return _BY_NAME[folded[0]]
    raise unknown("suite", name, _BY_NAME)
