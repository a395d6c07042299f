"""What an update frees stays with the process; the user's own settings of the allocator win."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import config, quiet, save_model

from arpo_algo import trainer
from arpo_algo.allocator import keep_freed_memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")

PASSES = """
import resource
import numpy as np
from arpo_algo.allocator import keep_freed_memory

told = keep_freed_memory()

def run():  # 40 tensors of 64 MB, as a pass has them: more than 2 GiB are freed at once
    held = [np.ones(8 << 20) for _ in range(40)]

run()
run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
run()
print(int(told), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _passes(**environ: str) -> tuple[bool, int]:
    clean = {k: v for k, v in os.environ.items() if not (k.startswith("MALLOC_") or k == "GLIBC_TUNABLES")}
    done = subprocess.run(
        [sys.executable, "-c", PASSES], env=clean | environ, capture_output=True, text=True, check=True
    )
    told, faults = map(int, done.stdout.split())
    return bool(told), faults


@glibc
def test_a_pass_finds_the_pages_of_the_one_before() -> None:
    told, faults = _passes()
    left_alone, plain = _passes(MALLOC_ARENA_MAX_="4")  # any setting of the user's: ours are not made
    assert told
    assert not left_alone
    assert plain > 1_000  # 2.7 GB are 660,000 pages, or 1,280 where the kernel gives huge ones
    assert faults * 20 < plain


@pytest.mark.parametrize(
    "environ",
    [{"MALLOC_TOP_PAD_": "0"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=3"}, {"LD_PRELOAD": "libjemalloc.so.2"}],
)
def test_an_allocator_that_the_user_chose_is_left_alone(environ: dict[str, str]) -> None:
    assert not keep_freed_memory(environ)


def test_a_trainer_on_a_cpu_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, told = save_model(tmp_path / "model"), []
    monkeypatch.setattr(trainer, "keep_freed_memory", lambda: told.append(True))
    for wanted in (False, True):
        settings = config(model, **{"device": "cpu", "learner.keep_memory": wanted})
        trainer.Trainer(settings, tmp_path / str(wanted), console=quiet()).close()
        assert told == [True] * wanted
