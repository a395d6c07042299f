"""Printing for the commands that need no torch: by rich, or plainly where rich is not installed (extra ``train``).

Markup is written by us alone; what comes from elsewhere (messages, paths, model output) goes through :func:`escape`,
or ``[web]`` in it would be taken for a style and vanish.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

__all__ = ["Console", "Table", "console", "counting", "escape", "track"]

T = TypeVar("T")

if TYPE_CHECKING:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
else:
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:

        def escape(text: str) -> str:
            """A backslash before what looks like a style, as rich does."""
            return re.sub(r"\[(?=[a-z/])", r"\\[", text)

        class Table:
            """Columns of text, parted by two blanks."""

            def __init__(self, *columns: str, title: str = "") -> None:
                self.title, self.rows = title, [columns]

            def add_column(self, header: str, **_: Any) -> None:
                self.rows[0] = (*self.rows[0], header)

            def add_row(self, *cells: str) -> None:
                self.rows.append(cells)

            def __str__(self) -> str:
                widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
                lines = ("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in self.rows)
                return "\n".join(filter(None, (self.title, *lines)))

        class Console:
            """What we use of rich's, without styles."""

            is_terminal = False

            def __init__(self, *, stderr: bool = False) -> None:
                self._stderr = stderr

            def print(self, what: Any = "", *, markup: bool = True, **_: Any) -> None:
                out: TextIO = sys.stderr if self._stderr else sys.stdout
                text = str(what)
                if markup:
                    text = re.sub(r"(?<!\\)\[[a-z/][^\]]*\]", "", text).replace("\\[", "[")
                print(text, file=out)


console = Console()


def track(items: Iterable[T], total: int | None = None) -> Iterator[T]:
    """The items, with a bar while they are read."""
    try:
        from rich.progress import track as bar
    except ImportError:
        yield from items
        return
    yield from bar(items, "Reading", total=total, console=console, transient=True)


@contextlib.contextmanager
def counting(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told (done, total)."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        bar = shown.add_task(escape(name), total=None)
        yield lambda done, total: shown.update(bar, completed=done, total=total)
