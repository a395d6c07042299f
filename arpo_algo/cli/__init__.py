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

from arpo_algo.cli._console import Console, escape
from arpo_algo.cli._intermixed import IntermixedParser
from arpo_algo.errors import TrainingError
from arpo_env.errors import ArpoEnvError

#: What the extra ``train`` brings; without it `pip install arpo` is the environments alone.
_OF_TRAIN = frozenset(
    {"torch", "transformers", "safetensors", "gguf", "rich", "tensorboard", "accelerate", "pydantic", "jinja2"}
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 done, 1 the run failed, 2 bad input, 130 interrupted)."""
    args = parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except (ArpoEnvError, TrainingError) as error:
        _complain(args.command, str(error))
        return 1 if isinstance(error, TrainingError) else 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _OF_TRAIN:
            raise
        _complain(args.command, f"needs {package}, which is not installed: pip install 'arpo[train]'")
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        return 130


def _complain(command: str, message: str) -> None:
    text = f"[bold red]arpo {command}:[/] {escape(message)}"
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def parser() -> argparse.ArgumentParser:
    """The parser of every command in this package."""
    top = argparse.ArgumentParser(
        prog="arpo", description="Train and evaluate language-model agents that use tools, with ARPO and its rivals."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=IntermixedParser)
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
