"""The clone law by hypothesis: random programs, cloned at random points, have equal futures and never meet."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Box

#: Every step keeps state of another kind, and shows it.
STEPS = [
    "x = x * 31 + 7; x % 1000003",
    "import random; random.random()",
    "random.shuffle(items); items",
    "items.append(len(items)); items",
    "next(gen)",
    "step()",
    "log.write(str(x)); log.flush(); log.tell()",
    "open('log').read()",
    "import os; os.makedirs(f'd{len(items)}', exist_ok=True); sorted(os.listdir('.'))",
    "os.chdir('/home/agent/work' if os.path.isdir('/home/agent/work') else os.environ['HOME']); os.getcwd()",
    "import numpy as np; float(np.random.rand())",
    "rng.integers(1000)",
    "table[x % 7] = table.get(x % 7, 0) + 1; table",
    "1 / (x % 3)",
    "os.getcwd()",
    "keep.write(b'z'); keep.seek(0); keep.read()",
    # three pages of a file, mapped to be written, to be read, and privately (where only what was written stays)
    "grid[0] += 1; grid[600] += 2; float(grid.sum())",
    "float(view.sum()), np.load('grid.npy')[[0, 600, 1200]].tolist()",
    "own[600] += 1; own[[0, 600, 1200]].tolist()",
]
START = (
    "import os, random, tempfile\nimport numpy as np\n"
    "x, items, table = 1, [1, 2, 3], {}\n"
    "gen = (i * i for i in range(10**6))\n"
    "def make():\n    n = 0\n    def step():\n        nonlocal n\n        n += 1\n        return n\n    return step\n"
    "step = make()\nlog = open('log', 'w')\nkeep = tempfile.TemporaryFile()\nrng = np.random.default_rng(3)\n"
    "np.save('grid.npy', np.arange(1500.0))\n"
    "grid, view, own = (np.load('grid.npy', mmap_mode=mode) for mode in ('r+', 'r', 'c'))"
)
program = st.lists(st.sampled_from(STEPS), max_size=5)
few = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _law(box: Box, before: list[str], after: list[str], apart: list[str]) -> None:
    original = box.session(seed=9)
    assert original.run(START).ok
    for cell in before:
        original.run(cell)
    clone, control = original.fork(), original.fork()
    for cell in apart:  # what one of them does the others never see
        control.run(cell)
    ran = [original.run(cell) for cell in after]
    assert [clone.run(cell) for cell in after] == ran
    grandchild = clone.fork()
    assert [grandchild.run(cell) for cell in apart] == [original.run(cell) for cell in apart]
    for session in (original, clone, control, grandchild):
        session.close()


@given(before=program, after=program, apart=program)
@few
def test_clone_law(box: Box, before: list[str], after: list[str], apart: list[str]) -> None:
    _law(box, before, after, apart)


@pytest.mark.slow
@given(before=program, after=program, apart=program)
@settings(few, max_examples=200)
def test_clone_law_at_length(box: Box, before: list[str], after: list[str], apart: list[str]) -> None:
    _law(box, before, after, apart)
