"""An algorithm in one file of the user's own: trained, resumed, replayed, swept and sampled from by its place."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import VALUES, config, save_model

from arpo_algo import algorithms, options
from arpo_algo.algorithms import make
from arpo_algo.check import check_algorithm
from arpo_algo.cli import main
from arpo_algo.errors import ConfigError
from arpo_algo.runfolder import read_rows
from arpo_algo.sweep import entrant
from arpo_algo.workers.base import Job

EXAMPLE = Path(__file__).parents[2] / "examples/rare_success.py"
NAME = "./my_algorithm.py:RareSuccess"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the guide's example in it; what is imported from there is forgotten afterwards."""
    shutil.copy(EXAMPLE, tmp_path / "my_algorithm.py")
    monkeypatch.chdir(tmp_path)
    algorithms.list_algorithms()
    known, modules = dict(algorithms._REGISTRY), set(sys.modules)
    yield tmp_path
    algorithms._REGISTRY.clear()
    algorithms._REGISTRY.update(known)
    for module in set(sys.modules) - modules:
        if module.startswith(("arpo_own_", "my_algorithm")):
            del sys.modules[module]


def test_it_is_made_by_file_and_by_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_file = make(NAME, gamma=0.5)
    check_algorithm(by_file)
    assert pickle.loads(pickle.dumps(by_file)) == by_file
    assert make(f"{folder}/my_algorithm.py:RareSuccess", gamma=0.5) == by_file
    assert make("rare_success", gamma=0.5) == by_file
    monkeypatch.syspath_prepend(folder)
    assert make("my_algorithm:RareSuccess").gamma == 0.9  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"option of algorithm .* 'gama'; did you mean 'gamma'"):
        make(NAME, gama=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./other.py:X", r"other\.py is not there; a relative path counts from the working directory, "),
        ("./my_algorithm.py:RareSucces", "class in ./my_algorithm.py: 'RareSucces'; did you mean 'RareSuccess'"),
        ("./my_algorithm.py:make", "is not a dataclass; derive it from"),
        ("no_such:X", r"no module 'no_such' can be imported; .*PYTHONPATH, or name the file: path/to/no_such.py:X"),
        ("./broken.py:X", r"importing it fails with NameError: name 'oops' is not defined; mend the file"),
        (":X", r"must look like module:Class or path/to/file\.py:Class"),
        ("rare_succes", r"One of your own goes by module:Class or path/to/file\.py:Class"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_to_do(folder: Path, name: str, message: str) -> None:
    (folder / "broken.py").write_text("oops\n")
    with pytest.raises(ConfigError, match=message):
        make(name)


def test_it_is_trained_resumed_and_replayed_from_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "tiny.toml").write_text(toml({**VALUES, "model": str(save_model(folder / "model"))}))
    command = f"train --config tiny.toml algorithm.name={NAME} --out run log.replay=true keep=9".split()
    assert main([*command, "steps=1"]) == 0
    assert "\nRareSuccess has no option k: left out\n" in "\n" + capsys.readouterr().out
    assert main([*command, "steps=2", "--resume", "algorithm.options.gamma=0.8"]) == 2
    assert "gamma" in capsys.readouterr().err  # another option is another run
    assert main([*command, "steps=2", "--resume"]) == 0
    kept = json.loads((folder / "run/config.json").read_text())["config"]["algorithm"]
    assert kept == {"name": NAME, "options": {"M": 4, "N": 2}}
    rows = [row for row in read_rows(folder / "run/metrics.jsonl") if row["phase"] == "train"]
    assert [row["trajectories"] for row in rows] == [8, 8]
    assert [row["name"] for row in read_rows(folder / "run/eval.jsonl")] == ["RARESUCCESS"] * 2
    assert (folder / "run/trees/eval-after-raresuccess.jsonl.gz").is_file(), "named by its class, not by its path"
    assert main(["replay", "run", "1", "--update", "--rollout"]) == 0


def test_the_guides_snippet_trains(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (EXAMPLE.parents[1] / "docs/add-an-algorithm.md").read_text(encoding="utf-8")
    snippet = next(code for code in re.findall(r"^```python\n(.*?)^```$", guide, re.M | re.S) if ".run()" in code)
    (folder / "examples").mkdir()
    shutil.copy(EXAMPLE, folder / "examples/rare_success.py")
    tiny = {**VALUES, "model": str(save_model(folder / "model"))}  # the page's own would train SmolLM2
    load = options.load
    monkeypatch.setattr(options, "load", lambda cls, values, at="": load(cls, values if at else {**tiny, **values}, at))
    exec(compile(snippet, "add-an-algorithm.md", "exec"), {})
    rows = read_rows(folder / "runs/rare-in-python/metrics.jsonl")
    assert [row["trajectories"] for row in rows if row["phase"] == "train"] == [16, 16]


def test_it_is_swept(folder: Path) -> None:
    one = entrant(f"{NAME} gamma=0.8", config(folder))
    section = one.section
    assert one.label == "RareSuccess-gamma=0.8", "a folder's name"
    assert (section.name, section.options) == (NAME, {"M": 4, "N": 2, "gamma": 0.8})


@pytest.mark.slow
@pytest.mark.timeout(900)  # a cluster takes minutes to start where others have the cores
@pytest.mark.filterwarnings("ignore")  # Ray leaves sockets and files to the end of the process
def test_it_is_known_to_ray_actors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'arpo[ray]')")
    from arpo_algo.workers.ray import RayRollouts

    model = save_model(folder / "model")
    for name, value in {"RAY_memory_monitor_refresh_ms": "0", "RAY_AUTH_MODE": "disabled"}.items():
        monkeypatch.setenv(name, value)  # as in tests/trainer/test_ray.py
    paths = os.pathsep.join(str(Path(__file__).parents[1] / name) for name in ("trainer", "algo"))
    given = {"env.id": "tiny_run:TinyRun-v0", "rollout.actors": 1}
    own = dataclasses.replace(config(model, **given), algorithm=entrant(NAME, config(model)).section)
    ray.init(
        num_cpus=1, log_to_driver=False, include_dashboard=False, configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    try:
        rollouts = RayRollouts(own, str(model))
        (tree,) = rollouts.sample(Job(("toy/train/0/0",), (0, 1, 0)))
        rollouts.close()
    finally:
        ray.shutdown()
    assert len(tree.leaves()) + len(tree.void_leaves()) == 4


def toml(values: dict[str, object]) -> str:
    """Nested values as inline TOML (JSON's scalars and lists are TOML's)."""

    def inline(value: object) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k} = {inline(v)}" for k, v in value.items()) + "}"
        return json.dumps(value)

    return "".join(f"{k} = {inline(v)}\n" for k, v in values.items())
