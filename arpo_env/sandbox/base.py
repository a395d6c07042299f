"""What runs untrusted Python: the contract every isolation tier keeps.

A :class:`Sandbox` is one isolation tier with one warm fork server; a :class:`SandboxSession` is one live
interpreter inside it. ``fork`` copies a live interpreter, variables, closures, generators, open files'
offsets, working directory and the ``random`` state included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Self


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one session. Seconds of wall time a cell, bytes of address space, characters of output."""

    seconds: float = 5.0
    memory_bytes: int = 512 * 2**20
    output_chars: int = 2000
    file_bytes: int = 16 * 2**20
    processes: int = 16


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What one cell gave.

    ``output`` is stdout, stderr, the last expression's repr and a short traceback, in the order written,
    already capped head and tail with the cut said. ``status``: ``ok``; ``error`` (an exception);
    ``timeout``; ``killed`` (memory or another limit took the interpreter: its variables are gone, and
    ``output`` says so; the session goes on with a fresh interpreter).
    """

    output: str
    status: Literal["ok", "error", "timeout", "killed"]

    @property
    def ok(self) -> bool:
        return self.status == "ok"


class SandboxSession(ABC):
    """One live interpreter."""

    @abstractmethod
    def run(self, code: str, *, seconds: float | None = None) -> ExecResult:
        """Run one cell like a notebook. ``seconds`` overrides ``Limits.seconds``.

        Raises:
            InfraError: the sandbox itself died; never for what the code did.
        """

    @abstractmethod
    def fork(self) -> Self:
        """A live copy of the interpreter; both go on independently."""

    @abstractmethod
    def close(self) -> None:
        """End the interpreter. Idempotent."""


class Sandbox(ABC):
    """One isolation tier on this machine, shared by threads."""

    #: ``bubblewrap``, ``namespaces``, ``docker``, ``unsafe`` …: named in errors and in ``arpo sandbox check``.
    tier: str

    @abstractmethod
    def session(self, *, seed: int, limits: Limits | None = None) -> SandboxSession:
        """A fresh interpreter whose ``random`` (and NumPy's global generator) is seeded with ``seed``.

        Raises:
            ToolUnavailable: the tier does not work on this machine; says why and what to install.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop the server and every session. Idempotent; also runs at interpreter exit."""
