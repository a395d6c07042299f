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


# ------------------------------------------------------------------ two processes of one run

PAIR: dict[str, Any] = {"steps": 3, "sft.steps": 1, "eval.every": 2, "algorithm.options.kl_coef": 0.05}
#: Which of the two dies (both: the second as soon as the first is dead), and when, as a share of its run.
DEATHS = {"first": (0, 0.3, False), "second": (1, 0.6, False), "both": (0, 0.75, True), "second, late": (1, 0.9, True)}


@pytest.fixture(scope="module")
def undisturbed_pair(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, children: Children
) -> tuple[list[int], dict[str, Any]]:
    """The calls that each of the two makes, and what their run came to."""
    out = tmp_path_factory.mktemp("pair") / "run"
    endings = children.pair(out, tiny_model, PAIR)
    assert [e.said for e in endings] == ["", ""]
    return [e.calls or 0 for e in endings], outcome(out)


@pytest.mark.slow
@pytest.mark.parametrize("death", DEATHS)
def test_one_of_two_processes_killed(
    undisturbed_pair: tuple[list[int], dict[str, Any]], tiny_model: Path, children: Children, tmp_path: Path, death: str
) -> None:
    """The other ends by itself and says why; both started again give the bits of the undisturbed two."""
    calls, expected = undisturbed_pair
    victim, share, both = DEATHS[death]
    moment = int(share * calls[victim])
    kill_at = (moment, None) if victim == 0 else (None, moment)
    endings = children.pair(tmp_path / "run", tiny_model, PAIR, kill_at, both=both)
    assert endings[victim].calls is None
    if not both:
        assert "another process of this run has died" in endings[1 - victim].said
        assert "--resume" in endings[1 - victim].said
    assert [e.said for e in children.pair(tmp_path / "run", tiny_model, PAIR)] == ["", ""]
    assert not differences(outcome(tmp_path / "run"), expected)
