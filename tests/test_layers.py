"""Who may import whom: the drawing of docs/architecture.md, read out of the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Imports inside functions that point up, and why each may.
LAZY = {
    ("search", "web"),  # a corpus of HTML files is read as web pages are
    ("web", "__init__"),  # the version, for the fetcher's User-Agent
}


def modules(top: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / top).rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(what is imported, when: ``load``, ``lazy`` or ``types``) of a file."""

    def walk(node: ast.AST, when: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            inner = when
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner = "lazy"
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                inner = "types"
            elif isinstance(child, ast.Import):
                yield from ((alias.name, when) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                above = path.relative_to(ROOT).parts[: -child.level] if child.level else ()
                base = ".".join([*above, *filter(None, [child.module])])
                yield from ((f"{base}.{alias.name}", when) for alias in child.names)
            yield from walk(child, inner)

    return walk(ast.parse(path.read_text()), "load")


@pytest.mark.parametrize(
    ("top", "never"),
    [("arpo_env", ("torch", "transformers", "arpo_algo", "benchmarks")), ("arpo_algo", ("benchmarks",))],
)
def test_dependencies_point_one_way(top: str, never: tuple[str, ...]) -> None:
    assert [
        (name, what) for name, path in modules(top) for what, _ in imports(path) if what.split(".")[0] in never
    ] == []


def part(name: str) -> str:
    """The package (or module) of arpo_env that ``name`` lies in; names of the package itself are ``__init__``."""
    first = f"{name}.".split(".")[1]
    at = ROOT / "arpo_env" / (first or "__init__")
    return at.name if at.is_dir() or at.with_suffix(".py").is_file() else "__init__"


def test_packages_of_arpo_env_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    exempt = set()
    for name, path in modules("arpo_env"):
        for what, when in imports(path):
            edge = part(name), part(what)
            if not what.startswith("arpo_env") or edge[0] == edge[1] or when == "types":
                continue
            if when == "lazy" and edge in LAZY:
                exempt.add(edge)
            else:
                graph.setdefault(edge[0], set()).add(edge[1])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"packages import each other: {' <- '.join(error.args[1])}")
    assert exempt == LAZY, "an exception that nothing needs any more"
