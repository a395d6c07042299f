"""A whole run in seconds: a byte-level model of two layers, a toy environment; and ways to break it.

Runs that are to be killed live in children of a fork server that has imported everything already, so a run costs its
own work only. The moment of a kill is counted in function calls (of this project and of what writes files for it), not
in seconds: the same number is the same moment on a fast and on a busy machine, and every moment (cold start, rollout,
update, half-written checkpoint, evaluation) has its numbers.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import re
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch
import torch.distributed as dist
from rich.console import Console
from toy import byte_tokenizer, toy_env
from transformers import AutoConfig, AutoModelForCausalLM

from arpo_algo import engines, options
from arpo_algo.config import RunConfig
from arpo_algo.errors import TrainingError
from arpo_algo.runfolder import read_rows
from arpo_algo.trainer import Trainer

engines.list_engines()  # imports them once, in the fork server


class ByLength(gymnasium.Wrapper[str, str, str, str]):
    """Random bytes never answer well; reward something they do differ in."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, float(len(action) % 5), terminated, truncated, info


def make_env(**kwargs: Any) -> gymnasium.Env[str, str]:
    return ByLength(toy_env(**kwargs))


if "TinyRun-v0" not in gymnasium.registry:
    gymnasium.register("TinyRun-v0", entry_point=make_env)


def save_model(folder: Path, seed: int = 0, **sizes: int) -> Path:
    """A random model with its tokenizer; ``sizes`` replace those of its configuration."""
    usual = {
        "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024, "pad_token_id": 0,
        "bos_token_id": 256, "eos_token_id": 257, "initializer_range": 0.1,
    }  # fmt: skip
    config = AutoConfig.for_model("llama", **{**usual, **sizes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


VALUES: dict[str, Any] = {
    "device": "cpu",
    "steps": 3,
    "save_every": 1,
    "env": {"id": "TinyRun-v0"},
    "algorithm": {"name": "arpo", "options": {"M": 4, "N": 2, "k": 4}},
    "rollout": {"prompts": 2, "max_turn_tokens": 10, "max_tokens": 700, "slots": 8, "workers": 2},
    "learner": {"lr": 1e-2, "precision": "float32", "warmup_steps": 2},
    "sft": {"steps": 0, "batch": 2, "lr": 1e-2},
    "eval": {"tasks": 2, "before": False},
    "log": {"boards": []},
}
#: Every kind of phase: cold start, three evaluations, checkpoints, two steps.
EVERYTHING = {
    "steps": 3, "sft.steps": 2, "eval.before": True, "eval.every": 2, "algorithm.options.kl_coef": 0.05,
    "algorithm.options.kl_in": "loss",
}  # fmt: skip


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Where two outcomes differ, for a message that can be read."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for k in {**a, **b} for d in differences(a.get(k), b.get(k), f"{at}.{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{at}[{i}]")]
    return [] if a == b else [f"{at}: {a!r} != {b!r}"]


def config(folder: Path, /, **changes: Any) -> RunConfig:
    """``changes``: dotted keys."""
    values = {**VALUES, "model": str(folder)}
    return options.load(RunConfig, options.override(values, [f"{k}={json.dumps(v)}" for k, v in changes.items()]))


def quiet() -> Console:
    return Console(file=io.StringIO())


def run(out: Path, settings: RunConfig, *, resume: bool = True) -> dict[str, torch.Tensor]:
    """Run to the end; the weights."""
    trainer = Trainer(settings, out, resume=resume, console=quiet())
    try:
        trainer.run()
        return {k: v.detach().clone() for k, v in trainer.model.state_dict().items()}
    finally:
        trainer.close()


def outcome(out: Path) -> dict[str, Any]:
    """What a finished run came to: the final weights as bytes, and every logged number but times."""

    def rows(name: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in read_rows(out / name)]

    last = sorted((out / "checkpoints").glob("step-*"))[-1]
    return {
        "name": last.name,
        "weights": hashlib.sha256((last / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "optimizer": hashlib.sha256((last / "optimizer.pt").read_bytes()).hexdigest(),
        "metrics": rows("metrics.jsonl"),
        "eval": rows("eval.jsonl"),
    }


# ------------------------------------------------------------------ children


_COUNTED = re.compile(r"arpo_algo/|/pathlib|/shutil|/tempfile|torch/serialization|safetensors/")


def count_calls(limit: int | None) -> list[int]:
    """Count calls in the main thread from now on; SIGKILL at number ``limit`` (0: nothing is counted, faster)."""
    calls = [0]

    def profile(frame: Any, event: str, arg: Any) -> None:
        if event in ("call", "c_call") and _COUNTED.search(frame.f_code.co_filename):
            calls[0] += 1
            if calls[0] == limit:
                os.kill(os.getpid(), signal.SIGKILL)

    if limit != 0:
        sys.setprofile(profile)
    return calls


@dataclass(frozen=True)
class Ending:
    """How a child ended: the calls its run made, None when it was killed; what it said when it stopped by itself."""

    calls: int | None
    said: str = ""


def _child(
    out: str,
    model: str,
    changes: dict[str, Any],
    kill_at: int | None,
    report: str,
    environ: dict[str, str],
    rank: int,
    meet: str | None,
) -> None:
    """A run, or (``meet``) one of the two processes of one."""
    os.environ.update(environ)
    torch.set_num_threads(1)
    if meet is not None:
        os.environ["WORLD_SIZE"] = "2"
        dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    settings = config(Path(model), **changes)
    calls = count_calls(kill_at)
    said = ""
    try:
        run(Path(out), settings)
    except TrainingError as error:
        said = str(error)
    finally:
        sys.setprofile(None)
    Path(report).write_text(json.dumps({"calls": calls[0], "said": said}))


def forkserver() -> Any:
    """A multiprocessing context whose children begin with this module imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_run"])
    # Python 3.11 hands the server no search path; without it the preload fails in silence.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*map(str, sys.path), before]))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


class Children:
    """Runs in processes of their own."""

    def __init__(self) -> None:
        self._context = forkserver()

    def run(
        self,
        out: Path,
        model: Path,
        changes: dict[str, Any],
        kill_at: int | None = None,
        environ: dict[str, str] | None = None,
    ) -> int | None:
        """A run that resumes whatever is in ``out``; the number of calls it made, or None when it was killed."""
        child, report = self._start(out, model, changes, kill_at, environ or {})
        child.join()
        ending = self._ending(child, report)
        assert not ending.said, ending.said
        return ending.calls

    def pair(
        self,
        out: Path,
        model: Path,
        changes: dict[str, Any],
        kill_at: tuple[int | None, int | None] = (None, None),
        *,
        both: bool = False,
    ) -> list[Ending]:
        """The same by two processes; ``both``: when one dies, the other is killed too."""
        with tempfile.TemporaryDirectory() as meet:
            started = [
                self._start(out, model, changes, kill_at[rank], {}, rank=rank, meet=f"{meet}/store") for rank in (0, 1)
            ]
            children = [child for child, _ in started]
            multiprocessing.connection.wait([child.sentinel for child in children])
            if both and any(child.exitcode == -signal.SIGKILL for child in children):
                for child in children:
                    child.kill()
            for child in children:
                child.join(timeout=200)
                if child.exitcode is None:
                    child.kill()
                    raise AssertionError("a process waits for one that is dead")
            return [self._ending(child, report) for child, report in started]

    def _start(
        self,
        out: Path,
        model: Path,
        changes: dict[str, Any],
        kill_at: int | None,
        environ: dict[str, str],
        rank: int = 0,
        meet: str | None = None,
    ) -> tuple[Any, Path]:
        report = out.with_name(f"{out.name}.ending-{rank}")
        report.unlink(missing_ok=True)
        arguments = (str(out), str(model), changes, kill_at, str(report), environ, rank, meet)
        child = self._context.Process(target=_child, args=arguments)
        child.start()
        return child, report

    @staticmethod
    def _ending(child: Any, report: Path) -> Ending:
        if child.exitcode == -signal.SIGKILL:
            return Ending(None)
        assert child.exitcode == 0, f"the run died by itself: exit code {child.exitcode}"
        return Ending(**json.loads(report.read_text()))
