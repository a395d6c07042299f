"""``KEY=VALUE`` anywhere, and whose options an algorithm on the command line keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from arpo_algo.cli import main, parser
from arpo_algo.cli._runs import load_config
from arpo_algo.errors import ConfigError

DEMO = str(Path(__file__).parents[2] / "arpo_algo/configs/demo.toml")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("train env.id=X --out r1 steps=1", {"out": Path("r1"), "overrides": ["env.id=X", "steps=1"]}),
        ("train a=1 --resume b=2 --config c.toml a=3", {"resume": True, "overrides": ["a=1", "b=2", "a=3"]}),
        ("train --out a=b c=d", {"out": Path("a=b"), "overrides": ["c=d"]}),
        ("train --ou a=b c=d", {"out": Path("a=b"), "overrides": ["c=d"]}),
        ("train --out=a=b c=d", {"out": Path("a=b"), "overrides": ["c=d"]}),
        ("sweep a=1 --algorithm arpo b=2 --seeds 0 1 c=3", {"seeds": [0, 1], "overrides": ["a=1", "b=2", "c=3"]}),
        ("play hops=[1] --seed 3 x=1", {"env": "ARPO-DeepSearch-v0", "seed": 3, "options": ["hops=[1]", "x=1"]}),
        ("play ARPO-Math-v0 level=1 --expert x=1", {"env": "ARPO-Math-v0", "options": ["level=1", "x=1"]}),
        ("corpus build pages --out o --field text=body --field id=#", {"field": ["text=body", "id=#"]}),
    ],
)
def test_assignments_may_stand_anywhere(line: str, found: dict[str, Any]) -> None:
    args = vars(parser().parse_args(line.split()))
    assert {k: args[k] for k in found} == found


def test_quoted_options_of_an_entrant_stay_its_own() -> None:
    args = parser().parse_args(["sweep", "--algorithm", "arpo attribution=hard", "--seeds", "0", "steps=3"])
    assert (args.algorithm, args.overrides) == (["arpo attribution=hard"], ["steps=3"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train a=1 --wrong=3", "unrecognized arguments: --wrong=3"),
        ("sweep --algorithm arpo --seeds 0 x", "invalid int value: 'x'"),
    ],
)
def test_what_is_no_assignment_stays_an_error(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(line.split())
    assert message in capsys.readouterr().err
    assert main(["train", "a=1", "--resume", "wrong"]) == 2
    assert "override 'wrong' must look like key=value" in capsys.readouterr().err


def load(*words: str, base: str = DEMO) -> Any:
    return load_config(parser().parse_args(["train", *words]), base=Path(base)).algorithm


def test_another_algorithm_leaves_out_what_it_lacks_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    made = load("algorithm.name=grpo")
    assert (made.name, made.options) == ("grpo", {"M": 8})
    assert capsys.readouterr().out == "grpo has no option N, k: left out\n"
    assert load("algorithm.name=aepo").options == {"M": 8, "k": 10}
    capsys.readouterr()
    # Nothing to say where nothing is lost.
    assert load("algorithm.options.M=16").options == {"M": 16, "N": 4, "k": 10}
    assert load("algorithm.name=grpo", "algorithm.options={M=4}").options == {"M": 4}
    assert not capsys.readouterr().out


def test_options_given_with_the_name_are_never_left_out() -> None:
    assert load("algorithm.name=grpo", "algorithm.options.N=4").options == {"M": 8, "N": 4}  # refused by make
    with pytest.raises(ConfigError, match="did you mean 'grpo'"):
        load("algorithm.name=grop")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["algorithm.name=3"], "algorithm.name=3: .*expected str"),
        (["algorithm=grpo"], "algorithm is a section; write algorithm.NAME=VALUE"),
        (["algorithm.name=grpo", "algorithm.options=4"], "algorithm.options=4: "),
    ],
)
def test_values_of_the_wrong_kind_are_refused_as_ever(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(*words)
