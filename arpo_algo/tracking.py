"""What a run tells while it runs: rows on disk, TensorBoard and other boards, and one live view in the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from arpo_algo.errors import ConfigError, unknown
from arpo_algo.guards import Alarm
from arpo_algo.options import opt
from arpo_algo.runfolder import LOGS, RunFolder


@dataclass(frozen=True)
class LogSection:
    """What is written besides the rows.

    Raises:
        ConfigError: an unknown board, or a value out of range.
    """

    trees: int = opt(4, "trees saved for the viewer, the first of a step")
    trees_every: int = opt(1, "training steps between saved trees")
    replay: bool = opt(False, "keep every tree of every step, so that `arpo replay` can redo its update")
    boards: tuple[str, ...] = field(
        default=("tensorboard",), metadata={"help": "where metrics go: tensorboard, wandb, trackio (if installed)"}
    )
    project: str = opt("arpo", "project name on wandb and trackio")

    def __post_init__(self) -> None:
        if self.trees < 0 or self.trees_every < 1:
            raise ConfigError(f"need log.trees >= 0 and log.trees_every >= 1, got {self.trees} and {self.trees_every}")
        for board in self.boards:
            if board not in BOARDS:
                raise unknown("log.boards entry", board, BOARDS)


# ------------------------------------------------------------------ boards


class Board(Protocol):
    """A place that scalars go to."""

    def add(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    """A folder a phase: each counts its own steps, and TensorBoard hides by step what a resume does again."""

    def __init__(self, folder: Path, config: LogSection, record: Mapping[str, Any], begins: Mapping[str, int]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
        from torch.utils.tensorboard import SummaryWriter

        self._summary: Any = Summary
        self._make: Any = SummaryWriter
        self._folder, self._begins = folder / "tensorboard", begins
        self._writers: dict[str, Any] = {}

    def add(self, values: Mapping[str, float], step: int) -> None:
        phase = _phase(values)
        if phase not in self._writers:
            self._writers[phase] = self._make(str(self._folder / phase), purge_step=self._begins.get(phase, 0))
        # One event for all: one a scalar, as add_scalar writes, costs ten times as much.
        scalars = [self._summary.Value(tag=key, simple_value=value) for key, value in values.items()]
        self._writers[phase].file_writer.add_summary(self._summary(value=scalars), step)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def _phase(values: Mapping[str, float]) -> str:
    """What stands before the slash; a row is of one phase."""
    return next(iter(values), "").partition("/")[0]


class _Run:
    """Weights & Biases, or trackio, which copies its interface. One stored run continues over a resume.

    Steps done again after a kill are logged again: neither can take a row back.
    """

    def __init__(
        self, module: str, folder: Path, config: LogSection, record: Mapping[str, Any], begins: Mapping[str, int]
    ) -> None:
        import importlib

        try:
            library: Any = importlib.import_module(module)
        except ImportError:
            raise ConfigError(f"log.boards names {module!r}, which is not installed: pip install {module}") from None
        name, run_id = folder.resolve().name, record["id"]
        options: dict[str, Any] = {"project": config.project, "config": dict(record["config"]), "resume": "allow"}
        if module == "wandb":
            options |= {"name": name, "id": run_id, "dir": str(folder)}
        else:
            options |= {"name": f"{name}-{run_id}"}  # it knows runs by name alone
        self._library = library
        library.init(**options)
        if module == "wandb":
            for phase in ("sft", "train", "eval"):
                library.define_metric(f"{phase}/*", step_metric=f"{phase}/step")

    def add(self, values: Mapping[str, float], step: int) -> None:
        # Phases restart their count: the step goes along as a value, the library keeps its own order.
        self._library.log({**values, f"{_phase(values)}/step": step})

    def close(self) -> None:
        self._library.finish()


def _wandb(*args: Any) -> Board:
    return _Run("wandb", *args)


def _trackio(*args: Any) -> Board:
    return _Run("trackio", *args)


BOARDS: dict[str, Callable[[Path, LogSection, Mapping[str, Any], Mapping[str, int]], Board]] = {
    "tensorboard": _TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
}


# ------------------------------------------------------------------ one run


class Tracker:
    """Logs one run. Values that are not finite are left out of a row and named in ``nonfinite``.

    A full disk does not end a run: rows wait in memory until they can be written (:meth:`flush`); a board that fails is
    dropped, and both are said.

    Args:
        record: of ``config.json``; boards want its ``id`` and ``config``.
        begins: phase (sft, train, eval) -> the first step that it logs from now on, default 0; what a board holds from
            there on is done again.

    Raises:
        ConfigError: a board whose package is not installed.
    """

    def __init__(
        self,
        folder: RunFolder,
        console: Console,
        config: LogSection,
        record: Mapping[str, Any],
        *,
        begins: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = folder
        self.console = console
        self._boards: dict[str, Board] = {}
        self._waiting: dict[str, list[Mapping[str, Any]]] = {name: [] for name in LOGS}
        if folder.follower:
            return
        for name in config.boards:
            try:
                self._boards[name] = BOARDS[name](folder.path, config, record, begins or {})
            except ConfigError:
                raise
            except Exception as error:
                self._drop(name, error)

    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        finite = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}
        bad = sorted(set(metrics) - set(finite))
        row: dict[str, Any] = {"phase": phase, "step": step, **finite}
        if bad:
            row["nonfinite"] = bad
        self._waiting["metrics.jsonl"].append(row)
        self.flush()
        self._show({f"{phase}/{key}": value for key, value in finite.items()}, step)

    def evaluation(self, row: dict[str, Any]) -> None:
        row = dict(row)
        per_task = row.pop("per_task")
        self._waiting["eval-tasks.jsonl"].append({"name": row["name"], "step": row["step"], "success": per_task})
        self._waiting["eval.jsonl"].append(row)
        self.flush()
        self._show(
            {f"eval/{key}": row[key] for key in ("success", "reward", "tool_calls", "format_errors")}, row["step"]
        )

    def alarm(self, alarm: Alarm) -> None:
        self.say(alarm.message, style="bold red")
        self._waiting["alarms.jsonl"].append(asdict(alarm))
        self.flush()

    def say(self, text: str, *, style: str = "yellow") -> None:
        """A line above the live view."""
        if not self.folder.follower:
            self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def flush(self) -> str:
        """Write the rows that wait; returns what still waits, in words ("": nothing)."""
        left = []
        for name, rows in self._waiting.items():
            if not rows:
                continue
            if name == "eval.jsonl" and self._waiting["eval-tasks.jsonl"]:
                left.append(f"{name}: {len(rows)} rows")
                continue
            try:
                self.folder.append(name, *rows)
                rows.clear()
            except OSError as error:
                left.append(f"{name}: {len(rows)} rows ({error})")
        if left:
            self.say(f"rows wait in memory, they cannot be written: {'; '.join(left)}")
        return "; ".join(left)

    def close(self) -> None:
        self.flush()
        while self._boards:
            name, board = self._boards.popitem()
            try:
                board.close()
            except Exception as error:
                self._drop(name, error)

    def _show(self, values: dict[str, float], step: int) -> None:
        for name, board in list(self._boards.items()):
            try:
                board.add(values, step)
            except Exception as error:
                self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        """A board's own network or disk failed; the rows on disk are the record."""
        self._boards.pop(name, None)
        self.say(f"{name} failed and is dropped for the rest of this run: {type(error).__name__}: {error}")


# ------------------------------------------------------------------ the live view
class Live:
    """A progress display: one bar a phase, and a line of the newest numbers. Use as a context manager."""

    def __init__(self, console: Console, *, show: bool = True) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not show,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def bar(self, name: str, total: int) -> Bar:
        return Bar(self._progress, name, total)


class Bar:
    """One phase of the display."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total, note="")

    def advance(self, note: str = "") -> None:
        self._progress.update(self._task, advance=1, note=note)

    def set(self, done: int, total: int | None = None, note: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total, note=note)

    def remove(self) -> None:
        self._progress.remove_task(self._task)
