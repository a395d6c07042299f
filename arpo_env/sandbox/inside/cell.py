"""Runs one cell the way a notebook does: shared variables, last expression shown, short tracebacks.

This shares a process with the user's code. Nothing here protects anything; it only makes honest code
pleasant. What a session may claim about itself is decided in ``supervisor``.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import linecache
import os
import signal
import sys
import traceback
import types
from typing import Any

OK, ERROR, INTERRUPTED = 0, 1, 2
_OWN = "<arpo_inside"
_MAX_FRAMES = 8


class Stream(io.TextIOBase):
    """stdout or stderr: both write to one pipe through one buffer, so the order of writing is kept.

    A line leaves at once (a subprocess may be next to write), the start of a line waits for its end.
    """

    pending = bytearray()  # shared by both streams on purpose

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self.mode = "w"

    encoding = "utf-8"
    errors = "backslashreplace"

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._put(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def _put(self, data: bytes) -> None:
        pending = Stream.pending
        pending += data
        if data.endswith(b"\n") or len(pending) > 4096:
            self.flush()

    def flush(self) -> None:
        pending = Stream.pending
        if pending:
            data = bytes(pending)
            pending.clear()
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        """Stays open: closing the cell's own stdout would only lose what it says next."""

    @property
    def buffer(self) -> _Bytes:
        return _Bytes(self)


class _Bytes(io.RawIOBase):
    """What ``sys.stdout.buffer`` is: bytes into the same pending line."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raw = bytes(data)
        self._stream._put(raw)
        return len(raw)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()


def _no_input(prompt: object = "") -> str:
    raise EOFError("input() is not available: this interpreter has no user at its keyboard")


class _NoStdin(io.TextIOBase):
    encoding = "utf-8"

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> str:
        return ""

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        return ""

    def fileno(self) -> int:
        return 0


class Interpreter:
    """The variables of one session and the way cells run on them."""

    def __init__(self) -> None:
        self.main = types.ModuleType("__main__")
        self.main.__dict__["__builtins__"] = builtins
        self.count = 0
        self.running = False
        self.interrupted = False
        self.out = Stream(1, "<stdout>")
        self.err = Stream(2, "<stderr>")

    def install(self) -> None:
        """Make this the interpreter's ``__main__``, its streams and its SIGINT."""
        sys.modules["__main__"] = self.main
        sys.stdout, sys.stderr, sys.stdin = self.out, self.err, _NoStdin()
        sys.__stdout__, sys.__stderr__ = self.out, self.err  # type: ignore[misc, assignment]
        builtins.input = _no_input
        sys.argv = [""]
        signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, signum: int, frame: object) -> None:
        # A signal that arrives when the cell is already over must not break the loop that waits for the next.
        if self.running:
            self.interrupted = True
            raise KeyboardInterrupt("the cell ran out of time")

    def run(self, code: str) -> int:
        """Run one cell; everything it shows goes to descriptors 1 and 2. Returns OK, ERROR or INTERRUPTED.

        Raises:
            SystemExit: in a child that the cell forked. It is over with its cell, with this status, as a script's would
                be at its end; the session goes on in the parent.
        """
        self.count += 1
        self.interrupted = False
        status = ERROR
        me = os.getpid()
        try:
            try:
                self.running = True
                self._execute(code, f"<cell {self.count}>")
                status = OK
            except SystemExit as stop:
                if os.getpid() != me:
                    self.flush()
                    raise
                status = OK if stop.code in (None, 0) else ERROR
                if stop.code not in (None, 0):
                    self._say(f"SystemExit: {stop.code}\n")
            except BaseException as error:
                self.running = False
                self._say(_short_traceback(error))
            finally:
                self.running = False
        except KeyboardInterrupt:
            pass  # the interrupt came between two of the lines above
        self.flush()
        status = INTERRUPTED if self.interrupted else status
        if os.getpid() != me:
            sys.exit(int(status != OK))
        return status

    def flush(self) -> None:
        for stream in (sys.stdout, sys.stderr, self.out):
            with contextlib.suppress(BaseException):  # the user may have put anything there
                stream.flush()

    def _say(self, text: str) -> None:
        try:
            sys.stderr.write(text)
        except BaseException:
            self.err.write(text)

    def _execute(self, code: str, name: str) -> None:
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        tree = ast.parse(code, name)
        last: ast.Expression | None = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
        space = self.main.__dict__
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        if tree.body:
            _resolve(eval(compile(tree, name, "exec", flags, dont_inherit=True), space))
        if last is not None:
            value = _resolve(eval(compile(last, name, "eval", flags, dont_inherit=True), space))
            if value is not None:
                space["_"] = value
                if not code.rstrip().endswith(";"):
                    print(repr(value))


def _resolve(value: Any) -> Any:
    """Await what a cell with a top-level ``await`` compiled to; anything else is returned as it is."""
    if isinstance(value, types.CoroutineType) and value.cr_code.co_filename.startswith("<cell "):
        code = value.cr_code
        if code.co_name == "<module>":
            import asyncio  # here: it brings OpenSSL, whose maps every fork would copy

            return asyncio.run(value)
    return value


def _short_traceback(error: BaseException) -> str:
    """The traceback without this machinery: the user's own frames and the innermost one of a library."""
    try:
        report = traceback.TracebackException.from_exception(error, compact=True)
        seen: set[int] = set()
        part: traceback.TracebackException | None = report
        todo = [report]
        while todo:
            part = todo.pop()
            if id(part) in seen:
                continue
            seen.add(id(part))
            part.stack = _trim(part.stack)
            todo += [p for p in (part.__cause__, part.__context__) if p is not None]
            todo += getattr(part, "exceptions", None) or []
        return "".join(report.format())
    except BaseException as broken:  # a hostile __str__, or memory at its end
        return f"{type(error).__name__} (no traceback: {type(broken).__name__})\n"


def _trim(stack: traceback.StackSummary) -> traceback.StackSummary:
    frames = [f for f in stack if not f.filename.startswith((_OWN, "<frozen"))]
    kept = [f for i, f in enumerate(frames) if f.filename.startswith("<cell ") or i == len(frames) - 1]
    if kept and not any(f.filename.startswith("<cell ") for f in kept):
        # ast.parse itself: the line is in the SyntaxError, the frame says nothing
        kept = []
    if len(kept) > _MAX_FRAMES:
        kept = kept[:2] + kept[-(_MAX_FRAMES - 2) :]
    return traceback.StackSummary.from_list(kept)
