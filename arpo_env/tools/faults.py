"""What a tool does with a fault of its machinery: raise it, or tell it, as the user chose."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Literal, get_args

from arpo_env.errors import InfraError, unknown
from arpo_env.tools.base import ToolResult

OnFault = Literal["raise", "tell"]
_MODES: tuple[str, ...] = get_args(OnFault)


class Faults:
    """The rule of one tool, shared by its sessions.

    ``raise``: an :class:`InfraError` passes through, and the episode is void: to be retried or masked. ``tell``: it
    becomes a result that says so, and the episode goes on. The words are always the same ones, so that nothing about
    the machine gets into a transcript, and a replay of it reads alike.

    Raises:
        ConfigError: an unknown mode.
    """

    def __init__(self, mode: OnFault, what: str) -> None:
        if mode not in _MODES:
            raise unknown("on_fault", str(mode), _MODES)
        self._mode, self._what = mode, what
        self._lock = threading.Lock()
        #: Type of the exception -> how many were told, since the tool was made.
        self.told: Counter[str] = Counter()

    def result(self, fault: InfraError) -> ToolResult:
        """The result that tells ``fault``; in mode ``raise``, the fault itself is raised."""
        if self._mode == "raise":
            raise fault
        with self._lock:
            self.told[type(fault).__name__] += 1
        return ToolResult(f"{self._what} Try again later, or go on without it.", ok=False, fault=True)
