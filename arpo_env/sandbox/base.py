"""What runs untrusted Python: the contract every isolation tier keeps.

A :class:`Sandbox` is one isolation tier with one warm fork server; a :class:`SandboxSession` is one live
interpreter inside it. ``fork`` copies a live interpreter, variables, closures, generators, open files'
offsets, working directory and the ``random`` state included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Self

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one session. All must be positive; ``ConfigError`` otherwise.

    ``seconds``: wall time a cell. ``memory_bytes``: address space a process may add to what the warm interpreter
    has. ``output_chars``: characters shown a cell, head and tail. ``file_bytes``: the scratch directory, and any
    single file. ``processes``: processes and threads besides the interpreter.
    """

    seconds: float = 5.0
    memory_bytes: int = 512 * 2**20
    output_chars: int = 2000
    file_bytes: int = 16 * 2**20
    processes: int = 16

    def __post_init__(self) -> None:
        for name in ("seconds", "memory_bytes", "output_chars", "file_bytes", "processes"):
            value = getattr(self, name)
            kinds = (int, float) if name == "seconds" else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < 2**62:
                what = "a positive number of seconds" if name == "seconds" else "a positive integer"
                raise ConfigError(f"Limits.{name} must be {what}, got {value!r}")
        if self.file_bytes < 2**16:
            raise ConfigError(f"Limits.file_bytes must be at least 65536, got {self.file_bytes!r}")


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
