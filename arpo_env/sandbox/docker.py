"""The docker tier: the same fork server, warm in a container of a real engine, through the docker SDK.

The container gets nothing it does not need: no network, a read-only root, one sized tmpfs, no capability,
no-new-privileges, an unprivileged user, bounds on processes, memory and CPU, the engine's default seccomp
profile, and gVisor (``runsc``) where the engine has it. The server's code comes over the attached stream, so any
image with Python 3.11 works, and a remote engine too. When this process dies the stream closes, the
supervisor ends, and the engine removes the container; what an engine crash leaves is swept by label.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ToolUnavailable
from .base import Limits
from .bundle import STUB, modules
from .client import Transport
from .inside import wire
from .inside.tree import MAX_ENTRIES
from .local import PRELOAD, ServerSandbox, supervisor_config

IMAGE = "arpo-sandbox:latest"
LABEL = "arpo.sandbox.owner"
_HEADER = struct.Struct(">B3xI")


def _import_docker() -> Any:
    try:
        import docker.errors  # not `docker` alone: without the SDK a folder of that name counts as a package
    except ImportError as error:
        raise ToolUnavailable("sandbox 'docker' needs the docker SDK; pip install 'arpo[docker]'") from error
    return docker


def connect() -> Any:
    """A client of the engine the environment names (``DOCKER_HOST``). Raises ``ToolUnavailable`` without one."""
    docker = _import_docker()
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if where.startswith("unix://"):
        # Asked directly first: the SDK leaks a socket when nobody answers.
        with socket.socket(socket.AF_UNIX) as door:
            try:
                door.connect(where.removeprefix("unix://"))
            except OSError as error:
                raise ToolUnavailable(
                    f"no Docker engine at {where}: {error}. Start dockerd or set DOCKER_HOST."
                ) from error
    try:
        client = docker.from_env(timeout=60)
    except docker.errors.DockerException as error:
        raise ToolUnavailable(f"no Docker engine at {where}: {error}. Start dockerd or set DOCKER_HOST.") from error
    try:
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        client.close()
        raise ToolUnavailable(f"the Docker engine does not answer: {error}") from error
    return client


def _owner() -> str:
    """This process, so that nobody with a reused process id passes for it."""
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19] if Path("/proc").exists() else "0"
    return f"{socket.gethostname()}/{os.getpid()}/{started}"


def _orphaned(owner: str) -> bool:
    host, _, rest = owner.partition("/")
    pid, _, started = rest.partition("/")
    if host != socket.gethostname() or not pid.isdigit():
        return False  # another machine's: not ours to judge
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19] != started
    except OSError:
        return True


def sweep(client: Any) -> int:
    """Remove containers whose owner on this machine is dead. Returns how many."""
    docker = _import_docker()
    gone = 0
    for container in client.containers.list(all=True, filters={"label": LABEL}):
        if _orphaned(container.labels.get(LABEL, "")):
            with contextlib.suppress(docker.errors.APIError):
                container.remove(force=True)
                gone += 1
    return gone


class _Attached(Transport):
    """The container's stdin and stdout as one stream."""

    def __init__(self, client: Any, container: Any, first: bytes) -> None:
        self._client = client
        self._container = container
        self._errors = bytearray()
        self._buffer = bytearray()
        self._wrapper = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self._sock: socket.socket = getattr(self._wrapper, "_sock", self._wrapper)
        self._sock.settimeout(None)
        container.start()
        self._sock.sendall(first)

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def receive(self) -> bytes:
        while True:
            while len(self._buffer) >= _HEADER.size:
                kind, size = _HEADER.unpack_from(self._buffer)
                if len(self._buffer) < _HEADER.size + size:
                    break
                data = bytes(self._buffer[_HEADER.size : _HEADER.size + size])
                del self._buffer[: _HEADER.size + size]
                if kind == 1 and data:
                    return data
                self._errors += data
                del self._errors[:-2000]
            got = self._sock.recv(2**18)
            if not got:
                return b""
            self._buffer += got

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._sock.detach())

    def hang_up(self) -> None:
        with contextlib.suppress(Exception):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.hang_up()
        with contextlib.suppress(Exception):  # it removes itself when its stream ends; this is for a stuck one
            self._container.remove(force=True)
        with contextlib.suppress(Exception):
            self._wrapper.close()
        with contextlib.suppress(Exception):
            self._sock.close()
        with contextlib.suppress(Exception):
            self._client.close()

    def obituary(self) -> str:
        return self._errors.decode("utf-8", "replace").strip()[-500:]


class DockerSandbox(ServerSandbox):
    """Sessions forked inside one warm container.

    ``memory_bytes`` and ``cpus`` bound the container as a whole; ``scratch_bytes`` its tmpfs, shared by its
    sessions. ``runtime``: the engine's runtime by name; None takes ``runsc`` where it is installed.
    """

    tier = "docker"

    def __init__(
        self, *, limits: Limits | None = None, preload: Sequence[str] = PRELOAD, max_running: int | None = None,
        image: str | None = None, memory_bytes: int = 4 * 2**30, cpus: float | None = None,
        scratch_bytes: int | None = None, sessions: int = 64, runtime: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(limits=limits, preload=preload, max_running=max_running)
        self.image = image or os.environ.get("ARPO_SANDBOX_IMAGE", IMAGE)
        if memory_bytes < 2**28:
            raise ConfigError(f"memory_bytes must be at least 256 MiB for a container, got {memory_bytes!r}")
        self._memory = memory_bytes
        self._cpus = cpus if cpus is not None else float(os.cpu_count() or 1)
        self._scratch = scratch_bytes or sessions * self.limits.file_bytes
        # Without a bound of their own files (and their attributes) fill the container's memory, not its tmpfs.
        self._inodes = sessions * min(MAX_ENTRIES, self.limits.file_bytes // 1024)
        self._processes = sessions * (self.limits.processes + 1) + 2
        self._runtime = runtime

    def control_group(self) -> str:
        return "memory, processes and CPU of the container"

    def _transport(self) -> Transport:
        docker = _import_docker()
        client = connect()
        try:
            sweep(client)
            runtime = self._runtime
            if runtime is None and "runsc" in client.info().get("Runtimes", {}):
                runtime = "runsc"
            container = client.containers.create(
                self.image, ["python3", "-P", "-S", "-c", STUB, "0", "1"], entrypoint=[], stdin_open=True, tty=False,
                network_mode="none", read_only=True, user="65534:65534", working_dir="/", cap_drop=["ALL"],
                security_opt=["no-new-privileges:true"], pids_limit=self._processes, mem_limit=self._memory,
                memswap_limit=self._memory, nano_cpus=int(self._cpus * 1e9), ipc_mode="none", auto_remove=True,
                tmpfs={"/tmp": f"rw,nosuid,nodev,size={self._scratch},nr_inodes={self._inodes},mode=1777"},
                hostname="sandbox",
                environment={"PYTHONHASHSEED": "0"}, labels={LABEL: _owner()}, log_config={"type": "none"},
                **({"runtime": runtime} if runtime else {}),
            )  # fmt: skip
        except docker.errors.ImageNotFound as error:
            client.close()
            raise ToolUnavailable(
                f"the image {self.image!r} is not on this engine; in a checkout, `docker build -t {self.image} docker` "
                f"makes it (without a registry: `docker/make_image.sh {self.image}`). ARPO_SANDBOX_IMAGE names another."
            ) from error
        except docker.errors.DockerException as error:
            client.close()
            raise ToolUnavailable(f"the engine refused the container: {error}") from error
        config = supervisor_config(self.preload, python="", private_mounts=False, harden=True)
        config["env"]["PATH"] = "/usr/local/bin:/usr/bin:/bin"
        order = {"bundle": modules("supervisor"), "entry": "supervisor", "config": config}
        try:
            return _Attached(client, container, wire.pack(order))
        except (docker.errors.DockerException, OSError) as error:
            with contextlib.suppress(docker.errors.DockerException):
                container.remove(force=True)
            client.close()
            raise ToolUnavailable(f"the container did not start: {error}") from error
