"""cold start only: imitate the experts, then save"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from arpo_algo.cli._console import console, escape
from arpo_algo.cli._runs import OVERRIDES, add_run_arguments, load_config, status, summary
from arpo_algo.errors import ConfigError

EPILOG = OVERRIDES
add_arguments = add_run_arguments


def run(args: argparse.Namespace) -> int:
    from arpo_algo.trainer import Trainer

    config = load_config(args)
    if not config.sft.steps:
        raise ConfigError("arpo sft needs sft.steps >= 1, e.g. `arpo sft sft.steps=30`")
    config = dataclasses.replace(config, steps=0)
    trainer = Trainer(config, args.out or Path("runs/sft"), resume=args.resume, console=console)
    try:
        results = trainer.run()
        saved = trainer.save()
    finally:
        trainer.close()
    summary(results)
    console.print(f"Model: [bold]{escape(str(saved / 'model'))}[/]")
    return status(trainer)
