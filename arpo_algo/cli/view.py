"""build a run's HTML report, serve it, or print its trees"""

from __future__ import annotations

import argparse
from pathlib import Path

from arpo_algo.cli._console import console, escape
from arpo_algo.errors import ConfigError

#: What a run's folder has at least one of.
_FILES = ("config.json", "metrics.jsonl", "eval.jsonl", "trees", ".lock")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="run folder")
    parser.add_argument("--serve", action="store_true", help="serve on loopback and follow a running run")
    parser.add_argument("--port", type=int, default=0, help="port for --serve (default: any free one)")
    parser.add_argument("--terminal", action="store_true", help="print the newest training trees in the terminal")


def run(args: argparse.Namespace) -> None:
    from arpo_algo.report.build import build_report
    from arpo_algo.report.data import read_run
    from arpo_algo.report.serve import serve
    from arpo_algo.report.terminal import render_tree

    if not args.folder.is_dir():
        raise ConfigError(f"run folder {str(args.folder)!r} is not there")
    if not any((args.folder / name).exists() for name in _FILES):
        raise ConfigError(f"{str(args.folder)!r} is no run's folder: `arpo train --out FOLDER` makes one")
    if args.terminal:
        files = sorted((args.folder / "trees").glob("*.jsonl.gz"))
        if not files:
            raise ConfigError(f"{args.folder} holds no trees yet")
        from arpo_algo.runfolder import read_trees

        k = read_run(args.folder).probe_tokens
        for tree in read_trees(files[-1]):
            console.print(render_tree(tree, k=k))
        return
    if args.serve:
        serve(args.folder, port=args.port)
        return
    console.print(f"Report: [bold]{escape(str(build_report(args.folder)))}[/]")
