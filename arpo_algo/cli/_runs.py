"""What the commands that make a run share: its arguments, its configuration, and the table at its end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arpo_algo.cli._console import Table, console, escape
from arpo_algo.cli._intermixed import METAVAR

if TYPE_CHECKING:
    from arpo_algo.config import RunConfig
    from arpo_algo.evaluation import Evaluation
    from arpo_algo.trainer import Trainer

OVERRIDES = (
    "Any value can be set as KEY=VALUE (TOML syntax), anywhere on the command line:\n"
    "  arpo train --config my.toml --out runs/mine steps=20 learner.lr=2e-5 env.options.hops=[1,2]\n"
    "`arpo config` lists every key with its default and meaning. With another algorithm.name than the FILE's, the\n"
    "FILE's algorithm.options that it does not know are left out, and said."
)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config``, ``--out``, ``--resume`` and overrides."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of configuration values")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="run folder (default: runs/COMMAND)")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's newest checkpoint")
    parser.add_argument("overrides", nargs="*", metavar=METAVAR, help="configuration values, see below")


def load_config(
    args: argparse.Namespace,
    base: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
    last: Sequence[str] = (),
) -> RunConfig:
    """The configuration of ``args``: ``defaults``, file (else ``base``), overrides, ``last``; later ones win.

    Where an override names the algorithm, the file's options that it lacks are left out: they were another's. What the
    overrides themselves give must be known.
    """
    from arpo_algo import options
    from arpo_algo.config import RunConfig

    file = args.config or base
    below = options.merge(defaults or {}, options.read(file) if file else {})
    overrides = [*args.overrides, *last]
    values = options.override(below, overrides)
    _drop_options(values, options.override({}, overrides))
    return options.load(RunConfig, values)


def _drop_options(values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Where the user has ``given`` an algorithm's name: take those options out of ``values`` that it lacks."""
    from arpo_algo.algorithms import option_names, short_name

    mine, section = given.get("algorithm"), values.get("algorithm")
    if not isinstance(mine, Mapping) or not isinstance(section, dict) or not isinstance(mine.get("name"), str):
        return
    before = section.get("options", {})
    if not isinstance(before, Mapping):
        return  # refused when it is loaded
    keep = option_names(mine["name"]) | set(mine.get("options", {}))
    section["options"] = {k: v for k, v in before.items() if k in keep}
    if dropped := sorted(before.keys() - keep):
        text = f"{short_name(mine['name'])} has no option {', '.join(dropped)}: left out"
        console.print(text, markup=False, highlight=False)


def run_and_report(args: argparse.Namespace, config: RunConfig, out: Path) -> int:
    """The whole run, its table and its report; returns the exit status."""
    from arpo_algo.report import build_report
    from arpo_algo.trainer import Trainer

    trainer = Trainer(config, out, resume=args.resume, console=console)
    try:
        results = trainer.run()
    finally:
        trainer.close()
    summary(results)
    report, shown = escape(str(build_report(out))), escape(str(out))
    console.print(f"Report: [bold]{report}[/]   (trees, curves; `arpo view {shown} --serve` follows a running run)")
    return status(trainer)


def status(trainer: Trainer) -> int:
    """Of a run that has ended: 130 where a signal ended it before all was done, as of what a signal kills."""
    if trainer.complete or not trainer.interrupts.stop:
        return 0
    console.print(f"Stopped at {trainer.position.name}; the same command with --resume goes on.")
    return 130


def summary(results: Sequence[Evaluation]) -> None:
    """The table of evaluations, and in words what the data say."""
    from arpo_algo.evaluation import compare

    if not results:
        return
    table = Table(title="Held-out tasks")
    for column in ("", "success", "95 % interval", "tool calls", "format errors", "tokens", "n"):
        table.add_column(column, justify="left" if not column else "right")
    for result in results:
        row = result.row()
        table.add_row(
            escape(row["name"]),
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
            f"From {escape(before.name)} to {escape(after.name)}, held-out success {verdict}: "
            f"[bold]{100 * mean:+.1f} points[/] (95 % interval {100 * low:+.1f} … {100 * high:+.1f}, same tasks)."
        )
