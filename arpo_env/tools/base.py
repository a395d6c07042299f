"""What a tool is: a shared resource (:class:`Tool`) and what one episode holds of it (:class:`ToolSession`).

The split is what makes forking cheap: clones of an environment share the ``Tool`` (an index, a cache, a
fork server) and each own a ``ToolSession`` (an interpreter's variables). Adding a tool is adding one file
with a ``Tool`` subclass. Nothing lists tools: an environment gets them from the function it is made with (split ->
tools), and each brings its own ``name``. Only the names that the option ``tools`` of ``gymnasium.make`` takes stand
somewhere, beside the functions that make them: in :mod:`arpo_env.toolboxes`. A tool that is not among them is given
itself, or by where its class stands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

from arpo_env.shared import Shared


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one tool call gave.

    ``text`` is plain text for the policy (not yet framed or escaped: the protocol does that).
    ``ok`` is False when the *policy* erred (bad query, exception in its code, time-out); machinery
    faults raise :class:`arpo_env.errors.InfraError` instead, or, where the user chose that they be told, are a
    result with ``fault`` (and without ``ok``: the call did not work, but nobody is to blame for it).
    ``useful`` is False where a call worked and gave nothing (no output, no hit): no error, but no reward either.
    """

    text: str
    ok: bool = True
    fault: bool = False
    useful: bool = True


class ToolSession(ABC):
    """One episode's view of a tool. Not thread-safe; one environment steps it from one thread at a time."""

    @abstractmethod
    def call(self, argument: str) -> ToolResult:
        """Run the tool on the raw text between its tags.

        Raises:
            InfraError: the machinery failed; the session is then unusable.
        """

    @abstractmethod
    def fork(self) -> Self:
        """A live copy: same state, same future, then independent (the clone law)."""

    @abstractmethod
    def get_state(self) -> Any:
        """JSON-able state from which :meth:`Tool.open` with ``state=`` restores an equal session."""

    def close(self) -> None:  # noqa: B027 (most sessions hold nothing)
        """Release what the session holds. Idempotent."""


class Tool(Shared, ABC):
    """A tool shared by environments and threads: a deep copy of an environment, or of its spec, holds this very one."""

    #: The tag of the tool: ``<name>argument</name>``.
    name: str
    #: One line for the system prompt: what goes between the tags and what comes back.
    description: str
    #: Whether equal calls after equal histories always give equal results (False for the live web).
    deterministic: bool = True

    @abstractmethod
    def check(self) -> None:
        """Prove that the tool works on this machine; called before the first episode.

        Raises:
            ToolUnavailable: with the reason and the fix.
        """

    @abstractmethod
    def open(self, seed: int, state: Any = None) -> ToolSession:
        """A fresh session for one episode; ``seed`` seeds any randomness inside it, ``state`` restores one."""
