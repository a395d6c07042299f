"""algorithms x seeds at an equal budget, and their comparison

Each --algorithm is a name, or a name with options in quotes:
  arpo sweep --config arpo_algo/configs/demo.toml --algorithm arpo --algorithm grpo \\
      --algorithm "arpo attribution=hard" --seeds 0 1 2 --out runs/sweep budget.tool_calls=800
Runs that are done are not done again; interrupted ones resume; algorithms and seeds may be added later.
Each seed trains on questions of its own; with env.task_seed=N all seeds train on the same ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from arpo_algo.cli._console import Table, console, escape
from arpo_algo.cli._intermixed import METAVAR
from arpo_algo.cli._runs import OVERRIDES, load_config

EPILOG = OVERRIDES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of configuration values")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("runs/sweep"), help="the sweep's folder")
    parser.add_argument("--algorithm", action="append", required=True, metavar="NAME [KEY=VALUE …]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", metavar=METAVAR, help="configuration values, see below")


def run(args: argparse.Namespace) -> None:
    from arpo_algo import options
    from arpo_algo.report.page_sweep import build_sweep_page, pooled
    from arpo_algo.sweep import entrant, names_questions, sweep

    config = load_config(args)
    given = options.override(options.read(args.config) if args.config else {}, args.overrides)
    entrants = [entrant(text, config) for text in args.algorithm]
    for one in entrants:
        if one.dropped:
            console.print(f"{one.label} has no option {', '.join(one.dropped)}: left out for it", markup=False)
    rows = sweep(config, entrants, args.seeds, args.out, console, same_questions=names_questions(given))
    table = Table("algorithm", "success", "95 % interval", "by seed", title="Held-out tasks")
    for label in dict.fromkeys(r.label for r in rows):
        own = [r for r in rows if r.label == label]
        value, low, high = pooled(own)
        table.add_row(
            escape(label), f"{value:.1%}", f"{low:.1%} – {high:.1%}", ", ".join(f"{r.final.success:.0%}" for r in own)
        )
    console.print(table)
    console.print(f"Comparison: [bold]{escape(str(build_sweep_page(rows, args.out)))}[/]")
