"""cold start (if asked for), RL, evaluation"""

from __future__ import annotations

import argparse
from pathlib import Path

from arpo_algo.cli._runs import OVERRIDES, add_run_arguments, load_config, run_and_report

EPILOG = OVERRIDES
add_arguments = add_run_arguments


def run(args: argparse.Namespace) -> int:
    return run_and_report(args, load_config(args), args.out or Path("runs/train"))
