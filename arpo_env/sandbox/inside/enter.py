"""Enters the isolation and becomes the supervisor: namespaces, the file view, the range of user ids.

Two stages. ``namespaces`` builds what bubblewrap would build: new mount, process, network, IPC, host name and
cgroup namespaces, a tmpfs root with read-only binds of the interpreter and the system libraries, ``/proc`` and
a handful of devices. ``users`` (only when started as host root; for bubblewrap too) then steps down from host
root to an otherwise unused range of user ids in a user namespace, so that nothing inside has any right outside.
An ordinary user has one id to map; its sessions share it (see the tier table).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any

from . import sysapi, wire


def main(rfd: int, wfd: int, config: dict[str, Any]) -> None:
    """Never returns: ends in ``exec`` of the supervisor, or with a ``failed`` frame that says why."""
    try:
        sysapi.prctl(sysapi.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.umask(0o022)
        if config["stage"] == "namespaces":
            _namespaces(config)
        if config["base_uid"]:
            _users(config["base_uid"], config["users"])
        python = config["python"]
        for fd in (rfd, wfd):
            os.set_inheritable(fd, True)
        os.chdir("/")
        command = [python, "-P", "-S", "-c", config["stub"], str(rfd), str(wfd)]
        os.execve(python, command, {"PYTHONHASHSEED": "0"})
    except BaseException as error:
        wire.write_all(wfd, wire.pack({"failed": f"{type(error).__name__}: {error}"}))
        os._exit(1)


def _namespaces(config: dict[str, Any]) -> None:
    spaces = (
        sysapi.CLONE_NEWNS | sysapi.CLONE_NEWPID | sysapi.CLONE_NEWNET | sysapi.CLONE_NEWIPC | sysapi.CLONE_NEWUTS
        | sysapi.CLONE_NEWCGROUP
    )  # fmt: skip
    uid, gid = os.getuid(), os.getgid()
    if not config["base_uid"]:
        spaces |= sysapi.CLONE_NEWUSER
    sysapi.unshare(spaces)
    if not config["base_uid"]:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    pid = os.fork()
    if pid:
        # Stay as the keeper: this process dies with the host process and takes process 1 along.
        os.closerange(0, 1024)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    sysapi.prctl(sysapi.PR_SET_PDEATHSIG, signal.SIGKILL)
    sysapi.mount(None, "/", None, sysapi.MS_REC | sysapi.MS_PRIVATE)
    _view(config["view"])
    with contextlib.suppress(OSError):
        import socket

        socket.sethostname("sandbox")


def _view(view: list[list[str]]) -> None:
    quiet = sysapi.MS_NOSUID | sysapi.MS_NODEV
    # The base covers /tmp only after the old root has moved below it, so sources in /tmp stay reachable.
    sysapi.mount("tmpfs", "/tmp", "tmpfs", quiet, "mode=0755")
    os.mkdir("/tmp/new", 0o755)
    os.mkdir("/tmp/old", 0o755)
    _pivot("/tmp", "/tmp/old")
    os.chdir("/")
    sysapi.mount("root", "/new", "tmpfs", quiet, "mode=0755")
    read_only = ["/new"]
    for kind, *args in view:
        target = "/new" + args[-1]
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        if kind == "dir":
            os.makedirs(target, 0o755, exist_ok=True)
        elif kind == "link":
            os.symlink(args[0], target)
        elif kind == "tmpfs":
            os.makedirs(target, 0o755, exist_ok=True)
            sysapi.mount("tmpfs", target, "tmpfs", sysapi.MS_NOSUID | sysapi.MS_NOEXEC, "mode=0755")
            read_only.append(target)
        elif kind in ("ro", "dev"):
            source = "/old" + args[0]
            if os.path.isdir(source):
                os.makedirs(target, 0o755, exist_ok=True)
            else:
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
            sysapi.mount(source, target, None, sysapi.MS_BIND | sysapi.MS_REC)
            if kind == "ro":
                sysapi.set_read_only(target)
        elif kind == "proc":
            os.makedirs(target, 0o755, exist_ok=True)
            flags = quiet | sysapi.MS_NOEXEC
            sysapi.mount("proc", target, "proc", flags, "hidepid=2")
    for target in reversed(read_only):
        flags = sysapi.MS_REMOUNT | sysapi.MS_BIND | sysapi.MS_RDONLY | sysapi.MS_NOSUID
        if target == "/new":
            flags |= sysapi.MS_NODEV
        else:
            flags |= sysapi.MS_NOEXEC
        sysapi.mount(None, target, None, flags)
    os.chdir("/new")
    _pivot(".", ".")
    sysapi.umount(".")
    os.chdir("/")


def _pivot(new: str, old: str) -> None:
    import ctypes

    sysapi.syscall("pivot_root", ctypes.c_char_p(new.encode()), ctypes.c_char_p(old.encode()))


def _users(base: int, count: int) -> None:
    """From host root to user 0 of a new user namespace over host ids ``base`` … ``base + count - 1``."""
    with contextlib.suppress(OSError):
        # Sessions must not see each other in /proc. Only possible while still host root here.
        sysapi.mount("proc", "/proc", "proc", 14 | sysapi.MS_REMOUNT, "hidepid=2")
    ready_r, ready_w = os.pipe()
    done_r, done_w = os.pipe()
    target = os.getpid()
    helper = os.fork()
    if helper == 0:
        code = 1
        try:
            os.read(ready_r, 1)
            for name in ("uid_map", "gid_map"):
                _write(f"/proc/{target}/{name}", f"0 {base} {count}")
            code = 0
        finally:
            os.write(done_w, b"x")
            os._exit(code)
    sysapi.unshare(sysapi.CLONE_NEWUSER | sysapi.CLONE_NEWNS)
    os.write(ready_w, b"x")
    os.read(done_r, 1)
    _, status = os.waitpid(helper, 0)
    for fd in (ready_r, ready_w, done_r, done_w):
        os.close(fd)
    if status:
        raise OSError("the user id map could not be written")
    sysapi.syscall("setgroups", 0, 0)
    sysapi.syscall("setresgid", 0, 0, 0)
    sysapi.raw_setresuid(0)
    sysapi.prctl(sysapi.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user clears it


def _write(path: str, text: str) -> None:
    with open(path, "w") as f:
        f.write(text)


if sys.platform != "linux":
    raise ImportError("the sandbox needs Linux")
