"""Says which tiers this machine gives and what each one closes: the table behind ``arpo sandbox check``.

The entries about layers are read from a running sandbox, not guessed from versions; what a tier leaves open
is part of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ArpoEnvError
from .base import Limits
from .factory import LOCAL, TIERS, make_sandbox
from .local import ServerSandbox
from .masking import MASKED

#: Says which packages that hold answers can be had inside: empty where they are masked, or not there.
_LOOK = f"""
import importlib
for name in {MASKED!r}:
    try: importlib.import_module(name)
    except Exception: continue
    print(name)
"""
_LANDLOCK = {1: "files", 4: "files, TCP", 6: "files, TCP, signals and abstract sockets of other lineages"}


@dataclass(frozen=True, slots=True)
class TierReport:
    """One tier on this machine. ``closes`` and ``leaves`` are plain sentences; empty when it is unavailable."""

    name: str
    available: bool
    reason: str = ""
    default: bool = False
    layers: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    features: dict[str, Any] = field(default_factory=dict)


def describe_tiers(names: Sequence[str] = TIERS) -> list[TierReport]:
    """Start every tier in ``names`` once and report. Never raises for a tier that does not work."""
    reports: list[TierReport] = []
    chosen = False
    for name in names:
        report = _describe(name, default=not chosen and name in LOCAL)
        chosen = chosen or (report.available and name in LOCAL)
        reports.append(report)
    return reports


def _describe(name: str, default: bool) -> TierReport:
    sandbox = None
    try:
        sandbox = make_sandbox(name, limits=Limits(seconds=20), preload=())
        assert isinstance(sandbox, ServerSandbox)
        features = sandbox.server().features
        result = sandbox.session(seed=0).run("1 + 1")
        if result.output.strip() != "2":
            return TierReport(name, False, f"1 + 1 gave {result.output!r}")
        look = sandbox.session(seed=0).run(_LOOK)
        answers = tuple(look.output.split()) if look.status == "ok" else MASKED
        group = sandbox.control_group()
    except ArpoEnvError as error:
        return TierReport(name, False, str(error))
    finally:
        if sandbox is not None:
            sandbox.close()
    if name == "unsafe":
        return TierReport(
            name, True, layers=("rlimits",), features=features,
            closes=("endless loops, output floods, memory of one process",),
            leaves=("everything else: the code runs as you, sees your files and your network",),
        )  # fmt: skip
    layers, closes, leaves = _explain(name, features, group, answers)
    return TierReport(name, True, "", default, layers, closes, leaves, features)


def _explain(name: str, features: dict[str, Any], group: str, answers: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Layers, what they close, and what they leave open."""
    inner = features["layers"]
    layers = ["container" if name == "docker" else "namespaces (mount, pid, net, ipc, uts, cgroup, user)", "rlimits"]
    closes = ["host files, environment, processes and network", "time, output, memory of one process, size of one file"]
    leaves = ["bugs of the kernel itself: all sessions share it with the host" + ("" if name != "docker" else
              " (unless the engine runs gVisor)"), "a cell's report about itself: code can always print or end early",
              "a session that was hostile before it was cloned can listen in on its clones",
              "CPU time of background threads between two cells"]  # fmt: skip
    if answers:
        leaves.append("answers to tasks in packages that can be read inside: " + ", ".join(answers))
    else:
        closes.append("answers to tasks in installed packages (" + ", ".join(MASKED) + ")")
    if inner["gate"]:
        layers.append("seccomp filter with a gate")
        closes.append("mount, unshare, ptrace, keys, bpf, sockets and other calls no cell needs")
    else:
        leaves.append("no seccomp filter: " + ("; ".join(features["problems"]) or "this kernel has none"))
    version = inner["landlock"]
    if version:
        known = max(v for v in _LANDLOCK if v <= version)
        layers.append(f"Landlock ABI {version} ({_LANDLOCK[known]})")
    else:
        leaves.append("no Landlock on this kernel or under this engine")
    if features["own_users"]:
        layers.append("own user id for every session and clone")
        closes.append("signals, memory and process count of other sessions (kernel: user ids)")
    elif inner["gate"]:
        closes.append("signals to other sessions, process count by session (judged by the supervisor)")
    else:
        leaves.append("sessions share one user id: they can signal each other, and use up each other's processes")
    if features["own_roots"]:
        layers.append("own root and sized tmpfs for every session and clone")
        closes.append("files and disk space of other sessions, clones included")
        if not features["own_users"]:
            leaves.append("clones of one session can look into a program that one of them runs, and so into its files")
    else:
        leaves.append("scratch space is one tmpfs: a session can fill it until it is closed")
        if version:
            closes.append("files of other sessions (Landlock)")
            leaves.append("clones of one session can find each other's files by looking for them")
        else:
            leaves.append("sessions find each other's files only by a secret name, which the same user can list")
    if group:
        layers.append(f"control group ({group})")
        if "memory" not in group:
            leaves.append("memory is bounded per process; the sum over processes is not (no memory group delegated)")
    else:
        leaves.append("no control group is delegated: limits are per process, their sum is not bounded")
    return tuple(layers), tuple(closes), tuple(leaves)


def table(reports: Sequence[TierReport]) -> str:
    """The reports as text, one block a tier."""
    lines: list[str] = []
    for report in reports:
        state = "works" if report.available else "not available"
        lines.append(f"{report.name}: {state}{' (default here)' if report.available and report.default else ''}")
        if report.reason:
            lines.append(f"  why     {report.reason}")
        for title, entries in (("layers", report.layers), ("closes", report.closes), ("leaves", report.leaves)):
            lines += [f"  {title if i == 0 else '':7} {entry}" for i, entry in enumerate(entries)]
    if not any(r.available and r.name != "unsafe" for r in reports):
        lines.append("No isolation works here: `apt-get install bubblewrap`, allow user namespaces, or start Docker.")
    return "\n".join(lines)
