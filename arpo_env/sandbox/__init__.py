"""Runs untrusted Python: :func:`make_sandbox` gives a fork server inside the strongest isolation this machine has."""

from __future__ import annotations

from .base import ExecResult, Limits, Sandbox, SandboxSession
from .factory import TIERS, make_sandbox, shared_sandbox

__all__ = ["TIERS", "ExecResult", "Limits", "Sandbox", "SandboxSession", "make_sandbox", "shared_sandbox"]
