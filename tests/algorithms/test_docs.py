"""The table of algorithms cannot go stale, and the example in the guide works as printed."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from forest import fork

from arpo_algo.algorithms import list_algorithms, make
from arpo_algo.check import check_algorithm

ROOT = Path(__file__).parents[2]
OURS = [n for n in list_algorithms() if type(make(n)).__module__.startswith("arpo_algo.")]


def rows() -> dict[str, list[str]]:
    lines = (ROOT / "docs/algorithms.md").read_text(encoding="utf-8").splitlines()
    table = [[c.strip() for c in line.strip("| ").split(" | ")] for line in lines if line.startswith("| `")]
    return {cells[0].strip("`"): cells for cells in table if len(cells) == 8}


def test_table_and_registry_name_the_same_algorithms() -> None:
    assert sorted(rows()) == sorted(OURS)


@pytest.mark.parametrize("name", OURS)
def test_table_states_the_defaults(name: str) -> None:
    algorithm = make(name)
    _, branching, _, ratio, clip, aggregation, sizes, source = rows()[name]
    assert branching.split(":")[0].split(";")[0].split()[0] == type(algorithm.branching).__name__
    assert aggregation == algorithm.aggregation
    assert sizes == f"{algorithm.M} (N {algorithm.N})"
    if hasattr(algorithm, "clip_low"):
        assert clip.startswith(f"{algorithm.clip_low:.10g} / {algorithm.clip_high:.10g}")
        dual = getattr(algorithm, "dual_clip", None)
        assert ("dual" in clip) == (dual is not None)
        assert dual is None or clip.endswith(f"dual {dual}")
    else:
        assert str(algorithm.ratio_max) in clip
    assert ratio.startswith("sequence" if name == "gspo" else "token")
    module = inspect.getmodule(type(algorithm))
    assert module is not None
    for paper in re.findall(r"\d{4}\.\d{5}", source):
        assert paper in (module.__doc__ or ""), "the file names the same source"
    assert len(inspect.getsource(module).splitlines()) < 100, "formula and code on one screen"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rare_success", ROOT / "examples/rare_success.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rare_success"] = module  # pickling looks the class up by its module's name
    spec.loader.exec_module(module)
    return module


def test_the_guides_check_runs_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    from arpo_algo import algorithms

    guide = (ROOT / "docs/add-an-algorithm.md").read_text(encoding="utf-8")
    snippet = next(code for code in re.findall(r"^```python\n(.*?)^```$", guide, re.M | re.S) if "\ncheck_algo" in code)
    monkeypatch.chdir(ROOT)
    before, modules = dict(algorithms._REGISTRY), set(sys.modules)
    try:
        exec(compile(snippet, "add-an-algorithm.md", "exec"), {})
    finally:
        algorithms._REGISTRY.clear()
        algorithms._REGISTRY.update(before)
        for module in set(sys.modules) - modules:
            if module.startswith("arpo_own_"):
                del sys.modules[module]


def test_the_guides_example_keeps_the_contract_and_does_what_it_says() -> None:
    from arpo_algo import algorithms

    before = dict(algorithms._REGISTRY)
    try:
        module = example()
        algorithm = make("rare_success", gamma=0.5)
        check_algorithm(algorithm)
        (a,) = algorithm.advantages([fork()])  # rewards 0, 1, 2: mean 1, min 0
        assert a == pytest.approx({(2, 2): -1, (4, 1): 0, (4, 4): 0, (5, 1): 0.5, (5, 5): 1}, abs=1e-5)
        assert len(inspect.getsource(module).splitlines()) < 75
    finally:
        algorithms._REGISTRY.clear()
        algorithms._REGISTRY.update(before)
