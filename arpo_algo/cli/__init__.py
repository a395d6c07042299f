"""``arpo``: the command line. One module a command; adding a command is adding one file here.

A command module has a docstring (its first line is the help), ``add_arguments(parser)`` and ``run(args)``, which
returns the exit status or None. Its name is the module's, with ``-`` for ``_``; modules that begin with ``_`` are
shared pieces. Heavy imports belong inside ``run``, so that ``arpo --help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
from collections.abc import Sequence

from rich.console import Console

from arpo_algo.errors import ConfigError, TrainingError
from arpo_env.errors import ArpoEnvError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 done, 1 the run failed, 2 bad input)."""
    args = parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except (ConfigError, ArpoEnvError, TrainingError) as error:
        Console(stderr=True).print(f"[bold red]arpo {args.command}:[/] {error}", highlight=False, soft_wrap=True)
        return 1 if isinstance(error, TrainingError) else 2
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        return 130


def parser() -> argparse.ArgumentParser:
    """The parser of every command in this package."""
    top = argparse.ArgumentParser(
        prog="arpo", description="Train and evaluate language-model agents that use tools, with ARPO and its rivals."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{found.name}")
        description = inspect.cleandoc(module.__doc__ or "")
        sub = commands.add_parser(
            found.name.replace("_", "-"),
            help=description.splitlines()[0],
            description=description,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return top
