"""Math-Verify behind a wall: killable child processes (:mod:`arpo_env.workers`), shared by all threads.

Math-Verify bounds itself with SIGALRM, which works on a main thread only, and some inputs hold the interpreter inside
one C call.
"""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from pathlib import Path
from typing import Literal

from arpo_env.errors import ToolUnavailable
from arpo_env.workers import WorkerLost, WorkerPool

_SCRIPT = Path(__file__).with_name("_math_verify_worker.py")
#: What :meth:`MathVerifyPool.compare` says.
Outcome = Literal["equal", "different", "unreadable", "time", "memory", "crash"]


class MathVerifyPool(WorkerPool):
    """Compares LaTeX expressions. Thread-safe; the options are :class:`~arpo_env.workers.WorkerPool`'s."""

    def __init__(self, *, size: int | None = None, seconds: float = 5.0, memory_bytes: int = 2 << 30) -> None:
        super().__init__(_SCRIPT, size=size, seconds=seconds, memory_bytes=memory_bytes)

    def compare(self, gold: str, answer: str, rounding: Fraction = Fraction(0)) -> Outcome:
        """How ``answer`` stands to ``gold`` (both LaTeX, without delimiters); numbers may differ by ``rounding``.

        Raises:
            ToolUnavailable: math-verify is not installed.
            InfraError: workers die for reasons that are not this input's.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise ToolUnavailable("this answer needs Math-Verify, which is not installed: pip install 'arpo[tasks]'")
        try:
            reply = self.ask({"gold": gold, "answer": answer, "rounding": str(rounding)})
        except WorkerLost as lost:
            return lost.reason
        if "error" in reply:
            return "unreadable"
        return "equal" if reply["equal"] else "different"
