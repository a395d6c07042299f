"""``python -m benchmarks``: score any policy on any suite, and compare runs with each other and with the paper."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from arpo_algo.errors import ConfigError, TrainingError
from arpo_env.errors import ArpoEnvError
from benchmarks.policies import WORDS, Settings, choose
from benchmarks.runner import RunStopped
from benchmarks.store import StorageError

_WORDS = "policies:\n" + "\n".join(f"  {word}\n      {meaning}" for word, meaning in WORDS.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 the run stopped or left samples out, 2 bad input, 130 interrupted."""
    args = parser().parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    error_console = Console(stderr=True)
    try:
        return int(args.run(args, console))
    except (ConfigError, ArpoEnvError, TrainingError, RunStopped, StorageError) as error:
        title = f"[bold red]benchmarks {args.command}:[/] "
        error_console.print(title + escape(str(error)), highlight=False, soft_wrap=True)
        return 1 if isinstance(error, TrainingError | RunStopped | StorageError) else 2
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split(": ", 1)[1])
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter

    run = commands.add_parser(
        "run", help="score a policy; the same command again goes on", epilog=_WORDS, formatter_class=raw
    )
    run.add_argument("--policy", required=True, metavar="WORD", help="who plays, see below")
    run.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="run folder")
    run.add_argument(
        "--suites", default="all", metavar="A,B,…", help="names, all (what can be had here), paper, domain:math …"
    )
    run.add_argument("--samples", type=int, default=1, metavar="K", help="samples a task")
    run.add_argument("--tasks", type=int, metavar="N", help="tasks a suite at most (default: all; generated: 200)")
    run.add_argument("--seed", type=int, default=0, help="of the samples (tasks do not depend on it)")
    tasks = run.add_argument_group("tasks and tools")
    tasks.add_argument(
        "--data", metavar="FOLDER", help="suites in the published layout; default $ARPO_DATA, else the Hub"
    )
    tasks.add_argument("--search", metavar="WHERE", help="for search suites: corpus folder, retriever URL, or none")
    tasks.add_argument("--retriever", default="bm25", help="how a corpus folder is searched: bm25, dense, hybrid")
    tasks.add_argument("--max-tool-calls", type=int, metavar="N", help="tool calls an episode (default: the suite's)")
    tasks.add_argument("--prompt", metavar="NAME", help="system prompt: compact, paper")
    tasks.add_argument("--metric", default="default", help="of question suites: default, paper, f1, judge")
    tasks.add_argument("--judge", metavar="URL#MODEL", help="the endpoint that judges, for --metric judge")
    tasks.add_argument("--on-broken", choices=["error", "skip"], default="error", help="broken rows of a data file")
    tasks.add_argument("--task-seed", type=int, default=0, help="which tasks, where not all are taken")
    tasks.add_argument(
        "--set", action="append", default=[], metavar="SUITE.KEY=VALUE", help="option of one suite's environment"
    )
    policy = run.add_argument_group("policy")
    policy.add_argument("--temperature", type=float, help="default 0.6")
    policy.add_argument("--top-p", type=float, help="default 0.95")
    policy.add_argument("--top-k", type=int, help="default 20 for engines, not sent to endpoints")
    policy.add_argument("--max-turn-tokens", type=int, metavar="N", help="new tokens a turn")
    policy.add_argument("--max-tokens", type=int, metavar="N", help="tokens of an episode, prompt included")
    policy.add_argument("--concurrency", type=int, metavar="N", help="episodes at once")
    policy.add_argument("--layout", help="of endpoints: turns (results as user messages) or inline (continued message)")
    policy.add_argument("--device", default="auto", help="of local models: cpu, cuda, cuda:1")
    policy.add_argument("--request-seconds", type=float, default=300.0, metavar="S", help="patience with one request")
    policy.add_argument(
        "--prices", type=Path, metavar="FILE", help="TOML table: [model] input=, output= ($ per million tokens)"
    )
    policy.add_argument(
        "--retries", type=int, default=2, metavar="N", help="further attempts after infrastructure failed"
    )
    run.set_defaults(run=_run)

    report = commands.add_parser("report", help="write a run folder's reports again")
    report.add_argument("folder", type=Path)
    report.set_defaults(run=_report)

    compare = commands.add_parser("compare", help="runs beside each other and the paper's figures")
    compare.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="run folders; the first is the baseline"
    )
    compare.add_argument("--out", type=Path, metavar="FILE", help="write Markdown (.md) or JSON (.json) here too")
    compare.add_argument(
        "--published", default="", metavar="MODEL", help="show the published rows whose name holds this"
    )
    compare.set_defaults(run=_compare)

    suites = commands.add_parser("suites", help="every suite: where it comes from, and whether it can be had here")
    suites.add_argument("--data", metavar="FOLDER", help="as for run")
    suites.set_defaults(run=_suites)
    return top


def _run(args: argparse.Namespace, console: Console) -> int:
    from benchmarks.selection import wanted_of
    from benchmarks.session import RunOptions, run

    settings = Settings(
        args.temperature, args.top_p, args.top_k, args.max_turn_tokens, args.max_tokens, args.concurrency,
        args.layout, args.device, args.request_seconds,
    )  # fmt: skip
    choice = choose(args.policy, settings)
    options = RunOptions(args.out, args.samples, args.seed, args.retries, args.prices)
    return run(choice, wanted_of(args, choice.preset), options, console)


def _report(args: argparse.Namespace, console: Console) -> int:
    from benchmarks.session import report

    return report(args.folder, console)


def _compare(args: argparse.Namespace, console: Console) -> int:
    from benchmarks.compare import compare

    return compare(args.folders, console, out=args.out, published=args.published)


def _suites(args: argparse.Namespace, console: Console) -> int:
    from benchmarks.selection import table

    out = Table("suite", "domain", "tasks", "licence", "here")
    found = table(args.data)
    for one, reason in found:
        size = "endless" if one.size is None else f"{one.size:,}"
        out.add_row(one.name, one.domain, size, one.licence, "yes" if reason is None else "no")
    console.print(out)
    for _, reason in found:
        if reason is not None:
            console.print(escape(reason), highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
