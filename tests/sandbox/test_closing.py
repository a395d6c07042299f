"""Sessions that end at an awkward moment, or never begin: nothing of them stays."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from arpo_env.errors import InfraError, ToolUnavailable
from arpo_env.sandbox import SandboxSession, factory
from arpo_env.sandbox.client import _Call
from arpo_env.sandbox.inside import tree, wire
from arpo_env.sandbox.inside.supervisor import RESERVE
from arpo_env.sandbox.local import LocalSandbox

from .conftest import LIMITS, Box, descendants


@pytest.fixture
def own() -> Iterator[Box]:
    """A sandbox of this test's own, on the strongest tier here."""
    try:
        name = factory.choose()
    except ToolUnavailable as error:
        pytest.skip(str(error))
    sandbox = LocalSandbox(name, preload=(), limits=LIMITS)
    yield Box(name, sandbox, Path())
    sandbox.close()


def _held(box: Box) -> dict[str, int]:
    counts = box.counts()
    return {key: counts[key] for key in ("sessions", "births", "processes", "descriptors")}


def _settles(box: Box, expected: dict[str, int]) -> None:
    deadline = time.monotonic() + 10
    while (now := _held(box)) != expected:
        assert time.monotonic() < deadline, f"{now}, expected {expected}"
        time.sleep(0.02)


@contextlib.contextmanager
def _nothing_left(box: Box) -> Iterator[dict[str, int]]:
    """What the sandbox held before; afterwards it holds that again, and still tells the truth."""
    box.honest()
    box.settle("sessions", 0)
    before = _held(box)
    yield before
    _settles(box, before)
    box.honest()


def _at_once(box: Box, *orders: dict[str, Any]) -> list[_Call]:
    """Send the orders in one piece, so that the supervisor has heard all before anything else happens."""
    server = box.sandbox.server()
    calls = [_Call() for _ in orders]
    frames = b""
    for call, order in zip(calls, orders, strict=True):
        number = next(server._ids)
        server._calls[number] = call
        frames += wire.pack({"id": number, **order})
    server._transport.send(frames)
    return calls


def _reply(call: _Call) -> dict[str, Any]:
    assert call.lock.acquire(timeout=10), "no answer"
    assert call.reply is not None
    return call.reply


def _sid(session: SandboxSession) -> int:
    sid: int = session._sid  # type: ignore[attr-defined]
    session._open = False  # type: ignore[attr-defined]
    return sid


def test_closing_while_a_cell_runs(box: Box) -> None:
    with _nothing_left(box) as before:
        for _ in range(2):
            session = box.session()
            with ThreadPoolExecutor(1) as pool:
                code = "import os, time\nos.fork()\ntime.sleep(100)"
                answer = pool.submit(session.run, code, seconds=3.0)  # enough to be seen running, on a busy machine too
                while box.counts()["processes"] < before["processes"] + 2:
                    assert not answer.done(), answer.result()
                    time.sleep(0.005)
                session.close()
                with pytest.raises(InfraError, match="closed while its cell ran"):
                    answer.result()
        time.sleep(4.0)  # the cells' time and their grace are over: nobody may be given a fresh interpreter


def test_closing_while_a_fork_is_on_its_way(box: Box) -> None:
    with _nothing_left(box):
        session = box.session()
        session.run("x = 1")
        sid = _sid(session)
        fork, close, fresh, gone = _at_once(
            box, {"op": "fork", "sid": sid, "new": 2**40}, {"op": "close", "sid": sid},
            {"op": "new", "sid": 2**40 + 1, "seed": 0, "limits": _limits()}, {"op": "close", "sid": 2**40},
        )  # fmt: skip
        assert "closed while it was forked" in _reply(fork)["error"]
        assert "error" not in _reply(close)
        assert "error" not in _reply(fresh)
        assert "error" not in _reply(gone)
        box.sandbox.server().call("close", 10, sid=2**40 + 1)


def test_closing_while_the_interpreter_is_replaced(box: Box) -> None:
    with _nothing_left(box) as before:
        session = box.session()
        session.run("import os, threading\nthreading.Timer(0.05, os._exit, [1]).start()")
        box.settle("processes", before["processes"])
        box.counts()  # one more turn of its loop: by now it knows
        sid = _sid(session)
        run, close, fresh = _at_once(
            box, {"op": "run", "sid": sid, "code": "1", "seconds": 5}, {"op": "close", "sid": sid},
            {"op": "new", "sid": 2**40 + 2, "seed": 0, "limits": _limits()},
        )  # fmt: skip
        assert "closed while its interpreter was replaced" in _reply(run)["error"]
        assert "error" not in _reply(close)
        assert "error" not in _reply(fresh), "the fork on its way used up what the next one was granted"
        box.sandbox.server().call("close", 10, sid=2**40 + 2)


def _limits() -> dict[str, Any]:
    return {name: getattr(LIMITS, name) for name in LIMITS.__slots__}


def _supervisor(box: Box) -> int:
    top = box.sandbox.server()._transport._process.pid  # type: ignore[attr-defined]
    for pid in descendants(top):
        spaces = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("NSpid:"))
        if spaces.split()[-1] == "1":
            return pid
    raise AssertionError("no process 1 inside")


def _mounts(box: Box) -> int:
    """Places that are mounted: one is made ahead, in a quiet moment."""
    lines = Path(f"/proc/{_supervisor(box)}/mountinfo").read_text().splitlines()
    return sum(line.split()[4].startswith("/roots/") and line.split()[4].endswith("/home/agent") for line in lines)


class _Limited:
    """The supervisor may hold ``count`` descriptors for as long as the block lasts."""

    def __init__(self, box: Box, count: int) -> None:
        self._pid, self._count = _supervisor(box), count

    def __enter__(self) -> None:
        self._before = resource.prlimit(self._pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, (self._count, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._before)


def test_refused_sessions_and_forks_leave_nothing(own: Box) -> None:
    parent = own.session()
    parent.run("x = 1")
    own.session().close()
    time.sleep(0.1)
    before, mounts = _held(own), _mounts(own)
    with _Limited(own, 48):
        kept: list[SandboxSession] = []
        with contextlib.suppress(InfraError):
            while len(kept) < 30:
                kept.append(own.session())
        assert 4 <= len(kept) < 30
        assert own.counts()["descriptors"] <= 48 - RESERVE  # room for the supervisor's own work
        for _ in range(10):
            with pytest.raises(InfraError, match="descriptors"):
                own.session()
            with pytest.raises(InfraError, match="descriptors"):
                parent.fork()
        assert parent.run("x += 1\nx").output == "2\n"  # a refused fork did not stop it
        # What is open goes on working, at the very bound: run, be killed, be replaced.
        assert kept[0].run("import os\nos._exit(1)").status == "killed"
        assert kept[0].run("1 + 1").output == "2\n"
        for session in kept:
            session.close()
        clone = parent.fork()
        assert clone.run("x").output == "2\n"
        clone.close()
    _settles(own, before)
    time.sleep(0.1)
    assert _mounts(own) == mounts
    own.honest()


def test_a_replacement_that_fails_is_an_error_and_harms_nobody(own: Box) -> None:
    """Its places, and with them their user ids, are given to others; closing it later must not close those."""
    lost = own.session()
    if not own.sandbox.server().features["own_users"]:
        pytest.skip("sessions share one user id here")
    user = lost.run("import os, threading\nthreading.Timer(0.05, os._exit, [1]).start()\nos.getuid()").output
    who = "import os\nx = 7\nos.getuid()"
    own.settle("processes", 1)
    own.counts()
    before = _held(own)
    with _Limited(own, before["descriptors"]), pytest.raises(InfraError, match="no fresh interpreter"):
        lost.run("1")
    for session in [own.session() for _ in range(12)]:
        session.close()
    others: list[SandboxSession] = []
    while not others or others[-1].run(who).output != user:
        assert len(others) < 40, "the user id was not used again"
        others.append(own.session())
    others += [own.session() for _ in range(3)]  # the place that it was to be given came back right after its first
    for session in others:
        session.run(who)
    lost.close()
    assert [session.run("x").output for session in others] == ["7\n"] * len(others)
    for session in others:
        session.close()
    _settles(own, {**before, "sessions": 0, "descriptors": before["descriptors"] - 2})


def test_the_supervisor_takes_all_descriptors_it_may_and_sessions_do_not() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 512:
        pytest.skip(f"only {hard} descriptors allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    try:
        name = factory.choose()
    except ToolUnavailable as error:
        pytest.skip(str(error))
    else:
        sandbox = LocalSandbox(name, preload=(), limits=LIMITS)
        session = sandbox.session(seed=0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert resource.prlimit(_supervisor(Box(name, sandbox, Path())), resource.RLIMIT_NOFILE) == (hard, hard)
        look = "import resource\nresource.getrlimit(resource.RLIMIT_NOFILE)"
        assert session.run(look).output == "(256, 256)\n"
        assert session.fork().run(look).output == "(256, 256)\n"
    finally:
        sandbox.close()


def test_a_refused_copy_of_files_leaves_no_descriptors(box: Box) -> None:
    session = box.session()
    session.run(
        "import os\nfor i in range(40):\n    open(f'f{i}', 'w').close()\n    os.link(f'f{i}', f'g{i}')\n"
        f"for i in range({tree.MAX_DEPTH + 2}):\n    os.mkdir('d')\n    os.chdir('d')\n"
    )
    before = box.counts()["descriptors"]
    for _ in range(3):
        with pytest.raises(InfraError, match="cannot be cloned"):
            session.fork()
    assert box.counts()["descriptors"] == before
    session.close()
