"""The host's side: choosing a tier, sharing one server, surviving its death, leaving nothing behind."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.sandbox import Limits, factory, make_sandbox, shared_sandbox
from arpo_env.sandbox.base import ExecResult, Sandbox, SandboxSession
from arpo_env.sandbox.check import describe_tiers, table
from arpo_env.sandbox.inside.capture import Capture
from arpo_env.sandbox.local import LocalSandbox, ServerSandbox
from arpo_env.sandbox.pool import FairGate, SandboxPool

from .conftest import LIMITS, Box, descendants


@pytest.fixture
def local() -> Iterator[ServerSandbox]:
    """A sandbox of this test's own, on the strongest tier here (unsafe where there is none)."""
    try:
        name = factory.choose()
    except ToolUnavailable:
        name = "unsafe"
    sandbox = LocalSandbox(name, preload=(), limits=LIMITS)
    yield sandbox
    sandbox.close()


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'bubblewrap'"):
        make_sandbox("bubblewarp")


def test_auto_never_falls_back_to_unsafe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "_proved", {"bubblewrap": "not there", "namespaces": "forbidden"})
    with pytest.raises(ToolUnavailable, match=r"bubblewrap: not there; namespaces: forbidden.*sandbox='unsafe'"):
        make_sandbox("auto")


def test_auto_takes_the_strongest_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "_proved", {"bubblewrap": "not there", "namespaces": ""})
    assert make_sandbox("auto").tier == "namespaces"


def test_missing_bubblewrap_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolUnavailable, match="apt-get install bubblewrap"):
        LocalSandbox("bubblewrap").session(seed=0)


def test_no_docker_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker.errors")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(ToolUnavailable, match=r"no Docker engine at unix:///nowhere/docker.sock.*DOCKER_HOST"):
        make_sandbox("docker").session(seed=0)


@pytest.mark.docker
def test_missing_image(box: Box) -> None:
    if box.name != "docker":
        pytest.skip("about the docker tier")
    from arpo_env.sandbox.docker import DockerSandbox

    with pytest.raises(ToolUnavailable, match=r"'arpo-no-such:image'.*make_image.sh"):
        DockerSandbox(image="arpo-no-such:image").session(seed=0)


@pytest.mark.docker
def test_containers_are_hardened_labelled_and_swept(box: Box) -> None:
    if box.name != "docker":
        pytest.skip("about the docker tier")
    from arpo_env.sandbox import docker as tier

    client = tier.connect()
    try:
        running = client.containers.list(filters={"label": tier.LABEL})
        mine = [c for c in running if f"/{os.getpid()}/" in c.labels[tier.LABEL]]
        host = mine[0].attrs["HostConfig"]
        assert host["NetworkMode"] == "none"
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["AutoRemove"] is True
        assert all(host[k] > 0 for k in ("PidsLimit", "Memory", "NanoCpus"))
        assert mine[0].attrs["Config"]["User"] == "65534:65534"
        dead = client.containers.create(
            mine[0].attrs["Config"]["Image"], "true", labels={tier.LABEL: f"{os.uname().nodename}/999999999/1"}
        )
        assert tier.sweep(client) >= 1
        names = [c.id for c in client.containers.list(all=True, filters={"label": tier.LABEL})]
        assert dead.id not in names
        assert mine[0].id in names
    finally:
        client.close()


@pytest.mark.docker
def test_a_killed_parent_leaves_no_container(box: Box) -> None:
    if box.name != "docker":
        pytest.skip("about the docker tier")
    from arpo_env.sandbox import docker as tier

    client = tier.connect()
    try:
        with subprocess.Popen([sys.executable, "-c", _ORPHANER, "docker"], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"up\n"

            def left() -> list[str]:
                running = client.containers.list(all=True, filters={"label": tier.LABEL})
                return [c.id for c in running if f"/{parent.pid}/" in c.labels[tier.LABEL]]

            assert len(left()) == 1
            parent.send_signal(signal.SIGKILL)
            parent.wait()
        deadline = time.monotonic() + 60
        while left():  # by itself: nobody sweeps here
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        client.close()


@pytest.mark.parametrize(("installed", "asked", "taken"), [
    (["runc", "runsc"], None, "runsc"), (["runc"], None, None), (["runc", "runsc"], "runc", "runc"),
])  # fmt: skip
def test_gvisor_is_taken_where_the_engine_has_it(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], asked: str | None, taken: str | None
) -> None:
    pytest.importorskip("docker.errors")
    import docker
    from arpo_env.sandbox import docker as tier

    order: dict[str, Any] = {}

    class Containers:
        def list(self, **_: Any) -> Sequence[Any]:
            return ()

        def create(self, image: str, command: Sequence[str], **options: Any) -> None:
            order.update(options)
            raise docker.errors.ImageNotFound("no image here")

    class Engine:
        containers = Containers()

        def info(self) -> dict[str, Any]:
            return {"Runtimes": {name: {} for name in installed}}

        def close(self) -> None: ...

    monkeypatch.setattr(tier, "connect", Engine)
    how = r"'arpo-mine:1' is not on this engine.*`docker build -t arpo-mine:1 docker`.*ARPO_SANDBOX_IMAGE"
    with pytest.raises(ToolUnavailable, match=how):
        tier.DockerSandbox(image="arpo-mine:1", runtime=asked).session(seed=0)
    assert order.get("runtime") == taken
    assert order["network_mode"] == "none"


def test_shared_sandbox_is_one_by_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "_shared", {})
    a = shared_sandbox("unsafe")
    assert shared_sandbox("unsafe", Limits()) is a
    assert shared_sandbox("unsafe", Limits(seconds=1)) is not a


def test_sandboxes_start_nothing_before_the_first_session() -> None:
    sandbox = LocalSandbox("unsafe")
    assert sandbox._server is None
    sandbox.close()
    with pytest.raises(InfraError, match="closed"):
        sandbox.session(seed=0)


def test_unsafe_works_and_cleans_up() -> None:
    sandbox = LocalSandbox("unsafe", preload=())
    session = sandbox.session(seed=0)
    code = "import os\nopen('f', 'w').write('x')\nos.path.abspath('f') == os.getcwd() + '/f'"
    assert session.run(code).output == "True\n"
    clone = session.fork()
    assert clone.run("open('f').read(), open(os.path.abspath('f')).read()").output == "('x', 'x')\n"
    clone.run("open(os.path.abspath('f'), 'w').write('y')")
    assert session.run("open('f').read()").output == "'x'\n"
    assert session.run("while True: pass", seconds=0.1).status == "timeout"
    real = session.run("print(os.readlink('/proc/self/cwd'))").output.strip()
    assert Path(real).exists()
    sandbox.close()
    assert not Path(real).exists()


def test_many_threads_share_one_server(local: ServerSandbox) -> None:
    def episode(number: int) -> list[str]:
        session = local.session(seed=number)
        session.run(f"total = {number}")
        outputs = [session.run("total += 1; total").output for _ in range(10)]
        clone = session.fork()
        outputs.append(clone.run("total").output)
        session.close()
        clone.close()
        return outputs

    with ThreadPoolExecutor(16) as pool:
        for number, outputs in enumerate(pool.map(episode, range(32))):
            assert outputs == [f"{number + i}\n" for i in range(1, 11)] + [f"{number + 10}\n"]


@pytest.mark.slow
def test_sixty_four_episodes_ten_thousand_calls(box: Box) -> None:
    """None lost, memory flat."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def episode(number: int) -> int:
        right = 0
        session = box.session(seed=number)
        for i in range(157):
            right += session.run(f"{number} * 1000 + {i}").output == f"{number * 1000 + i}\n"
            if i % 50 == 49:
                clone = session.fork()
                session.close()
                session = clone
        session.close()
        return right

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(episode, range(8)))
        before = resident()
        assert sum(pool.map(episode, range(64))) == 64 * 157
    assert resident() - before < 32 * 2**20
    box.settle("sessions", 0)
    box.settle("processes", 1)  # the warm interpreter


def test_forgotten_sessions_are_closed(local: ServerSandbox) -> None:
    for _ in range(5):
        local.session(seed=0).run("1")
    box = Box("own", local, Path())
    box.settle("sessions", 0)


def test_a_dead_server_is_reported_and_replaced(local: ServerSandbox) -> None:
    session = local.session(seed=0)
    session.run("x = 1")
    done = threading.Event()

    def murder() -> None:
        done.wait(10)
        local.server()._transport._process.kill()  # type: ignore[attr-defined]

    killer = threading.Thread(target=murder)
    killer.start()
    done.set()
    with pytest.raises(InfraError, match=r"died.*new session"):
        session.run("import time; time.sleep(9)")
    killer.join()
    with pytest.raises(InfraError, match="died"):
        session.fork()
    session.close()
    assert local.session(seed=0).run("1 + 1").output == "2\n"


def test_a_forked_child_uses_its_own_server(local: ServerSandbox) -> None:
    session = local.session(seed=0)
    session.run("x = 'parent'")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        report = ""
        try:
            try:
                session.run("x = 'child'")
            except InfraError as error:
                report += str(error)
            try:
                local.session(seed=0)
            except InfraError as error:
                report += "|" + str(error)
            own = LocalSandbox(local.tier, preload=())
            report += "|" + own.session(seed=0).run("1 + 1").output
            own.close()
        finally:
            os.write(write, report.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        report = pipe.read()
    os.waitpid(pid, 0)
    parts = report.split("|")
    assert "belongs to the parent process" in parts[0]
    assert "belongs to the parent process" in parts[1]
    assert parts[2] == "2\n"
    assert session.run("x").output == "'parent'\n"


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


_ORPHANER = """
import sys, time, threading
from arpo_env.sandbox import make_sandbox
sandbox = make_sandbox(sys.argv[1], preload=())
def work():
    global session
    session = sandbox.session(seed=0)
    session.run('''
import os, time, signal
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: time.sleep(100)
''')
    print('up', flush=True)
threading.Thread(target=work).start()  # a thread that ends: the sandbox must outlive it
time.sleep(1000)
"""


@pytest.mark.parametrize("tier", ["bubblewrap", "namespaces", "unsafe"])
def test_a_killed_parent_leaves_nothing_behind(tier: str) -> None:
    if tier != "unsafe" and (reason := factory.why_not(tier)):
        pytest.skip(f"{tier}: {reason}")
    with subprocess.Popen([sys.executable, "-c", _ORPHANER, tier], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        family = descendants(parent.pid)
        assert len(family) >= 3
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 20
    while left := [pid for pid in family if _running(pid)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)


class _Fake(Sandbox):
    tier = "fake"

    def __init__(self) -> None:
        self.live = 0

    def session(self, *, seed: int, limits: Limits | None = None) -> SandboxSession:
        self.live += 1
        return _FakeSession(self)

    def close(self) -> None:
        self.live = -1


class _FakeSession(SandboxSession):
    def __init__(self, owner: _Fake) -> None:
        self.owner = owner

    def run(self, code: str, *, seconds: float | None = None) -> ExecResult:
        return ExecResult(code, "ok")

    def fork(self) -> _FakeSession:
        self.owner.live += 1
        return _FakeSession(self.owner)

    def close(self) -> None:
        self.owner.live -= 1


def test_pool_is_bounded_and_spreads() -> None:
    members = [_Fake(), _Fake()]
    pool = SandboxPool(members, max_sessions=4, wait_seconds=0.05)
    sessions = [pool.session(seed=0) for _ in range(3)]
    assert [m.live for m in members] == [2, 1]
    clone = sessions[1].fork()
    assert [m.live for m in members] == [2, 2]
    assert clone.run("x").output == "x"
    attempts: list[Callable[[], object]] = [lambda: pool.session(seed=0), sessions[0].fork]
    for over in attempts:
        with pytest.raises(InfraError, match="all 4 sandbox sessions were in use"):
            over()
    clone.close()
    clone.close()
    pool.session(seed=0).close()
    pool.close()
    with pytest.raises(ConfigError):
        SandboxPool([])


def test_the_gate_is_first_come_first_served() -> None:
    gate = FairGate(1)
    gate.acquire()
    order: list[int] = []
    threads = []

    def enter(number: int) -> None:
        with gate:
            order.append(number)

    for number in range(8):
        thread = threading.Thread(target=enter, args=(number,))
        thread.start()
        while len(gate._queue) <= number:
            time.sleep(0.001)
        threads.append(thread)
    assert gate.acquire(timeout=0.01) is False
    gate.release()
    for thread in threads:
        thread.join()
    assert order == list(range(8))
    assert gate.acquire(timeout=0) is True


def test_capture_counts_characters_exactly() -> None:
    for text in ("", "short", "é" * 100, "x" * 5000, "日本" * 9000):
        for size in (1, 7, 4096):
            capture = Capture(100)
            raw = text.encode()
            for i in range(0, len(raw), size):
                capture.feed(raw[i : i + size])
            got = capture.text()
            if len(text) <= 100:
                assert got == text
            else:
                assert got == f"{text[:50]}\n[... {len(text) - 100} characters cut ...]\n{text[-50:]}"


def test_the_table_names_every_tier() -> None:
    reports = describe_tiers(("bubblewrap", "namespaces", "unsafe"))
    text = table(reports)
    for report in reports:
        assert re.search(rf"^{report.name}: (works|not available)", text, re.MULTILINE)
        if report.available:
            assert report.leaves, "no tier closes everything"
        else:
            assert report.reason
    assert sum(r.default for r in reports if r.available) <= 1


def test_the_tool_is_picklable() -> None:
    from arpo_env.tools.python import PythonTool

    tool = pickle.loads(pickle.dumps(PythonTool("namespaces", limits=LIMITS)))
    assert tool.limits == LIMITS
