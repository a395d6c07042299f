"""SIGKILL at any moment, then resume: the weights of a run that was never killed, bit for bit.

The moments are drawn over every function call of a run: cold start, rollouts, update, half-written checkpoints,
evaluations, and what happens between them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import EVERYTHING, Children, differences, outcome

VARIANTS: dict[str, dict[str, Any]] = {
    "everything": EVERYTHING,
    "overlap": {"rollout.overlap": "one-step", "steps": 4},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, children: Children) -> Any:
    """variant -> (calls that its run makes, what it came to); made when first asked for."""
    known: dict[str, tuple[int, dict[str, Any]]] = {}

    def get(variant: str) -> tuple[int, dict[str, Any]]:
        if variant not in known:
            out = tmp_path_factory.mktemp("undisturbed") / variant
            calls = children.run(out, tiny_model, VARIANTS[variant])
            assert calls is not None
            known[variant] = calls, outcome(out)
        return known[variant]

    return get


def killed_and_resumed(out: Path, model: Path, children: Children, variant: str, moments: list[int]) -> dict[str, Any]:
    """Kill the run at each moment in turn (counted anew after each resume), then let it finish."""
    for moment in moments:
        if children.run(out, model, VARIANTS[variant], kill_at=moment) is not None:
            break  # what was left to do took fewer calls than that
    else:
        assert children.run(out, model, VARIANTS[variant]) is not None
    return outcome(out)


@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
def test_killed_once(undisturbed: Any, tiny_model: Path, children: Children, tmp_path: Path, share: float) -> None:
    calls, expected = undisturbed("everything")
    found = killed_and_resumed(tmp_path / "run", tiny_model, children, "everything", [int(share * calls)])
    assert not differences(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_random_moments(
    undisturbed: Any, tiny_model: Path, children: Children, tmp_path: Path, seed: int
) -> None:
    """One to three kills of one run; every other run samples one step ahead."""
    variant = list(VARIANTS)[seed % 2]
    calls, expected = undisturbed(variant)
    rng = np.random.default_rng(seed)
    moments = [int(m) for m in rng.integers(1, calls, size=1 + seed % 3)]
    found = killed_and_resumed(tmp_path / "run", tiny_model, children, variant, moments)
    assert not differences(found, expected)
