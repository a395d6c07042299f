"""Sandboxes on this machine: bubblewrap, our own namespaces, or (only when asked for by name) none.

All three run the same supervisor; they differ in who builds the namespaces. Started by root, the supervisor
steps down to an unused range of user ids, so every session and every clone is another user; started by an
ordinary user, sessions share that user and the supervisor judges their signals (see ``inside.seccomp``).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import PurePosixPath
from typing import Any

from ..errors import InfraError, ToolUnavailable
from . import cgroups, view
from .base import Limits, Sandbox
from .bundle import STUB, modules
from .client import Server, ServerSession, Transport
from .inside import wire
from .pool import FairGate

PRELOAD = ("numpy", "sympy")
_START_SECONDS = 60.0
#: Host user ids no package or container tool hands out: above systemd-nspawn's range, below 2**31.
_UID_BASE, _UID_COUNT = 0x70000000, 4096
_ENV = {
    "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1", "MPLBACKEND": "Agg", "USER": "agent", "LOGNAME": "agent",
    # One thread each: a pool of BLAS threads does not survive a fork, and sessions are the parallelism.
    "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip


class _Starter:
    """Starts every child from one thread that lives as long as the process.

    PR_SET_PDEATHSIG fires when the *thread* that started the child ends; a sandbox opened lazily by a worker
    thread would otherwise be killed with that worker.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="arpo-sandbox-starter", daemon=True).start()

    def _work(self) -> None:
        while True:
            job, future = self._jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

    def run(self, job: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        future: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((job, future))
        return future.result()


_starter: _Starter | None = None
_starter_lock = threading.Lock()


def _forget_starter() -> None:
    global _starter, _starter_lock
    _starter, _starter_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_starter)


def _start_process(command: list[str], keep: int, env: dict[str, str], errors: int) -> subprocess.Popen[bytes]:
    global _starter
    with _starter_lock:
        if _starter is None:
            _starter = _Starter()
        starter = _starter
    return starter.run(
        lambda: subprocess.Popen(
            command, pass_fds=(keep,), env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=errors, start_new_session=True,
        )
    )  # fmt: skip


class _Pipe(Transport):
    """A socket pair to a child process."""

    def __init__(
        self, command: list[str], first: list[dict[str, Any]], env: dict[str, str], group: cgroups.Group | None,
        after: Callable[[], None],
    ) -> None:  # fmt: skip
        ours, theirs = socket.socketpair()
        self._sock = ours
        self._after = after
        self._group = group
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        try:
            number = str(theirs.fileno())
            command = [*command, number, number]
            entering = command if group is None else group.around(command)
            self._process = _start_process(entering, theirs.fileno(), env, self._errors.fileno())
        except OSError as error:
            ours.close()
            self._errors.close()
            if group is not None:
                group.remove()
            raise ToolUnavailable(f"{command[0]} could not be started: {error}") from error
        finally:
            theirs.close()
        with contextlib.suppress(OSError):
            for message in first:
                ours.sendall(wire.pack(message))

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def receive(self) -> bytes:
        return self._sock.recv(2**18)

    def abandon(self) -> None:
        os.close(self._sock.detach())

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.hang_up()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._sock.close()
        self._errors.close()
        if self._group is not None:
            self._group.remove()
        self._after()

    def obituary(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(0)
            return self._errors.read(2000).decode("utf-8", "replace").strip()[-500:]
        return ""


_open_sandboxes: weakref.WeakSet[ServerSandbox] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for sandbox in list(_open_sandboxes):
        with contextlib.suppress(Exception):
            sandbox.close()


class ServerSandbox(Sandbox):
    """A sandbox around a :class:`Server` that is started at the first session and restarted after its death."""

    def __init__(
        self, *, limits: Limits | None = None, preload: Sequence[str] = PRELOAD, max_running: int | None = None
    ) -> None:  # fmt: skip
        self.limits = limits or Limits()
        self.preload = tuple(preload)
        self._server: Server | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        self._gate = FairGate(max_running or max(4, 2 * (os.cpu_count() or 1)))
        _open_sandboxes.add(self)

    def _transport(self) -> Transport:
        raise NotImplementedError

    def server(self) -> Server:
        """The running server, started now if need be. Raises ``ToolUnavailable`` or ``InfraError``."""
        if self._pid != os.getpid():
            raise InfraError("this sandbox belongs to the parent process; make one in the forked process")
        with self._lock:
            if self._closed:
                raise InfraError(f"this {self.tier} sandbox is closed")
            if self._server is None or not self._server.alive:
                if self._server is not None:
                    self._server.close()
                self._server = Server(self._transport(), self.tier, _START_SECONDS)
            return self._server

    def control_group(self) -> str:
        """What a control group around the running server bounds; empty without one."""
        return ""

    def session(self, *, seed: int, limits: Limits | None = None) -> ServerSession:
        return ServerSession.start(self.server(), self._gate, seed, limits or self.limits)

    def close(self) -> None:
        if self._pid != os.getpid():
            return
        _open_sandboxes.discard(self)
        with self._lock:
            self._closed = True
            if self._server is not None:
                self._server.close()

    def __del__(self) -> None:
        # The collector may run this anywhere, so no lock is taken: the supervisor ends by itself on the hang-up.
        if not getattr(self, "_closed", True) and self._server is not None and self._pid == os.getpid():
            self._server.hang_up()


def supervisor_config(preload: Sequence[str], *, python: str, private_mounts: bool, harden: bool) -> dict[str, Any]:
    """What every supervisor is told; tiers change single entries."""
    return {
        "preload": list(preload), "python": python, "stub": STUB, "bundle": None, "env": dict(_ENV),
        "private_mounts": private_mounts, "harden": harden, "users": 1, "area": "/tmp", "home": "/home/agent",
        "shared_processes": 0, "die_with_parent": False, "remove_area": False,
    }  # fmt: skip


class LocalSandbox(ServerSandbox):
    """``bubblewrap``, ``namespaces`` or ``unsafe``."""

    def __init__(
        self, tier: str, *, limits: Limits | None = None, preload: Sequence[str] = PRELOAD,
        max_running: int | None = None, own_users: bool = True,
    ) -> None:  # fmt: skip
        """``own_users=False`` makes sessions share one user id even when root could give each its own."""
        super().__init__(limits=limits, preload=preload, max_running=max_running)
        self.tier = tier
        self._group: cgroups.Group | None = None
        self._users = _UID_COUNT if own_users and os.geteuid() == 0 else 1

    def _transport(self) -> Transport:
        if sys.platform != "linux":
            raise ToolUnavailable(f"the {self.tier} sandbox needs Linux; on other systems use sandbox='docker'")
        root = os.geteuid() == 0
        config = supervisor_config(self.preload, python=sys.executable, private_mounts=True, harden=True)
        supervisor = {"bundle": modules("supervisor"), "entry": "supervisor", "config": config}
        command = [sys.executable, "-P", "-S", "-c", STUB]
        base = _UID_BASE + random.SystemRandom().randrange(4096) * 65536 if root else 0
        enter_config = {"stage": "namespaces", "base_uid": base, "users": self._users, "python": sys.executable,
                        "stub": STUB, "view": view.plan()}  # fmt: skip
        config["users"] = self._users
        # Only where there is no seccomp gate to count by session: the bound of all together.
        config["shared_processes"] = 64 + 8 * self.limits.processes
        config["die_with_parent"] = True
        messages = [{"bundle": modules("enter"), "entry": "enter", "config": enter_config}, supervisor]
        if self.tier == "bubblewrap":
            command = [*self._bubblewrap(root), *command]
            enter_config["stage"] = "users"
            if not root:
                messages = [supervisor]
        elif self.tier == "unsafe":
            return self._unsafe(config, supervisor, command)
        self._group = cgroups.create(self.limits)
        return _Pipe(command, messages, {"PYTHONHASHSEED": "0"}, self._group, lambda: None)

    def control_group(self) -> str:
        return "" if self._group is None else self._group.controls

    def _unsafe(self, config: dict[str, Any], supervisor: dict[str, Any], command: list[str]) -> Transport:
        area = tempfile.mkdtemp(prefix="arpo-unsafe-")
        config.update(private_mounts=False, harden=False, area=area, home="", users=1, remove_area=True)
        config["shared_processes"] = 0
        config["die_with_parent"] = False  # no namespace dies with it: it must outlive us and clean up
        config["env"]["PATH"] = os.environ.get("PATH", _ENV["PATH"])
        return _Pipe(command, [supervisor], dict(config["env"]), None, lambda: shutil.rmtree(area, ignore_errors=True))

    @staticmethod
    def _bubblewrap(root: bool) -> list[str]:
        program = shutil.which("bwrap")
        if program is None:
            raise ToolUnavailable("bubblewrap is not installed; `apt-get install bubblewrap`, or use 'namespaces'")
        command = [program, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
                   "--unshare-cgroup-try", "--hostname", "sandbox", "--die-with-parent", "--as-pid-1",
                   "--new-session", "--clearenv", "--cap-add", "ALL"]  # fmt: skip
        if not root:
            command += ["--unshare-user", "--uid", "0", "--gid", "0"]
        read_only = ["/"]
        made: set[str] = set()
        for kind, *args in view.plan():
            # bwrap makes missing parents private to their owner; sessions are other users
            for parent in reversed([str(p) for p in PurePosixPath(args[-1]).parents][:-1]):
                if parent not in made:
                    made.add(parent)
                    command += ["--dir", parent]
            made.add(args[-1])
            if kind == "ro":
                command += ["--ro-bind", *args]
            elif kind == "dev":
                command += ["--dev-bind", *args]
            elif kind == "link":
                command += ["--symlink", *args]
            elif kind == "proc":
                command += ["--proc", *args]
            elif kind == "tmpfs":
                command += ["--tmpfs", *args]
                read_only.insert(0, args[0])
            else:
                command += ["--dir", *args]
        for target in read_only:
            command += ["--remount-ro", target]
        return [*command, "--"]


def probe(tier: str) -> None:
    """Prove that a local tier works: start it and run ``1 + 1``. Raises ``ToolUnavailable`` with the reason."""
    sandbox = LocalSandbox(tier, preload=(), limits=Limits(seconds=20))
    try:
        result = sandbox.session(seed=0).run("1 + 1")
        if result.output.strip() != "2":
            raise ToolUnavailable(f"the {tier} sandbox ran 1 + 1 and gave {result.output!r}")
    except InfraError as error:
        if isinstance(error, ToolUnavailable):
            raise
        raise ToolUnavailable(f"the {tier} sandbox does not work here: {error}") from error
    finally:
        sandbox.close()
