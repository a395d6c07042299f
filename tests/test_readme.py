"""The README's first screen does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)


def test_environment_snippet_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    from arpo_env import ToolUnavailable
    from arpo_env.sandbox import make_sandbox

    try:
        make_sandbox("auto").close()
    except ToolUnavailable as error:
        pytest.skip(f"no isolation tier on this machine: {error}")
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    assert capsys.readouterr().out == "<result>\n42\n</result>\n<result>\n43\n</result>\n0.0\n"


def test_algorithm_snippet_is_a_valid_configuration() -> None:
    from arpo_algo import algorithms, options
    from arpo_algo.config import RunConfig

    values = re.search(r"options\.load\(RunConfig, (\{.*\})\)", BLOCKS[1], re.S)
    assert values is not None
    config = options.load(RunConfig, eval(values[1]))
    assert config.steps == 20
    algorithms.make(config.algorithm.name, **config.algorithm.options)
    for name in ("grpo", "dapo"):
        assert name in algorithms.list_algorithms()


def test_links_and_pictures_exist() -> None:
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", README):
        assert (root / target).exists(), target
