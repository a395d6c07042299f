"""DAPO (Yu et al. 2025, arXiv 2503.14476): GRPO with four changes.

    clip-higher        clip(r, 1 − 0.2, 1 + 0.28)                                                  section 3.1
    dynamic sampling   groups whose rewards are all equal are dropped and replaced by new prompts  section 3.2
    token mean         (1/Σ|y_i|) Σ_i Σ_t, no KL                                                   section 3.3
    overlong penalty   r += 0 up to L_max − L_cache, then linear down to −1 at L_max               section 3.4, Eq. 13

|y| is the length of the whole trajectory, prompt and tool results included, because L_max is: the budget
``rollout.max_tokens``. (The paper has no tools and counts the answer.) L_cache is 1/5 of L_max as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from arpo_algo.advantages import no_signal, rewards
from arpo_algo.algorithms import register
from arpo_algo.algorithms.base import Clipped
from arpo_algo.errors import ConfigError
from arpo_algo.tree import Tree


@register("dapo")
@dataclass(frozen=True)
class DAPO(Clipped):
    """DAPO.

    Args:
        rounds: how often a step may sample anew for dropped groups (0: keep all groups). When rounds run out the
            step goes on with what it has.
        overlong: L_cache as a share of L_max; 0: no penalty.
        max_length: L_max in tokens; None: the budget the sampler noted in the tree (no penalty where it did not).
    """

    clip_high: float = 0.28
    rounds: int = 3
    overlong: float = 0.2
    max_length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 0 or not 0 <= self.overlong < 1:
            raise ConfigError(f"need rounds >= 0 and 0 <= overlong < 1, got {self.rounds} and {self.overlong}")
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError(f"max_length must be >= 1 token (or None), got {self.max_length}")

    def keep(self, tree: Tree) -> bool:
        """Dynamic sampling: a group is kept when its rewards differ, the penalty left out."""
        return not no_signal(rewards(tree))

    def scores(self, tree: Tree) -> list[float]:
        """Rewards with the soft overlong penalty."""
        values = super().scores(tree)
        longest = self.max_length or tree.meta.get("max_tokens")
        if not longest or not self.overlong:
            return values
        cache = self.overlong * longest
        over = [max(0.0, leaf.end - (longest - cache)) for leaf in tree.leaves()]
        return [r - min(1.0, o / cache) for r, o in zip(values, over, strict=True)]
