"""Configuration: strict, typed, with the nearest name; and the command line's answers to bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from arpo_algo import cli, options
from arpo_algo.algorithms import make
from arpo_algo.config import RunConfig
from arpo_algo.envs import open_env
from arpo_algo.errors import ConfigError

CONFIGS = Path(cli.__file__).parents[1] / "configs"
DEMO = CONFIGS / "demo.toml"


def test_file_and_overrides() -> None:
    values = options.override(options.read(DEMO), ["learner.lr=2e-5", "env.options.hops=[1]", "rollout.tool_lag=none"])
    config = options.load(RunConfig, values)
    assert config.learner.lr == 2e-5
    assert config.env.options["hops"] == [1]
    assert config.rollout.tool_lag is None
    assert config.algorithm.name == "arpo"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("lerner.lr=1", "did you mean 'learner'"),
        ("learner.lrr=1", "did you mean 'learner.lr'"),
        ("learner.lr=fast", "learner.lr='fast'"),
        ("learner.lr=-1", "lr must be > 0"),
        ("learner=3", "is a section"),
        ("steps=-1", "steps must be >= 0"),
        ("rollout.temperature=-1", "temperature must be > 0"),
        ("rollout.temperature=0", "teach nothing"),
        ("sft.flawed_share=1.5", r"flawed_share must lie in \[0, 1\]"),
        ("learner.mini_batch=3", "does not divide"),
        ("learner.precision=fp8", "precision"),
        ("steps", "key=value"),
        ("steps.x=1", "section"),
    ],
)
def test_bad_values_are_named(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options.load(RunConfig, options.override(options.read(DEMO), [assignment]))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not there"):
        options.read(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(ConfigError, match="not valid TOML"):
        options.read(tmp_path / "bad.toml")


def test_every_value_has_a_help_text() -> None:
    for key, _, text in options.describe(RunConfig):
        assert text, key


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--out", "{tmp}", "algorithm.name=apro"], "did you mean 'arpo'"),
        (["train", "--out", "{tmp}", "algorithm.options.M=2", "algorithm.options.N=4"], "N <= M"),
        (["train", "--out", "{tmp}", "env.id=ARPO-DeepSerch-v0"], "ARPO-DeepSerch"),
        (["train", "--out", "{tmp}", "env.options.hopps=[1]"], "did you mean 'hops'"),
        (["train", "--out", "{tmp}", "env.options.sandbox=dokcer"], "sandbox"),
        (["train", "--out", "{tmp}", "model=./not/there", "env.options.tools=['search']"], "neither a folder"),
        (["train", "--out", "{tmp}", "env.id=runs/demo/model"], "Malformed environment ID"),
        (["play", "ARPO-DeepSerch-v0"], "ARPO-DeepSerch"),
        (["view", "{tmp}/none"], "is not there"),
        (["sft", "--out", "{tmp}"], "sft.steps"),
    ],
)
def test_cli_refuses_before_any_work(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = cli.main([a.format(tmp=tmp_path / "run") for a in argv])
    assert status == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_folder_of_something_else_is_not_viewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["view", str(tmp_path)]) == 2
    assert "is no run's folder" in capsys.readouterr().err.replace("\n", " ")
    assert not list(tmp_path.iterdir())


def test_help_texts(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help"], ["train", "--help"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(argv)
        assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "KEY=VALUE" in out
    assert "cold start" in out
    assert cli.main(["config"]) == 0
    assert cli.main(["algorithms"]) == 0


@pytest.mark.parametrize("name", ["paper", "paper-deepsearch"])
def test_the_papers_settings_are_the_papers(name: str) -> None:
    """arpo-reference, part 1; and what is left to the user is asked for by name."""
    config = options.load(RunConfig, options.read(CONFIGS / f"{name}.toml"))
    algorithm = make(config.algorithm.name, **config.algorithm.options)
    rule = algorithm.branching
    assert (algorithm.M, algorithm.N, rule.k, rule.alpha, rule.beta, rule.tau, rule.Z) == (16, 8, 20, 0.5, 0.2, 0.5, 2)
    assert (rule.rule, algorithm.clip_low, algorithm.dual_clip, algorithm.kl_coef) == ("threshold", 0.2, 3.0, 0.0)
    learner, evaluation = config.learner, config.eval
    assert (learner.lr, learner.weight_decay, learner.max_grad_norm, learner.warmup_steps) == (1e-6, 0.01, 1.0, 0)
    assert (config.rollout.prompts, learner.mini_batch, config.rollout.temperature) == (128, 16, 1.0)
    assert (evaluation.temperature, evaluation.top_p, evaluation.top_k) == (0.6, 0.95, 20)
    reasoning = name == "paper"
    assert config.rollout.max_tokens == (1536 + 4096 if reasoning else 2000 + 8192)
    of_env = config.env.options
    assert (of_env["max_tool_calls"], of_env["search_k"], of_env["search_chars"]) == (3 if reasoning else 6, 10, 1000)
    with pytest.raises(ConfigError, match="needs the option path"):
        open_env(config.env.id, of_env, name="env.id")
