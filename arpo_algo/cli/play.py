"""step through one episode in the terminal, as a person or with a model"""

from __future__ import annotations

import argparse

from arpo_algo.cli._console import console
from arpo_algo.cli._intermixed import METAVAR


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("env", nargs="?", default="ARPO-DeepSearch-v0", help="environment id")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="let this model play (name or folder); without: you type the turns")
    parser.add_argument("--expert", action="store_true", help="let the task's scripted expert play")
    parser.add_argument("options", nargs="*", metavar=METAVAR, help="options of the environment")


def run(args: argparse.Namespace) -> int:
    from arpo_algo.play import play

    return play(console, args.env, args.seed, args.options, model=args.model, expert=args.expert)
