"""check a training file: faults repaired or dropped, questions that stand in evaluation suites

`arpo data check TRAIN` reads a Parquet file in the authors' training layout (or JSONL with the same fields), says what
was found, and lists the rows that stand in an evaluation suite. Exit status 1 when there are any.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arpo_algo.cli._console import Table, console, escape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["check"])
    parser.add_argument("train", type=Path, metavar="TRAIN", help="the training file")
    parser.add_argument(
        "--against", nargs="+", metavar="SUITE", help="suites to compare with (default: all on this machine)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the suites' files")
    parser.add_argument("--show", type=int, default=20, metavar="N", help="rows listed of each kind (default 20)")


def run(args: argparse.Namespace) -> int:
    from arpo_env.suites import training_set

    family = training_set(args.train, name="train", against=args.against, data_dir=args.data_dir, on_overlap="keep")
    report = family.report
    table = Table("what", "rows", title=escape(str(args.train)))
    table.add_row("read", str(report.rows))
    table.add_row("kept", str(report.kept))
    table.add_row("broken, dropped", str(len(report.broken)))
    table.add_row("duplicate questions, dropped", str(report.duplicates))
    for kind, count in sorted(report.repaired.items()):
        table.add_row(f"damaged {escape(kind)}, repaired", str(count))
    table.add_row(f"in an evaluation suite ({', '.join(report.compared) or 'none here to compare with'})",
                  str(len(report.overlaps)))  # fmt: skip
    console.print(table)
    for title, rows in (("Broken", report.broken), ("In an evaluation suite", report.overlaps)):
        if rows:
            console.print(f"[bold]{title}[/]")
            for row in rows[: args.show]:
                console.print(f"  {escape(str(row))}", highlight=False, soft_wrap=True)
            if len(rows) > args.show:
                console.print(f"  … and {len(rows) - args.show} more")
    if report.overlaps:
        console.print("Training on these rows would be training on the test: drop them with on_overlap='drop'.")
    return 1 if report.overlaps else 0
