"""do a training step again, from its saved trees or from its seeds

`--update` (the default) runs the update of STEP from RUN/replay/train-STEP.jsonl.gz alone (a run made with
log.replay=true) and compares metrics and weights with what the run recorded; `--rollout` samples the step's trees
again from their seeds and compares them with the saved ones, with tools answering from the run's cassette alone where
it has one (env.options.cassette). Both need the checkpoint before the step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arpo_algo.cli._console import Table, console, escape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("step", type=int, metavar="STEP", help="training step, as in trees/train-000007")
    parser.add_argument("--update", action="store_true", help="the update from the saved trees")
    parser.add_argument("--rollout", action="store_true", help="the rollouts from their seeds")


def run(args: argparse.Namespace) -> int:
    """0: as recorded; 1: it differs."""
    from arpo_algo.replay import replay_rollout, replay_update

    same = True
    if args.rollout:
        out = replay_rollout(args.folder, args.step)
        console.print(f"{len(out.trees)} trees sampled; {out.same_trees} of {out.saved} saved ones are the same")
        if out.void_reason:
            console.print(f"a trajectory is void: {out.void_reason}", style="yellow", markup=False)
        same = out.same_trees == out.saved
    if args.update or not args.rollout:
        out = replay_update(args.folder, args.step)
        table = Table("metric", "recorded", "replayed", title=f"update of step {args.step}")
        for key, value in out.metrics.items():
            known = out.recorded.get(key)
            mark = "" if known == value else "[red]"
            table.add_row(escape(key), "" if known is None else f"{known:.6g}", f"{mark}{value:.6g}")
        console.print(table)
        if out.weights is not None:
            console.print(f"largest difference of a weight from the next checkpoint: {out.weights:.3g}")
        same = same and out.recorded == out.metrics and not out.weights
    return 0 if same else 1
