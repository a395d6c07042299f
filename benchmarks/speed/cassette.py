"""One cassette under fire: many threads of many processes, and ``kill -9`` at random moments.

    python -m benchmarks.speed.cassette                                    # 8 processes x 32 threads x 10,000, 40 kills
    python -m benchmarks.speed.cassette --processes 2 --threads 4 --searches 200 --kills 3

Every process searches through a :class:`~arpo_env.search.cache.CachedBackend` whose backend never answers the same
twice, so that a second answer to a query would show. What a process was told is noted outside the cassette before it
goes on; a killed process is started again. At the end every note must be what the cassette holds (nothing lost,
nothing replaced), every query must stand there once, and no process may have asked its backend twice for one query.
Exit status 1 says that something of this is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from arpo_env.cassette import Cassette, arguments_key
from arpo_env.search.base import Hit
from arpo_env.search.cache import CachedBackend

_CORPUS = "stress"
#: Seconds the backend takes.
_LATENCY = 0.005
_GO = "go"


class _Never:
    """Answers each call with words of its own, and notices a query that comes twice."""

    deterministic = False
    fingerprint = _CORPUS

    def __init__(self) -> None:
        self._calls = itertools.count()
        self._asked: set[str] = set()
        self._lock = threading.Lock()

    def search(self, query: str, k: int) -> list[Hit]:
        with self._lock:
            if query in self._asked:
                raise AssertionError(f"{query!r} was asked twice in one process")
            self._asked.add(query)
        time.sleep(_LATENCY)  # between a miss and its answer, other processes miss too
        return [Hit(f"{os.getpid()}.{next(self._calls)}", f"https://example.org/{query}", "words " * 40, 1.0)] * k


def work(path: Path, notes: Path, threads: int, searches: int, queries: int, seed: int) -> None:
    """One process: note each first sight of a query as ``query answer``, then say how long hits took.

    Two seeds each walk the same way, so that processes miss the same queries at the same time.
    """
    cached = CachedBackend(_Never(), Cassette(path), "record")
    out = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    told: dict[int, str] = {}
    while not (notes.parent / _GO).exists():
        time.sleep(0.001)

    def search(thread: int) -> list[float]:
        took = []
        for number in np.random.default_rng([thread, seed // 2]).integers(0, queries, searches).tolist():
            start = time.perf_counter()
            answer = cached.search(f"query {number}", 3)[0].title
            took.append(time.perf_counter() - start)
            before = told.setdefault(number, answer)
            if before is answer:
                os.write(out, f"{number} {answer}\n".encode())
            elif before != answer:
                raise AssertionError(f"query {number} gave {before}, then {answer}")
        cached.cassette.close()
        return took[len(took) // 2 :: 97]  # mostly hits

    with ThreadPoolExecutor(threads) as pool:
        late = [seconds for part in pool.map(search, range(threads)) for seconds in part]
    print(json.dumps(late))


def stress(processes: int, threads: int, searches: int, kills: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Run it all; the figures, with ``faults`` a list of what went wrong (empty: nothing)."""
    path, rng = folder / "tape.sqlite", np.random.default_rng(seed)
    queries = max(50, processes * threads * searches // 50)
    start = time.perf_counter()
    faults: list[str] = []
    late: list[float] = []
    lock = threading.Lock()
    ready = threading.Barrier(processes, action=(folder / _GO).touch, timeout=600)
    budget = [kills // processes + (i < kills % processes) for i in range(processes)]
    # A victim dies when it has noted so many answers: early and late, and never before it did anything.
    limits = [rng.integers(1, queries // 4 + 2, budget[i]).tolist() for i in range(processes)]

    def keep_alive(number: int) -> int:
        killed = 0
        for attempt, limit in enumerate([*limits[number], None]):
            notes = folder / f"notes-{number}-{attempt}"
            command = [sys.executable, "-m", __spec__.name, "--worker", str(path), str(notes), str(number)]
            command += map(str, (threads, searches, queries))
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
                while not attempt and not notes.exists() and worker.poll() is None:
                    time.sleep(0.005)
                if not attempt:
                    ready.wait()  # all begin at once, on the same queries
                while limit is not None and worker.poll() is None:
                    if notes.is_file() and notes.read_bytes().count(b"\n") >= limit:
                        worker.kill()
                        break
                    time.sleep(0.005)
                output = worker.communicate()[0]
            if worker.returncode == -signal.SIGKILL:
                killed += 1
            elif worker.returncode != 0:
                faults.append(f"process {number} ended with status {worker.returncode}")
                return killed
            else:
                with lock:
                    late.extend(json.loads(output))
        return killed

    with ThreadPoolExecutor(processes) as pool:
        killed = sum(pool.map(keep_alive, range(processes)))
    seconds = time.perf_counter() - start
    faults += check(path, sorted(folder.glob("notes-*")))
    tape = Cassette(path)
    key = arguments_key({"query": "query 0", "k": 3})
    tape.put(CachedBackend.tool, _CORPUS, key, [["t", "u", "words " * 40, 1.0]] * 3)
    quiet = CachedBackend(None, tape, "strict", corpus=_CORPUS)
    alone = []
    for _ in range(2000):
        begin = time.perf_counter()
        quiet.search("query 0", 3)
        alone.append(time.perf_counter() - begin)
    entries = len(tape)
    tape.close()
    return {
        "what": f"stress {processes}x{threads}x{searches}",
        "queries": queries,
        "entries": entries,
        "killed": killed,
        "faults": faults,
        "seconds": round(seconds, 1),
        "searches_per_s": round(processes * threads * searches / seconds),
        "hit_p50_ms": round(float(np.median(alone)) * 1000, 4),
        "hit_under_fire_p50_ms": round(float(np.median(late)) * 1000, 4) if late else None,
    }


def check(path: Path, notes: Sequence[Path]) -> list[str]:
    """What is wrong with the cassette, by the notes."""
    faults: list[str] = []
    tape = Cassette(path)
    tape.check()
    seen: dict[int, str] = {}
    for file in notes:
        for line in file.read_text().splitlines():
            number, answer = line.split()
            if seen.setdefault(int(number), answer) != answer:
                faults.append(f"query {number} was answered with {seen[int(number)]} and with {answer}")
    for query, answer in seen.items():
        stored = tape.get(CachedBackend.tool, _CORPUS, arguments_key({"query": f"query {query}", "k": 3}))
        if stored is None:
            faults.append(f"query {query} is lost")
        elif stored[0][0] != answer:
            faults.append(f"query {query} was answered with {answer}, and {stored[0][0]} is stored")
    # A process may be killed between storing and noting: a few entries more than notes, never fewer.
    if len(tape) < len(seen):
        faults.append(f"{len(seen)} queries were noted, {len(tape)} entries are there")
    tape.close()
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--threads", type=int, default=32, help="of each process")
    parser.add_argument("--searches", type=int, default=10_000, help="of each thread")
    parser.add_argument("--kills", type=int, default=40, help="how many processes are killed on the way")
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        path, notes, seed, threads, searches, queries = options.worker
        work(Path(path), Path(notes), int(threads), int(searches), int(queries), int(seed))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        figures = stress(options.processes, options.threads, options.searches, options.kills, Path(folder))
    print(", ".join(f"{key} {value}" for key, value in figures.items() if key != "faults"))
    for fault in figures["faults"][:20]:
        print(f"FAULT: {fault}")
    return 1 if figures["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
