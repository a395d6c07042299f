"""success of a model on held-out tasks"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from arpo_algo.cli._runs import OVERRIDES, add_run_arguments, console, load_config, summary

EPILOG = OVERRIDES
add_arguments = add_run_arguments


def run(args: argparse.Namespace) -> None:
    from arpo_algo.trainer import Trainer

    config = load_config(args)
    config = dataclasses.replace(config, steps=0, sft=dataclasses.replace(config.sft, steps=0))
    trainer = Trainer(config, args.out or Path("runs/eval"), resume=args.resume, console=console)
    try:
        result = trainer.evaluate(config.model)
    finally:
        trainer.close()
    summary([result])
