"""Every ``arpo`` command that README and docs show can be parsed, and its configuration read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arpo_algo import algorithms, options
from arpo_algo.cli import parser
from arpo_algo.cli._runs import load_config
from arpo_algo.config import RunConfig
from arpo_algo.resume import FREE_ON_RESUME

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGURED = ("train", "sft", "eval", "demo", "sweep")


def commands(page: Path) -> list[tuple[int, list[str]]]:
    """(line, words after ``arpo``) of each command in the page's fences and in its prose."""
    text = page.read_text(encoding="utf-8")
    found: list[tuple[int, list[str]]] = []
    known: dict[str, str] = {}
    for fence in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if fence[1] in ("", "sh", "console"):
            found += statements(fence[2], text.count("\n", 0, fence.start()) + 2, known)
    for inline in re.finditer(r"`(arpo [^`]+)`", text):
        # A name alone (`arpo train`) is talk; what has values is a command. `arpo attribution=hard` is an entrant.
        if re.search(r"[=/]", inline[1]) and "{" not in inline[1] and "=" not in inline[1].split()[1]:
            found.append((text.count("\n", 0, inline.start()) + 1, shlex.split(inline[1])))
    return [(line, words[words.index("arpo") + 1 :]) for line, words in found if "arpo" in words[:3]]


def statements(block: str, first: int, known: dict[str, str]) -> Iterator[tuple[int, list[str]]]:
    """Shell statements, with the variables that the page has set (``known``) filled in."""
    waiting, at = "", first
    for number, line in enumerate(block.splitlines(), first):
        at = at if waiting else number
        waiting += line.removeprefix("$ ")
        if waiting.endswith("\\"):
            waiting = waiting[:-1]
            continue
        try:
            words = shlex.split(fill(waiting, known), comments=True)
        except ValueError:  # a quotation that goes on (or a drawing)
            waiting += "\n"
            continue
        if len(words) == 1 and re.match(r"[A-Z]+=", words[0]):
            name, _, value = words[0].partition("=")
            known[name] = " ".join(f"'{word}'" for word in value.split())
        yield at, words
        waiting = ""


def fill(statement: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        statement = statement.replace(f"${name}", value)
    return statement


def all_commands() -> list[Any]:
    found = []
    for page in PAGES:
        for line, words in commands(page):
            found.append(pytest.param([word for word in words if word != "…"], id=f"{page.name}:{line}"))
    return found


COMMANDS = all_commands()


def configuration(words: list[str]) -> RunConfig:
    args = parser().parse_args(words)
    base = ROOT / "arpo_algo/configs/demo.toml" if words[0] == "demo" else None
    if args.config is not None:
        args.config = ROOT / args.config if (ROOT / args.config).exists() else None
    return load_config(args, base=base)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_documented_command_can_be_run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    algorithms.list_algorithms()  # loads them
    before = dict(algorithms._REGISTRY)
    try:
        if words[0] in CONFIGURED:
            made = configuration(words)
            algorithms.make(made.algorithm.name, **made.algorithm.options)
        else:
            parser().parse_args(words)
    finally:
        algorithms._REGISTRY.clear()
        algorithms._REGISTRY.update(before)


def test_there_are_commands_to_test() -> None:
    assert len(COMMANDS) > 25
    assert {case.values[0][0] for case in COMMANDS} > {"train", "sweep", "sft", "replay", "view", "demo"}  # type: ignore[index]


def test_the_readmes_shell_command_is_its_python_snippet() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    values = re.search(r"options\.load\(RunConfig, (\{.*?\n\})\)", text, re.S)
    assert values is not None
    command = next(words for _, words in commands(PAGES[0]) if words[0] == "train" and "runs/shell" in words)
    assert configuration(command) == options.load(RunConfig, eval(values[1]))
    assert 'Path("runs/mine")' in text, "another folder than the shell's"


def test_the_readmes_other_algorithms_are_as_it_says() -> None:
    said = re.search(r"# or (\{.*?\}), \"dapo\"", PAGES[0].read_text(encoding="utf-8"))
    assert said is not None
    section = eval(said[1])
    algorithms.make(section["name"], **section.get("options", {}))


def test_what_may_change_on_resume_is_listed() -> None:
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    listed = re.search(r"What may differ on resume: (.*?)\. Anything else", text, re.S)
    assert listed is not None
    assert tuple(re.findall(r"`([\w.]+)`", listed[1])) == FREE_ON_RESUME


def test_a_replay_finds_what_the_page_tells_to_keep() -> None:
    """The page's four commands work one after the other."""
    words = next(words for _, words in commands(ROOT / "docs/training.md") if words[0] == "train")
    made = configuration(words)
    assert (made.log.replay, made.save_every) == (True, 1)
    assert made.keep >= made.steps


def test_the_demos_last_checkpoint_is_the_one_that_is_scored() -> None:
    named = re.search(r"runs/demo/checkpoints/step-(\d+)/", (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8"))
    assert named is not None
    assert int(named[1]) == options.load(RunConfig, options.read(ROOT / "arpo_algo/configs/demo.toml")).steps


def test_the_encyclopaedia_has_as_many_relations_as_is_said() -> None:
    from arpo_env.tasks.deepsearch.schema import RELATIONS

    for page, pattern in (("demo.md", r"has (\d+) relations"), ("deepsearch.md", r"have (\d+) functional relations")):
        said = re.search(pattern, (ROOT / "docs" / page).read_text(encoding="utf-8"))
        assert said is not None
        assert int(said[1]) == len(RELATIONS)
