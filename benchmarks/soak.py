"""Hours of training steps on a tiny model, watched from inside: do memory, descriptors and processes stay flat?

    python -m benchmarks.soak --minutes 60 --out runs/soak

The policy is random, so its turns are replaced by tool calls and answers, drawn from what it wrote: sandbox forks,
searches, clones and failures go on for hours whatever the model learns. Needs no network and no downloaded model.
Rows go to OUT/soak.jsonl, a summary to the terminal and OUT/soak.json: the mean of each figure over the first and the
last quarter of the samples, the first ten percent (warming up) left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
import zlib
from pathlib import Path
from statistics import fmean
from typing import Any

import gymnasium

from arpo_algo import options
from arpo_algo.config import RunConfig
from arpo_algo.trainer import Trainer
from benchmarks.tinymodel import save_model

_TURNS = (
    "<think>x</think><python>import random\nvalues = list(range(1000))\nprint(sum(values), len(values))</python>",
    "<think>x</think><python>print(undefined)</python>",
    "<think>x</think><search>capital of the country</search>",
    "<think>x</think><answer>\\boxed{1}</answer>",
    "<think>x</think>",
)


class Busy(gymnasium.Wrapper[str, str, str, str]):
    """Plays a turn that the policy's text chooses, and rewards what its texts differ in."""

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        turn = _TURNS[zlib.crc32(action.encode("utf-8", "replace")) % len(_TURNS)]
        observation, reward, terminated, truncated, info = self.env.step(turn)
        return observation, float(reward) + len(action) % 3, terminated, truncated, info


def make_busy(env_id: str, **options: Any) -> gymnasium.Env[str, str]:
    return Busy(gymnasium.make(env_id, disable_env_checker=True, **options))


gymnasium.register("ARPO-Soak-v0", entry_point=make_busy)  # type: ignore[arg-type]


def sample() -> dict[str, float]:
    """Figures of this process and its children, from /proc."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    tree = descendants(os.getpid())
    return {
        "rss_mb": int(fields["VmRSS"].split()[0]) / 1024,
        "children_rss_mb": sum(_rss(pid) for pid in tree) / 1024,
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": int(fields["Threads"]),
        "processes": len(tree),
    }


def descendants(root: int) -> list[int]:
    """The processes below ``root``."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended meanwhile
    out: list[int] = []
    level = [root]
    while level:
        level = [pid for pid, parent in parents.items() if parent in level]
        out += level
    return out


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * (os.sysconf("SC_PAGE_SIZE") // 1024)
    except OSError:
        return 0


def settings(model: Path, args: argparse.Namespace) -> RunConfig:
    values: dict[str, Any] = {
        "model": str(model),
        "device": "cpu",
        "steps": 10**9,
        "save_every": 20,
        "threads": 1,
        "env": {"id": "ARPO-Soak-v0", "options": {"env_id": args.env, "tools": args.tools.split(",")}},
        "algorithm": {"name": "arpo", "options": {"M": 4, "N": 2, "k": 4}},
        "rollout": {"prompts": 2, "max_turn_tokens": 24, "max_tokens": 1800, "slots": 8, "workers": 4},
        "learner": {"lr": 1e-4, "precision": "float32", "pack_tokens": 8192},
        "eval": {"tasks": 4, "before": False, "every": 50},
        "guards": {"no_tools": "off"},
        "log": {"replay": False},
    }
    return options.load(RunConfig, options.override(values, args.overrides))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    parser.add_argument("--env", default="ARPO-DeepSearch-v0")
    parser.add_argument("--tools", default="search,python")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    model = save_model(args.out / "tiny-model")
    log = args.out / "soak.jsonl"
    begin = time.monotonic()
    trainer = Trainer(settings(model, args), args.out / "run")
    step_of = trainer.train_step

    def watched(*values: Any) -> dict[str, float]:
        metrics = step_of(*values)
        row = {"minutes": (time.monotonic() - begin) / 60, "step": trainer.step, **sample()}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for old in sorted((args.out / "run" / "trees").glob("train-*"))[:-10]:
            old.unlink()  # the disk is not what is tested
        if row["minutes"] >= args.minutes:
            trainer.interrupts.request_stop()
        return metrics

    trainer.train_step = watched  # type: ignore[method-assign,assignment]
    try:
        trainer.run()
    finally:
        trainer.close()
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    summary = summarise(rows)
    (args.out / "soak.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print(json.dumps(summary, indent=1))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """First against last quarter of what comes after the warm-up."""
    warm = rows[len(rows) // 10 :]
    quarter = max(1, len(warm) // 4)
    out: dict[str, Any] = {"minutes": rows[-1]["minutes"], "steps": rows[-1]["step"]}
    for key in ("rss_mb", "children_rss_mb", "descriptors", "threads", "processes"):
        first, last = (fmean(r[key] for r in part) for part in (warm[:quarter], warm[-quarter:]))
        out[key] = {"first": round(first, 2), "last": round(last, 2), "max": round(max(r[key] for r in warm), 2)}
    return out


if __name__ == "__main__":
    main()
