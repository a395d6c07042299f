"""Tiers as fixtures: every test that takes ``box`` runs on each; a tier this machine lacks is skipped by name."""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from arpo_env.errors import ToolUnavailable
from arpo_env.sandbox import Limits, SandboxSession
from arpo_env.sandbox.factory import why_not
from arpo_env.sandbox.local import LocalSandbox, ServerSandbox

SECRET = "canary-5f3a"
LIMITS = Limits(seconds=10.0, memory_bytes=256 * 2**20, file_bytes=4 * 2**20, processes=12)


@dataclass
class Box:
    """One running tier, a secret on the host, and what an honest session must still be able to do."""

    name: str
    sandbox: ServerSandbox
    secret_file: Path

    def session(self, seed: int = 0) -> SandboxSession:
        return self.sandbox.session(seed=seed)

    def honest(self) -> None:
        """The next honest session works: state, files, fork."""
        session = self.session(seed=1)
        assert session.run("x = 20\nopen('note', 'w').write('kept')\nx + 1").output == "21\n"
        clone = session.fork()
        assert clone.run("x + 2, open('note').read()").output == "(22, 'kept')\n"
        session.close()
        clone.close()

    def counts(self) -> dict[str, int]:
        """Sessions, processes and zombies inside, after forgotten sessions have been collected."""
        gc.collect()
        return self.sandbox.server().call("ping", 10.0)

    def settle(self, key: str, at_most: int) -> None:
        """Wait until there are no more than ``at_most``: the dying take a moment. Fails after 20 seconds."""
        deadline = time.monotonic() + 20
        while (now := self.counts()[key]) > at_most:
            assert time.monotonic() < deadline, f"{now} {key}, expected at most {at_most}"
            time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``, as the host sees them."""
    found, todo = [], [pid]
    while todo:
        current = todo.pop()
        for path in Path(f"/proc/{current}/task").glob("*/children"):
            try:
                children = [int(x) for x in path.read_text().split()]
            except OSError:
                continue
            found += children
            todo += children
    return found


def _make(name: str) -> ServerSandbox:
    preload = ("numpy",)
    if name == "docker":
        if reason := os.environ.get("ARPO_DOCKER_SKIPPED"):
            pytest.skip(f"docker: {reason}")
        try:
            from arpo_env.sandbox.docker import DockerSandbox

            sandbox = DockerSandbox(limits=LIMITS, preload=preload)
            sandbox.server()
        except ToolUnavailable as error:
            pytest.skip(f"docker: {error}")
        return sandbox
    shared = name.endswith("-shared")
    tier = name.removesuffix("-shared")
    if shared and os.geteuid() != 0:
        pytest.skip(f"{name}: an ordinary user's sessions share one user id in every local tier")
    if reason := why_not(tier):
        pytest.skip(f"{tier}: {reason}")
    return LocalSandbox(tier, limits=LIMITS, preload=preload, own_users=not shared)


# bubblewrap and namespaces differ only in who builds the namespaces, so the quick part takes the one that is there.
_SECOND = [pytest.mark.slow] if shutil.which("bwrap") else []
TIERS = [
    "bubblewrap",
    "namespaces-shared",
    pytest.param("namespaces", marks=_SECOND),
    pytest.param("docker", marks=pytest.mark.docker),
]


@pytest.fixture(scope="session", params=TIERS)
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("host")
    folder.chmod(0o755)
    secret = folder / "secret.txt"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    before = os.environ.get("ARPO_TEST_SECRET")
    os.environ["ARPO_TEST_SECRET"] = SECRET
    sandbox = None
    try:
        sandbox = _make(request.param)
        yield Box(request.param, sandbox, secret)
    finally:
        if sandbox is not None:
            sandbox.close()
        if before is None:
            del os.environ["ARPO_TEST_SECRET"]
