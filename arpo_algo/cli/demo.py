"""the main job: a real model learns to search, then the report"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from arpo_algo.cli._console import console
from arpo_algo.cli._runs import OVERRIDES, add_run_arguments, load_config, run_and_report

EPILOG = OVERRIDES
add_arguments = add_run_arguments


def run(args: argparse.Namespace) -> int:
    out = args.out or Path("runs/demo")
    config = load_config(args, Path(__file__).parent.parent / "configs" / "demo.toml")
    marker = out / "config.json"
    if marker.exists() and not args.resume:
        if (out / "report.html").exists():
            # `make demo` works twice in a row: the finished run is kept beside the new one.
            old = out.with_name(f"{out.name}-{int(marker.stat().st_mtime)}")
            out.rename(old)
            console.print(f"The finished run in {out} was moved to {old}.", markup=False)
        else:
            console.print(f"{out} holds a run that did not finish; starting afresh there.", markup=False)
            shutil.rmtree(out)
    return run_and_report(args, config, out)
