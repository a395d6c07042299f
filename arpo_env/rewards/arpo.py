"""The reward of the ARPO paper (arXiv 2507.19849, section 3.3), as a pure function on plain data.

    R = -1             the format is bad
    R =  0             the format is good and the answer wrong
    R =  Acc + 0.1     right, and both search and python were used well
    R =  Acc           right otherwise

Two points where the released code differs from the paper, and what is done here: it paid the bonus for any
word F1 above 0 and for calls that had failed. Here the bonus falls due only when the answer is *right*
(accuracy 1) and each of the bonus tools had at least one call that worked and gave something (output, a hit):
``<python>pass</python>`` earns nothing. An accuracy strictly between 0
and 1 (a partial score such as F1) is paid as it is, without bonus.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from arpo_env.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ArpoReward:
    """Named terms whose sum is the reward of one episode.

    Args:
        both_tools_bonus: paid when the answer is right and every tool of ``bonus_tools`` worked at least once.
        bad_format: the whole reward of an episode whose format is bad.
        bonus_tools: tags of the tools that have to be used together. Empty: never a bonus.

    Raises:
        ConfigError: a term that is not a finite number, or tools that are not a tuple.
    """

    both_tools_bonus: float = 0.1
    bad_format: float = -1.0
    bonus_tools: tuple[str, ...] = ("search", "python")

    def __post_init__(self) -> None:
        for name in ("both_tools_bonus", "bad_format"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise ConfigError(f"{name} must be a finite number, got {value!r}")
        if not isinstance(self.bonus_tools, tuple):
            raise ConfigError(f"bonus_tools must be a tuple of tool names, got {self.bonus_tools!r}")

    def __call__(self, accuracy: float, format_ok: bool, tools_ok: Mapping[str, int]) -> dict[str, float]:
        """The terms ``format``, ``accuracy`` and ``tool_bonus``; their sum is the reward.

        Args:
            accuracy: the verifier's score in [0, 1]; 1 means right.
            format_ok: whether every turn kept the tag protocol.
            tools_ok: tool name -> calls that *worked and gave something* (no failed call, none without output or hits).

        Raises:
            ConfigError: accuracy outside [0, 1], or NaN.
        """
        if not 0.0 <= accuracy <= 1.0:
            raise ConfigError(f"accuracy must lie in [0, 1], got {accuracy!r}")
        if not format_ok:
            return {"format": self.bad_format, "accuracy": 0.0, "tool_bonus": 0.0}
        used_well = bool(self.bonus_tools) and all(tools_ok.get(name, 0) > 0 for name in self.bonus_tools)
        bonus = self.both_tools_bonus if accuracy == 1.0 and used_well else 0.0
        return {"format": 0.0, "accuracy": float(accuracy), "tool_bonus": bonus}
