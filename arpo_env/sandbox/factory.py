"""Chooses a tier: by name, or the strongest local one that proves to work. Never an unprotected one by itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from ..errors import ToolUnavailable, unknown
from .base import Limits, Sandbox
from .local import PRELOAD, LocalSandbox, probe

#: Local tiers, strongest first.
LOCAL = ("bubblewrap", "namespaces")
TIERS = (*LOCAL, "docker", "unsafe")

_proved: dict[str, str] = {}  # tier -> "" when it works, else the reason
_shared: dict[tuple[str, Limits, tuple[str, ...]], Sandbox] = {}
_lock = threading.RLock()


def why_not(tier: str) -> str:
    """Empty when the local ``tier`` works here, else the reason. Proved once a process by running ``1 + 1``."""
    with _lock:
        if tier not in _proved:
            try:
                probe(tier)
                _proved[tier] = ""
            except ToolUnavailable as error:
                _proved[tier] = str(error)
        return _proved[tier]


def choose() -> str:
    """The strongest local tier that works.

    Raises:
        ToolUnavailable: none does; says why each failed and what to install.
    """
    for tier in LOCAL:
        if not why_not(tier):
            return tier
    reasons = "; ".join(f"{tier}: {_proved[tier]}" for tier in LOCAL)
    raise ToolUnavailable(
        f"no isolation works on this machine ({reasons}). Install bubblewrap (`apt-get install bubblewrap`), allow "
        "user namespaces, or use sandbox='docker'. sandbox='unsafe' runs model-written code unprotected."
    )


def make_sandbox(
    name: str = "auto", *, limits: Limits | None = None, preload: Sequence[str] = PRELOAD
) -> Sandbox:  # fmt: skip
    """A sandbox of tier ``name``: ``auto``, ``bubblewrap``, ``namespaces``, ``docker`` or ``unsafe``.

    Nothing starts before the first session, except that ``auto`` proves the tier it chooses. ``preload`` names
    modules the warm interpreter imports (those that are not installed are left out).

    Raises:
        ConfigError: unknown name.
        ToolUnavailable: ``auto`` and no isolation works here; never falls back to ``unsafe``.
    """
    if name not in ("auto", *TIERS):
        raise unknown("sandbox", name, ("auto", *TIERS))
    if name == "auto":
        name = choose()
    if name == "docker":
        from .docker import DockerSandbox

        return DockerSandbox(limits=limits, preload=preload)
    return LocalSandbox(name, limits=limits, preload=preload)


def shared_sandbox(
    name: str = "auto", limits: Limits | None = None, *, preload: Sequence[str] = PRELOAD
) -> Sandbox:  # fmt: skip
    """The one sandbox of this process with these arguments, so that all environments share one fork server."""
    key = (name, limits or Limits(), tuple(preload))
    with _lock:
        if key not in _shared:
            _shared[key] = make_sandbox(name, limits=limits, preload=preload)
        return _shared[key]


def _forget() -> None:
    """A forked child shares nothing with its parent: it makes its own at first use."""
    global _lock
    _lock = threading.RLock()
    _shared.clear()


os.register_at_fork(after_in_child=_forget)
