"""Nothing here needs a language model: the table of examples/tabular_agent.py learns, a random agent does not."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples/tabular_agent.py"))


@pytest.mark.parametrize("seed", range(3))
def test_a_table_learns_to_look_up_and_a_random_agent_does_not(seed: int) -> None:
    learned = EXAMPLE["train"](seed)
    assert np.mean(learned[-200:]) > np.mean(learned[:200]) + 0.2
    assert np.mean(EXAMPLE["train"](seed, episodes=400, epsilon=1.0)) < 0.1
