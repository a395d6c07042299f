"""list the algorithms and their options"""

from __future__ import annotations

import argparse
import dataclasses
import sys

from arpo_algo.cli._console import Table, console, escape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> None:
    from arpo_algo import algorithms

    table = Table("name", "options (defaults)", "what it is", title="arpo_algo.make(name, **options)")
    for name in algorithms.list_algorithms():
        made = algorithms.make(name)
        values = ", ".join(f"{f.name}={getattr(made, f.name)!r}" for f in dataclasses.fields(made))  # type: ignore[arg-type]
        module = sys.modules[type(made).__module__]
        table.add_row(name, escape(values), escape((module.__doc__ or "").splitlines()[0]))
    console.print(table)
