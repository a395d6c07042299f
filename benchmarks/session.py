"""``python -m benchmarks run``: choose, check, run what is missing, report. The same command again goes on."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from arpo_algo.errors import ConfigError
from arpo_algo.versions import versions
from arpo_env.errors import InfraError
from benchmarks.policies import Choice
from benchmarks.prices import read_price
from benchmarks.report import load, print_table, write_reports
from benchmarks.runner import Runner, RunStopped, SuiteTasks
from benchmarks.selection import Selected, Wanted, select
from benchmarks.store import JUDGE, BenchFolder, Sample, asked, blocks, merged

if TYPE_CHECKING:
    from arpo_env.rewards.judge import LLMJudge

_PACKAGES = ("arpo", "gymnasium", "torch", "transformers", "vllm", "openai", "math-verify")
#: Without a terminal a line is printed at each of these shares of a suite.
_MILESTONES = 10
#: Keys of a suite's record that folders of earlier releases lack.
_RECORDED_LATER = ("questions",)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run, apart from who plays (:class:`Choice`) and what (:class:`Wanted`)."""

    out: Path
    samples: int = 1
    seed: int = 0
    retries: int = 2
    prices: Path | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("samples", self.samples, 1), ("seed", self.seed, 0), ("retries", self.retries, 0)):
            if value < least:
                raise ConfigError(f"{name} must be >= {least}, got {value}")


def run(choice: Choice, wanted: Wanted, options: RunOptions, console: Console) -> int:
    """Run and report; returns the exit status (0 all scored, 1 something is missing).

    Raises:
        ConfigError: bad input, or a folder of another run. RunStopped, StorageError, TrainingError: see the runner.
        InfraError: the policy cannot play now.
    """
    price = None if options.prices is None else read_price(options.prices, choice.price_name)
    with BenchFolder(options.out) as folder:
        selected, missing = select(wanted, None if wanted.judge is None else _judge(wanted.judge, options.out))
        for name, reason in missing.items():
            console.print(f"[yellow]without {name}[/]: {escape(reason)}", highlight=False, soft_wrap=True)
        record = _record(folder.config, choice, selected, options, missing)
        if price is not None:
            record["price"] = asdict(price)
        policy = choice.build()
        try:
            policy.check()
            folder.write_config(record)
            with _Display(console, selected, options.samples, folder) as display:
                runner = Runner(
                    folder, policy, seed=options.seed, retries=options.retries, on_sample=display.on_sample
                )  # fmt: skip
                runner.run([SuiteTasks(s.suite.name, s.env, s.tasks) for s in selected], options.samples)
        except KeyboardInterrupt:
            console.print(_saved(folder, "Interrupted"), highlight=False)
            raise
        except (RunStopped, InfraError) as error:
            raise RunStopped(f"{error}\n{_saved(folder, 'Stopped')}") from error
        finally:
            policy.close()
    return report(options.out, console)


def report(path: Path, console: Console) -> int:
    """Write the reports of a run folder and print its table; returns the exit status as :func:`run`."""
    result = load(path)
    files = write_reports(result)
    print_table(result, console)
    void = sum(score.void for score in result.scores.values())
    left = sum(asked(result.config["suites"][n]) - s.scored - s.void for n, s in result.scores.items())
    if void:
        console.print(
            f"[yellow]{void} samples are void: infrastructure failed and they are not scored.[/] "
            "The same command tries them again."
        )
    if left:
        console.print(f"[yellow]{left} samples are not run yet.[/] The same command goes on.")
    console.print("Reports: " + ", ".join(map(str, files)), highlight=False, soft_wrap=True)
    return 1 if void or left else 0


def _judge(word: str, out: Path) -> LLMJudge:
    from arpo_env.cassette import Cassette
    from arpo_env.chat import ChatClient
    from arpo_env.rewards.judge import LLMJudge

    url, _, model = word.removeprefix("openai:").partition("#")
    return LLMJudge(ChatClient(url, model), Cassette(out / JUDGE))


def _saved(folder: BenchFolder, what: str) -> str:
    done = sum(sample.status == "scored" for sample in folder.samples.values())
    return f"{what}: {done} samples are saved in {folder.path}; the same command goes on from there."


# ---------------------------------------------------------------------- the record


def _record(
    before: Mapping[str, Any] | None,
    choice: Choice,
    selected: Sequence[Selected],
    options: RunOptions,
    missing: Mapping[str, str],
) -> dict[str, Any]:
    """``config.json``; with ``before``, the union of both, if they fit together.

    Raises:
        ConfigError: the folder belongs to another policy, seed or set of tasks.
    """
    before = before or {}
    suites: dict[str, Any] = {k: dict(v) for k, v in before.get("suites", {}).items()}
    if before:
        # What an older release did not record cannot be compared; from here on it is recorded.
        _same("--policy", before["policy"], {k: v for k, v in choice.record.items() if k in before["policy"]})
        _same("--seed", before["seed"], options.seed)
    for one in selected:
        old = suites.get(one.suite.name)
        size = [len(one.tasks), options.samples]
        new = {**one.record, "tasks": size[0], "samples": size[1], "asked": [size]}
        if old is not None:
            for key, value in one.record.items():
                if key in old or key not in _RECORDED_LATER:
                    _same(f"{one.suite.name}: {key}", old.get(key), value)
            # More tasks and samples may be asked for later; what is there stays.
            new["asked"] = merged(blocks(old), new["asked"])
            new |= {key: max(old[key], new[key]) for key in ("tasks", "samples")}
        suites[one.suite.name] = new
    here = {
        "versions": {package: v for package, v in versions(_PACKAGES).items() if v},
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "command": sys.argv,
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "name": choice.name,
        "policy": dict(choice.record),
        "seed": options.seed,
        "suites": suites,
        "missing": dict(missing),
        "price": before.get("price"),
        # The first samples were made with these; what each later start had stands beside its time.
        **{key: before.get(key, value) for key, value in here.items()},
        "started": before.get("started", now),
        "resumed": [*before.get("resumed", []), {"at": now, **here}] if before else [],
    }


def _same(what: str, old: Any, new: Any) -> None:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [k for k in {**old, **new} if old.get(k) != new.get(k)]
        old, new = ({k: side.get(k) for k in keys} for side in (old, new))
    raise ConfigError(
        f"{what} differs from what this folder was begun with: {old!r} there, {new!r} now. "
        "Samples of two settings must not mix; choose another --out"
    )


# ---------------------------------------------------------------------- progress


class _Display:
    """A bar a suite on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console, selected: Sequence[Selected], samples: int, folder: BenchFolder) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.tallies: dict[str, _Tally] = {}
        for one in selected:
            name = one.suite.name
            tasks = set(one.tasks)
            have = [s for s in folder.samples.values() if s.suite == name and s.task in tasks and s.sample < samples]
            tally = _Tally(self.progress.add_task(name, total=len(one.tasks) * samples, note=""), len(tasks) * samples)
            for sample in have:
                if sample.status == "scored":
                    tally.add(sample)
            self.tallies[name] = tally
            self._show(name)

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def on_sample(self, sample: Sample) -> None:
        tally = self.tallies[sample.suite]
        before = tally.done * _MILESTONES // tally.total
        tally.add(sample)
        self._show(sample.suite)
        if not self.console.is_terminal and tally.done * _MILESTONES // tally.total > before:
            clock = time.strftime("%H:%M:%S")
            self.console.print(f"{clock} {sample.suite}: {tally.done}/{tally.total}, {tally.note}", highlight=False)

    def _show(self, name: str) -> None:
        tally = self.tallies[name]
        self.progress.update(tally.bar, completed=tally.done, note=tally.note)


@dataclass(slots=True)
class _Tally:
    bar: TaskID
    total: int
    scored: int = 0
    right: int = 0
    void: int = 0

    def add(self, sample: Sample) -> None:
        if sample.status == "void":
            self.void += 1
        else:
            self.scored += 1
            self.right += sample.success

    @property
    def done(self) -> int:
        return self.scored + self.void

    @property
    def note(self) -> str:
        right = [f"{self.right / self.scored:.1%} right"] if self.scored else []
        return ", ".join([*right, *([f"{self.void} void"] if self.void else [])])
