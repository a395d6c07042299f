"""prove suites and families: golds score, wrong and hostile answers do not

Without names: every suite that is on this machine; the others are listed with the way to get them. Exit status 1 when
anything is not as it must be.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arpo_algo.cli._console import Table, console, counting, escape
from arpo_env.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="names of suites (default: all on this machine)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder in the published evaluation layout")
    parser.add_argument("--tasks", type=int, default=50, metavar="N", help="tasks a suite (default 50; 0: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="wall time a verdict may take (default 60)")
    parser.add_argument("--sandbox", default="auto", help="isolation tier for code suites")


def run(args: argparse.Namespace) -> int:
    from arpo_env.suites import list_suites, suite
    from arpo_env.suites.validate import validate

    if args.tasks < 0:
        raise ConfigError(f"--tasks must be >= 0, got {args.tasks}")
    chosen = [suite(name) for name in args.suites or list_suites()]
    table = Table("suite", "tasks", "verdicts", "slowest verdict", "result", title="Validation")
    findings: list[str] = []
    missing: list[str] = []
    for one in chosen:
        if not args.suites and (reason := one.missing(args.data_dir)):
            missing.append(reason)
            table.add_row(one.name, "–", "–", "–", "[dim]not here[/]")
            continue
        family = one.family(args.data_dir, sandbox=args.sandbox)
        # An endless family has no "all": it gives as many as an evaluation takes.
        tasks = args.tasks or len(one.task_ids(data_dir=args.data_dir))
        with counting(one.name) as on_task:
            done = validate(family, tasks=tasks, seconds=args.seconds, name=one.name, on_task=on_task)
        findings += map(str, done.findings)
        result = "[green]proved[/]" if done.ok else f"[bold red]{len(done.findings)} findings[/]"
        table.add_row(one.name, str(done.tasks), str(done.verdicts), f"{done.slowest[0]:.2f} s", result)
    console.print(table)
    for reason in missing:
        console.print(f"[dim]{escape(reason)}[/]", highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(f"[red]✗[/] {escape(finding)}", highlight=False, soft_wrap=True)
    return 1 if findings else 0
