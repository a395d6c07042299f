"""The Python tool: cells of one live interpreter an episode, forked with the episode.

An environment that never calls Python costs nothing: the interpreter is opened at the first call. Forking a
session that was never opened is free; forking an opened one is a live fork inside the sandbox. The state is the
list of cells run since the interpreter was fresh, replayed on restore; cells that draw on the operating system's
entropy or the clock replay differently, and nothing else does.
"""

from __future__ import annotations

from typing import Any, Self

from ..errors import ConfigError, InfraError, ToolUnavailable
from ..sandbox.base import Limits, Sandbox, SandboxSession
from ..sandbox.factory import shared_sandbox
from .base import Tool, ToolResult, ToolSession

_VERSION = 1


class PythonSession(ToolSession):
    """One episode's interpreter, opened when first needed."""

    def __init__(self, tool: PythonTool, seed: int, replay: list[str]) -> None:
        self._tool = tool
        self._seed = seed
        self._cells: list[str] = []
        self._replay = replay
        self._live: SandboxSession | None = None
        self._closed = False

    def call(self, argument: str) -> ToolResult:
        """Run ``argument`` as one cell. Not ``ok``: an error, a time-out, a lost interpreter, or no code to run.

        A cell that shows nothing (an assignment, ``pass``) worked, and is not ``useful`` by itself.
        """
        if not _holds_code(argument):
            return ToolResult("Error: there is no code to run; write Python between the tags.", ok=False)
        live = self._interpreter()
        result = live.run(argument)
        if result.status == "killed":
            self._cells.clear()  # what came before is gone from the interpreter, so from the state too
        else:
            self._cells.append(argument)
        text = result.output.rstrip("\n")  # the frame brings its own line break
        return ToolResult(text, result.ok, useful=bool(text.strip()))

    def fork(self) -> Self:
        if self._closed:
            raise InfraError("this Python session is closed; open a new one")
        twin = type(self)(self._tool, self._seed, list(self._replay))
        twin._cells = list(self._cells)
        if self._live is not None:
            twin._live = self._live.fork()
        return twin

    def get_state(self) -> dict[str, Any]:
        """``{"version", "seed", "cells"}``, JSON-able. A cell that timed out is among them and is run again."""
        return {"version": _VERSION, "seed": self._seed, "cells": [*self._replay, *self._cells]}

    def close(self) -> None:
        self._closed = True
        if self._live is not None:
            self._live.close()
            self._live = None

    def _interpreter(self) -> SandboxSession:
        if self._closed:
            raise InfraError("this Python session is closed; open a new one")
        if self._live is None:
            live = self._tool.sandbox().session(seed=self._seed, limits=self._tool.limits)
            for cell in self._replay:
                result = live.run(cell)
                if result.status == "killed":
                    live.close()
                    raise InfraError("restoring the Python session failed: a cell of its history lost the interpreter")
                self._cells.append(cell)
            self._replay = []
            self._live = live
        return self._live


def _holds_code(cell: str) -> bool:
    """Whether a cell holds more than blanks and comments. (Not parsed: it is untrusted, and may nest deeply.)"""
    return any(line.strip() and not line.lstrip().startswith("#") for line in cell.splitlines())


class PythonTool(Tool):
    """``<python>code</python>``: runs code in a sandbox shared by every environment of this process.

    ``sandbox``: a tier name for :func:`arpo_env.sandbox.make_sandbox`, or a :class:`Sandbox` of your own.
    Picklable while it names a tier, so it may be sent to worker processes; each then starts its own server.
    """

    name = "python"
    description = (
        "Python code; variables are kept between calls. Prints and the value of the last expression come back. "
        "No network, no files of the host."
    )

    def __init__(self, sandbox: str | Sandbox = "auto", *, limits: Limits | None = None) -> None:
        self._sandbox = sandbox
        self.limits = limits or Limits()

    def sandbox(self) -> Sandbox:
        """The sandbox behind this tool; the shared one of this process when only a tier was named."""
        if isinstance(self._sandbox, Sandbox):
            return self._sandbox
        return shared_sandbox(self._sandbox, self.limits)

    def check(self) -> None:
        """Start the sandbox and run ``1 + 1``.

        Raises:
            ToolUnavailable: it does not work here; the message says why and what to do.
            ConfigError: the sandbox's name is unknown.
        """
        try:
            session = self.sandbox().session(seed=0, limits=self.limits)
            try:
                result = session.run("1 + 1", seconds=30.0)
            finally:
                session.close()
        except (ToolUnavailable, ConfigError):
            raise
        except InfraError as error:
            raise ToolUnavailable(f"the Python tool does not work on this machine: {error}") from error
        if result.output.strip() != "2":
            raise ToolUnavailable(f"the Python tool ran 1 + 1 and gave {result.output!r}")

    def open(self, seed: int, state: Any = None) -> PythonSession:
        """A session whose ``random`` is seeded with ``seed``, or the one ``state`` describes (its seed wins)."""
        if state is None:
            return PythonSession(self, seed, [])
        if not isinstance(state, dict) or state.get("version") != _VERSION:
            found = state.get("version") if isinstance(state, dict) else type(state).__name__
            raise ConfigError(f"a Python session state has version {_VERSION}, got {found!r}")
        cells, kept = state.get("cells"), state.get("seed")
        if not isinstance(cells, list) or not all(isinstance(c, str) for c in cells) or not isinstance(kept, int):
            raise ConfigError("a Python session state holds 'seed' (an int) and 'cells' (a list of str)")
        return PythonSession(self, kept, list(cells))
