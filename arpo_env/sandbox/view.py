"""What of the host a local sandbox can see: the interpreter, its packages (but those that hold answers, see
``masking``), the system's libraries. Nothing else.

The list is the same for bubblewrap and for our own namespaces. No ``/etc`` (but the linker's cache), no
``/home``, no ``/var``, no repository, no environment variable.
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

from . import masking

DEVICES = ("null", "zero", "full", "random", "urandom")
_SYSTEM = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/bin", "/usr/share/zoneinfo", "/usr/share/fonts")
_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts")
#: What glibc asks before it backs the heap with huge pages, which is what makes a fork of much state quick.
_HUGE = tuple(f"/sys/kernel/mm/transparent_hugepage/{name}" for name in ("enabled", "hpage_pmd_size"))


def interpreter_paths() -> list[str]:
    """Directories that the running interpreter and its installed packages live in."""
    found = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    found.update(p for p in site.getsitepackages() if Path(p).is_dir())
    user = site.getusersitepackages()
    if user in sys.path and Path(user).is_dir():
        found.add(user)
    # The executable may be a link to somewhere else: every directory of the chain.
    link = Path(sys.executable)
    for _ in range(40):
        found.add(str(link.parent))
        if not link.is_symlink():
            break
        link = link.parent / link.readlink()
    found.add(str(Path(sys.executable).resolve().parent))
    if sys.base_prefix == "/usr" or "/usr" in found:
        found.discard("/usr")
        found.update(p for p in ("/usr/lib", "/usr/bin", "/usr/local/lib", "/usr/share/python3") if Path(p).is_dir())
    if any(p.startswith("/nix/store") for p in found):
        found.add("/nix/store")
    return sorted(p for p in {os.path.normpath(p) for p in found} if p not in ("/", "") and Path(p).is_dir())


def plan() -> list[list[str]]:
    """The steps, in order: ``[kind, (source,) target]`` with kind ro, dev, dir, link, tmpfs, proc."""
    binds = [p for p in _SYSTEM if Path(p).is_dir()] + interpreter_paths()
    steps: list[list[str]] = [["proc", "/proc"], ["tmpfs", "/dev"]]
    done: list[str] = []
    for path in sorted(set(binds)):
        if not any(path == d or path.startswith(d + "/") for d in done):
            steps.append(["ro", path, path])
            done.append(path)
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if Path(name).is_symlink():
            steps.append(["link", str(Path(name).readlink()), name])
        elif Path(name).is_dir() and name not in done:
            steps.append(["ro", name, name])
    steps += masking.steps([args[-1] for kind, *args in steps if kind == "ro"])
    steps += [["ro", p, p] for p in (*_FILES, *_HUGE) if Path(p).exists()]
    steps += [["dev", f"/dev/{d}", f"/dev/{d}"] for d in DEVICES]
    steps += [
        ["link", "/proc/self/fd", "/dev/fd"], ["link", "/proc/self/fd/0", "/dev/stdin"],
        ["link", "/proc/self/fd/1", "/dev/stdout"], ["link", "/proc/self/fd/2", "/dev/stderr"],
        ["link", "/home/agent/tmp", "/dev/shm"], ["dir", "/home/agent"], ["dir", "/roots"],
    ]  # fmt: skip
    # An environment installed below /tmp needs the real directory there; programs find theirs by $TMPDIR anyway.
    if not any(path.startswith("/tmp/") for path in done):
        steps.append(["link", "/home/agent/tmp", "/tmp"])
    return steps
