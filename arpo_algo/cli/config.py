"""list every configuration key with its default and meaning"""

from __future__ import annotations

import argparse

from rich.table import Table

from arpo_algo.cli._runs import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> None:
    from arpo_algo import options
    from arpo_algo.config import RunConfig

    table = Table("key", "default", "meaning")
    for key, default, text in options.describe(RunConfig):
        table.add_row(key, default, text)
    console.print(table)
