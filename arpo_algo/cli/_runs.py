"""What the commands that make a run share: its arguments, its configuration, and the table at its end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from arpo_algo.config import RunConfig
    from arpo_algo.evaluation import Evaluation

console = Console()

OVERRIDES = (
    "Any value can be set on the command line as KEY=VALUE (TOML syntax), after an optional --config FILE:\n"
    "  arpo train --config my.toml --out runs/mine steps=20 learner.lr=2e-5 env.options.hops=[1,2]\n"
    "`arpo config` lists every key with its default and meaning."
)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config``, ``--out``, ``--resume`` and overrides."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of configuration values")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="run folder (default: runs/COMMAND)")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's newest checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration values, see below")


def load_config(
    args: argparse.Namespace,
    base: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
    last: Sequence[str] = (),
) -> RunConfig:
    """The configuration of ``args``: ``defaults``, file (else ``base``), overrides, ``last``; later ones win."""
    from arpo_algo import options
    from arpo_algo.config import RunConfig

    file = args.config or base
    values = options.read(file) if file else {}
    return options.load(RunConfig, options.override(options.merge(defaults or {}, values), [*args.overrides, *last]))


def run_and_report(args: argparse.Namespace, config: RunConfig, out: Path) -> None:
    """The whole run, its table and its report."""
    from arpo_algo.report import build_report
    from arpo_algo.trainer import Trainer

    trainer = Trainer(config, out, resume=args.resume, console=console)
    try:
        results = trainer.run()
    finally:
        trainer.close()
    summary(results)
    report = build_report(out)
    console.print(f"Report: [bold]{report}[/]   (trees, curves; `arpo view {out} --serve` follows a running run)")


def summary(results: Sequence[Evaluation]) -> None:
    """The table of evaluations, and in words what the data say."""
    from arpo_algo.trainer import compare

    if not results:
        return
    table = Table(title="Held-out tasks")
    for column in ("", "success", "95 % interval", "tool calls", "format errors", "tokens", "n"):
        table.add_column(column, justify="left" if not column else "right")
    for result in results:
        row = result.row()
        table.add_row(
            row["name"],
            f"{row['success']:.1%}",
            f"{row['success_low']:.1%} – {row['success_high']:.1%}",
            f"{row['tool_calls']:.2f}",
            f"{row['format_errors']:.1%}",
            f"{row['tokens']:.0f}",
            str(row["n"]),
        )
    console.print(table)
    if len(results) >= 2:
        before, after = results[-2], results[-1]
        mean, low, high = compare(before, after)
        verdict = "rose" if low > 0 else "fell" if high < 0 else "did not change measurably"
        console.print(
            f"From {before.name} to {after.name}, held-out success {verdict}: "
            f"[bold]{100 * mean:+.1f} points[/] (95 % interval {100 * low:+.1f} … {100 * high:+.1f}, same tasks)."
        )
