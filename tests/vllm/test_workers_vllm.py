"""vLLM in process with workers of its own: one is killed, the engine names it, and none is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_llama

pytestmark = pytest.mark.slow


def test_a_killed_worker_is_named_and_none_is_left(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("vLLM's CPU build wants a core for each worker, this machine has one")
    tiny_llama.save(tmp_path / "model")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}|{cores[1]}",
        "VLLM_LOGGING_LEVEL": "CRITICAL",
    }
    command = [sys.executable, str(Path(__file__).with_name("two_workers.py")), str(tmp_path / "model")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    workers, (stepping, loading) = map(json.loads, done.stdout.splitlines()[-2:])
    assert f"vLLM's worker process VllmWorker-1 (pid {workers[1]}, killed by SIGKILL) is gone" in stepping
    assert "resume the run" in stepping
    assert f"(pid {workers[1]}, killed by SIGKILL) is gone" in loading
    for pid in workers:
        assert not Path(f"/proc/{pid}").exists(), "an orphan"
