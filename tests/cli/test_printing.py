"""What is printed is what was meant: nobody's text is taken for markup, nothing is cut, and no torch is needed."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from arpo_algo import options
from arpo_algo.cli import config as config_command
from arpo_algo.cli import main, validate
from arpo_algo.config import RunConfig
from arpo_algo.errors import ConfigError
from arpo_algo.play import play

KEYS = [key for key, _, _ in options.describe(RunConfig)]


def test_an_error_keeps_its_brackets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(args: object) -> int:
        raise ConfigError("needs more: pip install 'arpo[web]' [/bold]")

    monkeypatch.setattr(validate, "run", fails)
    assert main(["validate"]) == 2
    assert capsys.readouterr().err == "arpo validate: needs more: pip install 'arpo[web]' [/bold]\n"


def test_config_is_whole_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == KEYS
    assert "arpo[ray]" in next(row[2] for row in rows if row[0] == "rollout.actors")


def test_config_is_whole_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(config_command, "console", Console(file=out, force_terminal=True, width=80, color_system=None))
    assert main(["config"]) == 0
    text = out.getvalue()
    assert [key for key in KEYS if key not in text] == []
    assert "arpo[ray]" in text
    assert {len(line) for line in text.splitlines()} == {80}
    meanings = " ".join(line.split("│")[3].strip() for line in text.splitlines() if line.startswith("│"))
    assert "cpu, cuda, cuda:1 …; auto: a GPU when there is one" in meanings


def test_an_answer_that_is_code_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "How?", "answer": "counts[c] = x[/]"}\n')
    out = io.StringIO()
    console = Console(file=out, width=400)
    typed = iter(["<think>t</think><answer>no</answer>", ""])
    monkeypatch.setattr(console, "input", lambda _: next(typed))
    chosen = [f"path={tmp_path / 'q.jsonl'}", "name=mine", "tools=[]"]
    assert play(console, "ARPO-Dataset-v0", 0, [*chosen, "split=test"], model=None, expert=False) == 0
    assert "the answer was 'counts[c] = x[/]'" in out.getvalue()


LIGHT = """
import sys
for name in "torch transformers safetensors gguf rich tensorboard accelerate pydantic jinja2".split():
    sys.modules[name] = None
from arpo_algo.cli import main
sys.exit(main(sys.argv[1:]))
"""


def light(*words: str) -> subprocess.CompletedProcess[str]:
    """A command where the extra ``train`` is not installed."""
    return subprocess.run([sys.executable, "-c", LIGHT, *words], capture_output=True, text=True, timeout=100)


def test_commands_for_environments_work_without_torch_and_rich(tmp_path: Path) -> None:
    built = light("corpus", "build", "world", "--pages", "100", "--out", str(tmp_path / "w[x]"))
    assert (built.returncode, built.stderr) == (0, "")
    assert f"100 pages in {tmp_path / 'w[x]'}" in built.stdout
    proved = light("validate", "DeepSearch", "--tasks", "1", "--seconds", "600")
    assert (proved.returncode, proved.stderr) == (0, "")
    assert [line.split()[-1] for line in proved.stdout.splitlines()] == ["Validation", "result", "proved"]
    refused = light("corpus", "search", str(tmp_path / "no[web]"), "x")
    assert refused.returncode == 2
    assert refused.stderr.startswith("arpo corpus: ")
    assert "no[web]" in refused.stderr
    assert "validate" in light("--help").stdout
    (tmp_path / "metrics.jsonl").touch()
    assert light("view", str(tmp_path)).returncode == 0


@pytest.mark.parametrize("line", ["train", "algorithms", "play", "config"])
def test_commands_that_train_say_what_they_lack(line: str) -> None:
    done = light(*line.split())
    assert done.returncode == 2
    assert done.stderr.startswith(f"arpo {line.split()[0]}: needs ")
    assert done.stderr.endswith(", which is not installed: pip install 'arpo[train]'\n")


def test_make_says_what_it_lacks() -> None:
    code = LIGHT.split("from arpo_algo.cli")[0] + "import arpo_algo; arpo_algo.make('arpo')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "the algorithms need torch, which is not installed: pip install 'arpo[train]'" in done.stderr
