"""success of a model on held-out tasks

A published checkpoint (by the last part of its name) is run with the prompt, sampling and budgets it is meant for; what
the configuration says goes first. See arpo_algo/presets.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arpo_algo.cli._console import console
from arpo_algo.cli._runs import OVERRIDES, add_run_arguments, load_config, summary

EPILOG = OVERRIDES
#: Environments that have a search tool without being given one.
_SEARCHING = ("ARPO-DeepSearch-v0", "ARPO-Web-v0", "ARPO-WebReplay-v0")
_NO_TRAINING = ("steps=0", "sft.steps=0")
add_arguments = add_run_arguments


def run(args: argparse.Namespace) -> None:
    from arpo_algo import presets
    from arpo_algo.trainer import Trainer

    config = load_config(args, last=_NO_TRAINING)
    preset = presets.find(config.model)
    if preset is not None:
        searches = config.env.id in _SEARCHING or config.env.options.get("search") is not None
        config = load_config(args, defaults=preset.config(search=searches), last=_NO_TRAINING)
        text = f"Run as {preset.checkpoint} is meant to be (prompt {preset.prompt!r}, {preset.sampling})."
        console.print(text, markup=False)
    trainer = Trainer(config, args.out or Path("runs/eval"), resume=args.resume, console=console)
    try:
        result = trainer.evaluate(config.model)
    finally:
        trainer.close()
    summary([result])
