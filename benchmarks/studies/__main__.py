"""``python -m benchmarks.studies``: test the paper's claims by training, or on runs that are there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from arpo_algo.errors import ConfigError, TrainingError, unknown
from arpo_env.errors import ArpoEnvError
from benchmarks.studies.catalogue import STUDIES, Study

if TYPE_CHECKING:  # what brings torch along waits until there is something to do
    from benchmarks.studies.run import StudyResult

_TINY = Path(__file__).with_name("tiny.toml")
_EPILOG = """examples:
  python -m benchmarks.studies                                    the studies and their claims
  python -m benchmarks.studies where-to-fork --tiny --seeds 0 1 2     a tiny model in a tiny world, minutes
  python -m benchmarks.studies budget --config arpo_algo/configs/demo.toml --seeds 0 1 2 \\
      steps=1000 budget.minutes=none budget.trajectories=512
  python -m benchmarks.studies where-to-fork budget --from runs/sweep     judge a sweep that is there
The same command again goes on where it was stopped; studies of one configuration share the runs in --out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done (whatever the verdict), 1 a run stopped, 2 bad input, 130 interrupted."""
    args = parser().parse_intermixed_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        return _run(args, console)
    except (ConfigError, ArpoEnvError, TrainingError) as error:
        title = "[bold red]benchmarks.studies:[/] "
        Console(stderr=True).print(title + escape(str(error)), highlight=False, soft_wrap=True)
        return 1 if isinstance(error, TrainingError) else 2
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.studies",
        description="Studies that test the ARPO paper's claims.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "words", nargs="*", metavar="NAME | KEY=VALUE", help="studies (or all), and configuration values; none: list"
    )
    where = top.add_mutually_exclusive_group()
    where.add_argument("--config", type=Path, metavar="FILE", help="TOML file of the runs' configuration")
    where.add_argument("--tiny", action="store_true", help="a tiny model that learns in seconds (tiny.toml)")
    where.add_argument(
        "--from", type=Path, dest="source", metavar="FOLDER", help="judge the runs of this sweep; trains nothing"
    )
    top.add_argument("--seeds", type=int, nargs="+", help="default 0 1 2; with --from: all that are there")
    top.add_argument("--out", type=Path, metavar="FOLDER", help="default runs/studies, or runs/studies-tiny")
    return top


def _run(args: argparse.Namespace, console: Console) -> int:
    names = [w for w in args.words if "=" not in w]
    overrides = [w for w in args.words if "=" in w]
    if not names:
        _list(console)
        return 0
    studies = [STUDIES[n] for n in STUDIES] if names == ["all"] else [_study(n) for n in names]
    from benchmarks.studies.run import from_sweep, train

    out = args.out or Path("runs/studies-tiny" if args.tiny else "runs/studies")
    if args.source is not None:
        if overrides:
            raise ConfigError(f"--from judges runs as they are; leave out {' '.join(overrides)}")
        if out.resolve().is_relative_to(args.source.resolve()):
            raise ConfigError(f"--out {out} lies inside --from {args.source}, where nothing may be written")
        for study in studies:
            _tell(from_sweep(study, args.source, args.seeds), out, console)
        return 0
    from arpo_algo import options
    from arpo_algo.config import RunConfig
    from arpo_algo.sweep import names_questions

    values = _values(args, overrides, out)
    config, same = options.load(RunConfig, values), names_questions(values)
    for study in studies:
        console.rule(f"study {study.name}")
        done = train(study, config, args.seeds or [0, 1, 2], out / "runs", console, same_questions=same)
        _tell(done, out, console)
    return 0


def _study(name: str) -> Study:
    if name not in STUDIES:
        raise unknown("study", name, list(STUDIES))
    return STUDIES[name]


def _values(args: argparse.Namespace, overrides: Sequence[str], out: Path) -> dict[str, Any]:
    """The runs' configuration, not yet checked."""
    from arpo_algo import options

    if args.tiny:
        from benchmarks.studies.tiny import save_model

        model = (out / "tiny-model").resolve()
        if not (model / "config.json").exists():
            save_model(model)
        overrides = [f"model='{model}'", *overrides]
    elif args.config is None:
        raise ConfigError("which runs? Give --config FILE, --tiny, or --from FOLDER")
    return options.override(options.read(_TINY if args.tiny else args.config), overrides)


def _list(console: Console) -> None:
    table = Table("study", "question", "claim", "where", title="Studies", show_lines=True)
    for study in STUDIES.values():
        table.add_row(study.name, study.question, study.claim, study.source)
    console.print(table)


def _tell(result: StudyResult, out: Path, console: Console) -> None:
    from benchmarks.studies import words
    from benchmarks.studies.page import write

    page = write(result, out)
    table = Table(*words.COLUMNS, title=result.study.question)
    for finding in result.findings:
        table.add_row(*map(escape, words.cells(finding)), style=None if finding.contrast.decisive else "dim")
    console.print(table)
    for lost in result.missing:
        console.print(f"not there: {escape(lost)}", highlight=False)
    console.print(f"{result.study.name}: [bold]{result.verdict}[/] (page: {page})", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
