"""How fast verdicts are: a second of one core, by kind of answer, each pair new (nothing is cached between repeats).

    python -m benchmarks.speed.verifiers
    python -m benchmarks.speed.verifiers --seconds 5 --json verifiers.json

The claim checked is 500 verdicts a second a core on plain answers (numbers, words, letters). CPU time of this process
and its children is what counts, so a busy machine does not change the figures much; wall time stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.table import Table

from arpo_env.rewards.choice import choice_equal
from arpo_env.rewards.math import math_equal
from arpo_env.rewards.mixed import mixed_equal
from arpo_env.rewards.qa import qa_equal, qa_f1

#: Least verdicts a second a core of the plain kinds.
CLAIM = 500.0

#: kind -> (verdicts, the n-th verdict to give); half of the answers are right.
KINDS: Mapping[str, tuple[bool, Callable[[int], object]]] = {
    "math: integers": (True, lambda n: math_equal(f"{n:,}", str(n + n % 2))),
    "math: decimals": (True, lambda n: math_equal(f"{n}.50", rf"\frac{{{2 * n + 1 + n % 2}}}{{2}}")),
    "math: fractions": (True, lambda n: math_equal(rf"\dfrac{{{n}}}{{7}}", f"{n + n % 2}/7")),
    "math: units and percent": (True, lambda n: math_equal(f"{n} cm", rf"{n + n % 2}\text{{ cm}}")),
    "math: roots": (True, lambda n: math_equal(rf"{n}\sqrt{{3}}", rf"\sqrt{{{3 * n * n + n % 2}}}")),
    "qa: names": (True, lambda n: qa_equal(f"The {n}th Earl of Varn", [f"{n + n % 2}th Earl of Varn"])),
    "qa: Chinese": (True, lambda n: qa_equal(f"北京市第{n}中学", [f"北京市 第{n + n % 2}中学"])),
    "qa: F1": (True, lambda n: qa_f1(f"Earl of Varn {n}", [f"the Earl {n}", "Varn"])),
    "choice": (True, lambda n: choice_equal(f"({'ABCD'[n % 4]}) number {n}", ["B"])),
    "mixed: names and lists": (True, lambda n: mixed_equal(f"{n}, Varn, {n}", [f"{n}, Varn, {n + n % 2}"])),
    "math: tuples, by Math-Verify": (False, lambda n: math_equal(f"({n}, 2)", f"({n + n % 2}, 2)")),
    "math: expressions, by Math-Verify": (False, lambda n: math_equal(f"x^2 + {n}", f"{n + n % 2} + x^2")),
    "math: intervals, by Math-Verify": (False, lambda n: math_equal(f"[{n}, \\infty)", f"x \\ge {n + n % 2}")),
}


def cpu() -> float:
    """CPU seconds of this process and of children that have ended; workers that live are read from /proc."""
    own = os.times()
    ticks = os.sysconf("SC_CLK_TCK")
    return own.user + own.system + sum(_ticks(pid) for pid in _children()) / ticks


def _children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def measure(verdict: Callable[[int], object], seconds: float) -> dict[str, float]:
    """Verdicts a second of CPU and of wall time, over at least ``seconds`` of wall time."""
    verdict(1)  # imports, worker
    numbers = count(1000)
    begun, started, done = cpu(), time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(10):
            verdict(next(numbers))
        done += 10
    return {"per_cpu_second": done / max(cpu() - begun, 1e-9), "per_second": done / (time.perf_counter() - started)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="wall time a kind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args(arguments)
    console = Console()
    rows: dict[str, dict[str, float]] = {}
    table = Table("answers", "a second of one core", "a second of wall time", title="Verdicts")
    for kind, (_, verdict) in KINDS.items():
        rows[kind] = measure(verdict, args.seconds)
        table.add_row(kind, f"{rows[kind]['per_cpu_second']:,.0f}", f"{rows[kind]['per_second']:,.0f}")
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    slow = [kind for kind, (plain, _) in KINDS.items() if plain and rows[kind]["per_cpu_second"] < CLAIM]
    console.print(f"below {CLAIM:.0f} a second: {', '.join(slow) or 'none of the plain kinds'}")
    return 1 if slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
