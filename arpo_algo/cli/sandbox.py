"""which isolation this machine gives, and what each layer closes"""

from __future__ import annotations

import argparse
import runpy
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["check"], nargs="?", default="check")


def run(args: argparse.Namespace) -> None:
    sys.argv = ["arpo sandbox check"]
    runpy.run_module("arpo_env.sandbox", run_name="__main__")
