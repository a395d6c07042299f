"""The control that reviewers asked for: ARPO's update, its number of forks, but at tool results drawn at random.

    sampling   N rollouts from the root, then M − N forks at results drawn uniformly from those rollouts
    update     as in :mod:`arpo_algo.algorithms.arpo`

The forks are drawn once the N rollouts have ended, so that every result is equally likely and their number is
exactly M − N wherever one result exists; a coin tossed on the way would favour early results.
"""

from __future__ import annotations

from dataclasses import dataclass

from arpo_algo.algorithms import register
from arpo_algo.algorithms.arpo import Forking
from arpo_algo.branching import BranchingRule, RandomResults


@register("arpo_random")
@dataclass(frozen=True)
class ARPORandom(Forking):
    """``k``: tokens of the probes, which are still logged so that entropies can be compared."""

    k: int = 20

    @property
    def branching(self) -> BranchingRule:
        return RandomResults(probe_tokens=self.k)
