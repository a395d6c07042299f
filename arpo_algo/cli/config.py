"""list every configuration key with its default and meaning

Each key stands whole in a terminal; piped, a key is a line: KEY, DEFAULT and MEANING with tabs between.
"""

from __future__ import annotations

import argparse

from arpo_algo.cli._console import Table, console, escape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> None:
    from arpo_algo import options
    from arpo_algo.config import RunConfig

    rows = list(options.describe(RunConfig))
    if not console.is_terminal:  # for grep and cut
        for row in rows:
            print(*row, sep="\t")
        return
    table = Table()
    table.add_column("key", no_wrap=True)  # what is copied from here must be whole
    table.add_column("default", overflow="fold")
    table.add_column("meaning", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
