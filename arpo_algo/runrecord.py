"""What a run folder says about its run: ``config.json`` while it runs, ``stopped.json`` when it stops by itself."""

from __future__ import annotations

import dataclasses
import platform
import secrets
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from arpo_algo import models
from arpo_algo.assembly import Position
from arpo_algo.config import RunConfig
from arpo_algo.guards import Alarm
from arpo_algo.versions import versions

_PACKAGES = ("arpo", "torch", "transformers", "gymnasium", "numpy", "reasoning-gym")


def run_record(
    config: RunConfig,
    before: Mapping[str, Any] | None,
    *,
    resumed_at: int | None,
    machine: Mapping[str, Any],
    questions: str,
) -> dict[str, Any]:
    """``config.json``. A continuation keeps when the run began, and says when it went on.

    Args:
        before: what stands there.
        resumed_at: training steps done when the run went on; None: it begins.
        machine: what this process computes on, and how.
        questions: their fingerprint (:func:`~arpo_algo.resume.fingerprint`).
    """
    old = before or {}
    now = _now()
    resumed = [] if resumed_at is None else [*old.get("resumed", []), {"at": now, "step": resumed_at}]
    return {
        "id": old.get("id") or secrets.token_hex(6),
        "config": config.to_dict(),
        "questions": questions,
        "seed": config.seed,
        "algorithm": config.algorithm.name,
        "env_id": config.env.id,
        "model": old.get("model") or {"name": config.model, "from": models.provenance(config.model)},
        "versions": versions(_PACKAGES),
        "machine": {"platform": platform.platform(), **machine},
        "started": old["started"] if old and resumed else now,
        "resumed": resumed,
        "command": sys.argv,
    }


def stop_record(
    reason: str,
    position: Position,
    *,
    newest: str | None,
    best: str | None,
    alarms: Sequence[Alarm],
    metrics: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """``stopped.json``: why, the last alarms and rows of metrics, and the checkpoints to go on from."""
    return {
        "reason": reason,
        "at": _now(),
        "position": dataclasses.asdict(position),
        "newest_checkpoint": newest,
        "best_checkpoint": best,
        "alarms": [dataclasses.asdict(a) for a in alarms[-20:]],
        "last_metrics": list(metrics[-5:]),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
