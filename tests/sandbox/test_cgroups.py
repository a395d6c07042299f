"""The control group around a sandbox: everything is in it, or it is not claimed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from arpo_env.errors import ToolUnavailable
from arpo_env.sandbox import cgroups
from arpo_env.sandbox.factory import why_not
from arpo_env.sandbox.local import LocalSandbox

from .conftest import LIMITS, descendants


@pytest.fixture
def delegated() -> Path:
    """The directory that groups are made in here."""
    group = cgroups.create(LIMITS)
    if group is None:
        pytest.skip("no control group is delegated here")
    group.remove()
    return group.path.parent


def _own(parent: Path) -> set[Path]:
    """The groups of this process: others may come and go meanwhile."""
    return set(parent.glob(f"arpo-sandbox-{os.getpid()}-*"))


@pytest.mark.parametrize("tier", ["bubblewrap", "namespaces"])
def test_every_process_of_a_sandbox_is_in_its_group(tier: str, delegated: Path) -> None:
    if reason := why_not(tier):
        pytest.skip(f"{tier}: {reason}")
    sandbox = LocalSandbox(tier, preload=(), limits=LIMITS)
    try:
        session = sandbox.session(seed=0)
        session.run("import subprocess\np = subprocess.Popen(['sleep', '100'])")
        clone = session.fork()
        group = sandbox._group
        assert group is not None
        assert group.path.parent == delegated
        inside = {int(line) for line in (group.path / "cgroup.procs").read_text().split()}
        top = sandbox.server()._transport._process.pid  # type: ignore[attr-defined]
        everybody = {top, *descendants(top)}
        assert len(everybody) >= 6  # the tier's own, the supervisor, the warm interpreter, two sessions and a program
        assert everybody == inside
        assert clone.run("1 + 1").output == "2\n"
    finally:
        sandbox.close()
    assert not group.path.exists()


def test_a_group_that_nobody_can_enter_is_not_claimed(delegated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _own(delegated)
    monkeypatch.setattr(cgroups, "_ENTER", 'echo $$ > "$0/refused" && exec "$@"')
    assert cgroups.create(LIMITS) is None
    assert _own(delegated) == before


def test_a_command_that_cannot_enter_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    command = cgroups.Group(tmp_path / "gone", "").around(["touch", str(mark)])
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != 0
    assert not mark.exists()


def test_a_sandbox_that_cannot_start_leaves_no_group(delegated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no more processes")

    before = _own(delegated)
    monkeypatch.setattr("arpo_env.sandbox.local._start_process", refuse)
    with pytest.raises(ToolUnavailable, match="no more processes"):
        LocalSandbox("namespaces", preload=()).session(seed=0)
    assert _own(delegated) == before
