"""What a run tells while it runs: rows on disk, TensorBoard, and one live view in the terminal."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from arpo_algo.runfolder import RunFolder


class Tracker:
    """Logs one run. Values that are not finite are left out of a row and named in ``nonfinite``."""

    def __init__(self, folder: RunFolder, console: Console) -> None:
        self.folder = folder
        self.console = console
        self._board = SummaryWriter(str(folder.path / "tensorboard"))

    def log(self, phase: str, step: int, metrics: dict[str, float]) -> None:
        finite = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}
        bad = sorted(set(metrics) - set(finite))
        row: dict[str, Any] = {"phase": phase, "step": step, **finite}
        if bad:
            row["nonfinite"] = bad
        self.folder.append("metrics.jsonl", row)
        for key, value in finite.items():
            self._board.add_scalar(f"{phase}/{key}", value, step)

    def evaluation(self, row: dict[str, Any]) -> None:
        row = dict(row)
        per_task = row.pop("per_task")
        self.folder.append("eval-tasks.jsonl", {"name": row["name"], "step": row["step"], "success": per_task})
        self.folder.append("eval.jsonl", row)
        for key in ("success", "reward", "tool_calls", "format_errors"):
            self._board.add_scalar(f"eval/{key}", row[key], row["step"])

    def close(self) -> None:
        self._board.close()


class Live:
    """A progress display: one bar a phase, and a line of the newest numbers. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
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
