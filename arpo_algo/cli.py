"""``arpo``: cold start, train, evaluate, play and view from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from arpo_algo.errors import ConfigError, TrainingError
from arpo_env.errors import ArpoEnvError

if TYPE_CHECKING:
    from arpo_algo.config import RunConfig
    from arpo_algo.evaluation import Evaluation

console = Console()

_OVERRIDES = (
    "Any value can be set on the command line as KEY=VALUE (TOML syntax), after an optional --config FILE:\n"
    "  arpo train --config my.toml --out runs/mine steps=20 learner.lr=2e-5 env.options.hops=[1,2]\n"
    "`arpo config` lists every key with its default and meaning."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 done, 1 the run failed, 2 bad input)."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except (ConfigError, ArpoEnvError, TrainingError) as error:
        Console(stderr=True).print(f"[bold red]arpo {args.command}:[/] {error}", highlight=False, soft_wrap=True)
        return 1 if isinstance(error, TrainingError) else 2
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arpo", description="Train and evaluate language-model agents that use tools, with ARPO and its rivals."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, run: Callable[[argparse.Namespace], int | None], **options: Any) -> Any:
        sub = commands.add_parser(
            name,
            help=help,
            description=options.pop("description", help),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )
        sub.set_defaults(run=run)
        return sub

    def configured(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--config", type=Path, metavar="FILE", help="TOML file of configuration values")
        sub.add_argument("--out", type=Path, metavar="FOLDER", help="run folder (default: runs/COMMAND)")
        sub.add_argument("--resume", action="store_true", help="go on from the folder's newest checkpoint")
        sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration values, see below")

    configured(command("sft", "cold start only: imitate the experts, then save", _sft, epilog=_OVERRIDES))
    configured(command("train", "cold start (if asked for), RL, evaluation", _train, epilog=_OVERRIDES))
    configured(command("eval", "success of a model on held-out tasks", _eval, epilog=_OVERRIDES))
    demo = command("demo", "the main job: a real model learns to search, then the report", _demo, epilog=_OVERRIDES)
    configured(demo)

    play = command("play", "step through one episode in the terminal, as a person or with a model", _play)
    play.add_argument("env", nargs="?", default="ARPO-DeepSearch-v0", help="environment id")
    play.add_argument("--seed", type=int, default=0)
    play.add_argument("--model", help="let this model play (name or folder); without: you type the turns")
    play.add_argument("--expert", action="store_true", help="let the task's scripted expert play")
    play.add_argument("options", nargs="*", metavar="KEY=VALUE", help="options of the environment")

    view = command("view", "build a run's HTML report, serve it, or print its trees", _view)
    view.add_argument("folder", type=Path, help="run folder")
    view.add_argument("--serve", action="store_true", help="serve on loopback and follow a running run")
    view.add_argument("--port", type=int, default=0, help="port for --serve (default: any free one)")
    view.add_argument("--terminal", action="store_true", help="print the newest training trees in the terminal")

    command("algorithms", "list the algorithms and their options", _algorithms)
    command("config", "list every configuration key with its default and meaning", _config)
    sandbox = command("sandbox", "which isolation this machine gives, and what each layer closes", _sandbox)
    sandbox.add_argument("action", choices=["check"], nargs="?", default="check")
    return parser


def _load(args: argparse.Namespace, base: Path | None = None) -> RunConfig:
    from arpo_algo import options
    from arpo_algo.config import RunConfig

    file = args.config or base
    values = options.read(file) if file else {}
    return options.load(RunConfig, options.override(values, args.overrides))


def _train(args: argparse.Namespace, base: Path | None = None, name: str = "train") -> int:
    from arpo_algo.report import build_report
    from arpo_algo.trainer import Trainer

    out = args.out or Path("runs") / name
    trainer = Trainer(_load(args, base), out, resume=args.resume, console=console)
    try:
        results = trainer.run()
    finally:
        trainer.close()
    _summary(results)
    report = build_report(out)
    console.print(f"Report: [bold]{report}[/]   (trees, curves; `arpo view {out} --serve` follows a running run)")
    return 0


def _sft(args: argparse.Namespace) -> int:
    import dataclasses

    from arpo_algo.trainer import Trainer

    config = _load(args)
    if not config.sft.steps:
        raise ConfigError("arpo sft needs sft.steps >= 1, e.g. `arpo sft sft.steps=30`")
    config = dataclasses.replace(config, steps=0)
    out = args.out or Path("runs") / "sft"
    trainer = Trainer(config, out, resume=args.resume, console=console)
    try:
        results = trainer.run()
        saved = trainer.save()
    finally:
        trainer.close()
    _summary(results)
    console.print(f"Model: [bold]{saved / 'model'}[/]")
    return 0


def _eval(args: argparse.Namespace) -> int:
    import dataclasses

    from arpo_algo.trainer import Trainer

    config = _load(args)
    config = dataclasses.replace(config, steps=0, sft=dataclasses.replace(config.sft, steps=0))
    trainer = Trainer(config, args.out or Path("runs") / "eval", resume=args.resume, console=console)
    try:
        result = trainer.evaluate(config.model)
    finally:
        trainer.close()
    _summary([result])
    return 0


def _demo(args: argparse.Namespace) -> int:
    import shutil

    out = args.out = args.out or Path("runs/demo")
    marker = out / "config.json"
    if marker.exists() and not args.resume:
        if (out / "report.html").exists():
            # `make demo` works twice in a row: the finished run is kept beside the new one.
            old = out.with_name(f"{out.name}-{int(marker.stat().st_mtime)}")
            out.rename(old)
            console.print(f"The finished run in {out} was moved to {old}.")
        else:
            console.print(f"{out} holds a run that did not finish; starting afresh there.")
            shutil.rmtree(out)
    return _train(args, Path(__file__).parent / "configs" / "demo.toml", "demo")


def _summary(results: Sequence[Evaluation]) -> None:
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


def _play(args: argparse.Namespace) -> int:
    from arpo_algo.play import play

    return play(console, args.env, args.seed, args.options, model=args.model, expert=args.expert)


def _view(args: argparse.Namespace) -> int:
    from arpo_algo.report.build import build_report
    from arpo_algo.report.serve import serve
    from arpo_algo.report.terminal import render_tree

    if not args.folder.is_dir():
        raise ConfigError(f"run folder {str(args.folder)!r} is not there")
    if args.terminal:
        files = sorted((args.folder / "trees").glob("*.jsonl.gz"))
        if not files:
            raise ConfigError(f"{args.folder} holds no trees yet")
        from arpo_algo.runfolder import read_trees

        for tree in read_trees(files[-1]):
            console.print(render_tree(tree))
        return 0
    if args.serve:
        serve(args.folder, port=args.port)
        return 0
    console.print(f"Report: [bold]{build_report(args.folder)}[/]")
    return 0


def _algorithms(args: argparse.Namespace) -> int:
    import dataclasses

    from arpo_algo import algorithms

    table = Table("name", "options (defaults)", "what it is", title="arpo_algo.make(name, **options)")
    for name in algorithms.list_algorithms():
        made = algorithms.make(name)
        values = ", ".join(f"{f.name}={getattr(made, f.name)!r}" for f in dataclasses.fields(made))  # type: ignore[arg-type]
        module = sys.modules[type(made).__module__]
        table.add_row(name, values, (module.__doc__ or "").splitlines()[0])
    console.print(table)
    return 0


def _config(args: argparse.Namespace) -> int:
    from arpo_algo import options
    from arpo_algo.config import RunConfig

    table = Table("key", "default", "meaning")
    for key, default, text in options.describe(RunConfig):
        table.add_row(key, default, text)
    console.print(table)
    return 0


def _sandbox(args: argparse.Namespace) -> int:
    import runpy

    sys.argv = ["arpo sandbox check"]
    runpy.run_module("arpo_env.sandbox", run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
