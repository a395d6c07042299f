"""Going on with a run: whether a folder's run is the one that is asked for, and which of its rows stay."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from arpo_algo import assembly, options
from arpo_algo.assembly import Position
from arpo_algo.checkpoint import CheckpointStore, order
from arpo_algo.config import RunConfig
from arpo_algo.errors import ConfigError
from arpo_algo.runfolder import LOGS, RunFolder
from arpo_env.tasks.base import TaskFamily, parse_task_id

#: What may differ between a run and its continuation: nothing that the weights depend on.
FREE_ON_RESUME = (
    "steps", "budget", "save_every", "keep", "keep_best", "device", "threads", "eval", "guards", "log",
    "rollout.workers", "rollout.tool_timeout", "rollout.actors", "rollout.actor_options", "learner.attention",
    "learner.keep_memory",
)  # fmt: skip
_FEW = 8  # training tasks that the fingerprint looks at


def claim(
    folder: RunFolder, store: CheckpointStore, config: RunConfig, family: TaskFamily, *, resume: bool
) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from (None: begin), and what there is to say about it.

    Raises:
        ConfigError: the folder holds another run, or one that may not be gone on with.
    """
    record = folder.read_config()
    if record is None:
        return None, []
    if not resume:
        if not (store.paths() or any(folder.rows(log) for log in LOGS)):
            folder.drop("config.json")
            return None, [f"the run that was set up in {folder.path} never began: its folder is taken over"]
        raise ConfigError(
            f"run folder {folder.path} already holds a run; add --resume to go on, or choose another --out"
        )
    try:
        before = options.load(RunConfig, record["config"])
    except ConfigError as error:
        raise ConfigError(f"--resume: the folder's configuration cannot be read by this release: {error}") from None
    changed = assembly.differences(_fixed(before), _fixed(config))
    if changed:
        raise ConfigError(
            f"--resume: the configuration differs from the run's in {'; '.join(changed)}. "
            "Start another run, or give the same values"
        )
    if record.get("questions") not in (None, fingerprint(family, before)):  # older releases did not write it
        raise ConfigError(
            f"--resume: the tasks are not those that the run began with (questions and answers of {family.name!r}: has "
            "its file changed?). Bring them back, or start another run"
        )
    point, said = store.newest()
    in_rl, done = order(point.name) if point else (0, 0)
    if in_rl and config.steps < done:
        raise ConfigError(f"--resume: the run stands at step {done} and steps={config.steps} is behind it; give more")
    if said:
        said.append(f"going on from {point.name}" if point else "no whole checkpoint is left: beginning again")
    return point, said


def _fixed(config: RunConfig) -> Any:
    """What must be the same in a continuation."""
    values = json.loads(json.dumps(config.to_dict()))
    for key in FREE_ON_RESUME:
        *sections, name = key.split(".")
        part = values
        for section in sections:
            part = part[section]
        part.pop(name, None)
    return values


def fingerprint(family: TaskFamily, config: RunConfig) -> str:
    """Of the questions and golds of the held-out tasks, and of the first training tasks if there is training.

    Ids do not tell: those of a file are places in an order that depends on its length alone.
    """
    ids = family.task_ids(config.env.eval_split, config.eval.task_seed, 0, config.eval.tasks)
    if config.steps:
        ids += family.task_ids("train", config.env.task_seed, 0, _FEW)
    if config.sft.steps:
        ids += family.task_ids("train", config.sft.task_seed, 0, _FEW)
    tasks = (family.task(seed, split, index) for _, split, seed, index in map(parse_task_id, ids))
    return hashlib.sha256(json.dumps([(t.question, t.answer) for t in tasks]).encode()).hexdigest()[:16]


def is_before(position: Position, log: str, row: Mapping[str, Any]) -> bool:
    """Whether a row of a log tells of what was done before ``position``; the others' steps are done again."""
    if row.get("phase") == "sft":
        return bool(row["step"] < position.sft)
    if "phase" in row or log == "alarms.jsonl":  # alarms of older releases name no phase
        return bool(row["step"] < position.step)
    if row["name"] == "cold start":
        return not position.in_sft
    return bool(row["step"] <= position.step)


def prune(folder: RunFolder, position: Position) -> None:
    """Drop the rows of what is done again from every log.

    Raises:
        TrainingError: the disk is full or fails.
    """
    _keep(folder, lambda log, row: is_before(position, log, row))


def forget(folder: RunFolder) -> None:
    """Nothing was saved: the rows of what is done again go, but for the untouched model's evaluation.

    Raises:
        TrainingError: the disk is full or fails.
    """
    _keep(folder, lambda log, row: row.get("name") == "before")


def _keep(folder: RunFolder, stays: Callable[[str, Mapping[str, Any]], bool]) -> None:
    for log in LOGS:
        if rows := folder.rows(log):
            folder.keep_rows(log, [row for row in rows if stays(log, row)])


def best_checkpoint(folder: RunFolder, config: RunConfig) -> str | None:
    """The checkpoint name of the best evaluation on the way (the earliest of equals), if any are made."""
    if not (config.keep_best and config.eval.every):
        return None
    rows = [r for r in folder.rows("eval.jsonl") if r["step"] > 0]
    found = max(rows, key=lambda r: (r["success"], -r["step"]), default=None)
    return None if found is None else Position(step=found["step"]).name
