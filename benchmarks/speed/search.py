"""How fast search is: the index by corpus size, and the cassette, each beside what it replaces.

    python -m benchmarks.speed.search                        # 1,000 to 100,000 pages, cassette
    python -m benchmarks.speed.search --pages 1000000        # a few minutes and GiB

Baselines, in the same run on the same inputs: ``rank-bm25`` (``pip install 'arpo[bench]'``; left out, and said so,
when it is missing) and the published code's cache, a JSON file rewritten on every miss. The cassette under many
processes, threads and ``kill -9`` is :mod:`benchmarks.speed.cassette`.

Every corpus size is measured in a process of its own, so that peak memory means something.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from arpo_env.cassette import Cassette, arguments_key
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.text import terms
from arpo_env.tasks.deepsearch import DeepSearchFamily

Row = dict[str, Any]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """(result, seconds)."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def percentiles(call: Callable[[str], Any], items: Sequence[str]) -> Row:
    """p50, p95 and p99 of ``call(item)`` over ``items`` in milliseconds: on the clock, and of this thread's CPU.

    The two differ on a machine with other work on it.
    """
    clock, cpu = [], []
    for item in items:
        start, used = time.perf_counter(), time.thread_time()
        call(item)
        clock.append(time.perf_counter() - start)
        cpu.append(time.thread_time() - used)
    rows = (("", clock), ("cpu_", cpu))
    return {f"{of}p{q}_ms": round(float(np.percentile(took, q)) * 1000, 4) for of, took in rows for q in (50, 95, 99)}


def peak_gib() -> float:
    """Peak resident memory of this process in GiB (mapped file pages that were touched count)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def measure_index(pages: int, queries: int, baseline_up_to: int) -> list[Row]:
    """Stream one world into an index on disk, open and search it; half the queries are titles, half questions."""
    family = DeepSearchFamily(pages=pages, world_seed=1)
    world, world_s = timed(lambda: family.world("train"))
    rng = np.random.default_rng(0)
    texts = [world[int(i)].title for i in rng.integers(0, pages, queries // 2)]
    texts += [family.task(0, "train", i).question for i in range(queries - len(texts))]
    before = peak_gib()
    with tempfile.TemporaryDirectory() as folder:
        used = time.process_time()
        _, build_s = timed(lambda: BM25Index.build(iter(world), folder))
        build_cpu_s = time.process_time() - used
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        built = peak_gib()
        loaded, load_s = timed(lambda: BM25Index.load(folder))
        searches = percentiles(lambda text: loaded.search(text, 10), texts)
        first = sum(loaded.search(text, 1)[0].title == text for text in texts[: queries // 2])
        with ThreadPoolExecutor(2) as pool:
            _, both_s = timed(lambda: list(pool.map(lambda text: loaded.search(text, 10), texts)))
    rows: list[Row] = [
        {
            "what": "BM25Index",
            "pages": pages,
            "world_s": round(world_s, 2),
            "build_s": round(build_s, 2),
            "build_cpu_s": round(build_cpu_s, 2),
            "load_ms": round(load_s * 1000, 1),
            "disk_MiB": round(size / 2**20, 1),
            "world_peak_GiB": before,
            "peak_GiB": built,
            **searches,
            "two_threads_per_s": round(len(texts) / both_s),
            "title_first": first / max(queries // 2, 1),
        }
    ]
    if pages <= baseline_up_to:
        rows.append(measure_rank_bm25([terms(f"{p.title} {p.text}") for p in world], pages, texts))
    return rows


def measure_rank_bm25(documents: list[list[str]], pages: int, texts: list[str]) -> Row:
    """The usual pure-Python BM25 on the same pages and queries (at most 50 of them: it is slow)."""
    try:
        from rank_bm25 import BM25Okapi
    except ImportError:
        return {"what": "rank-bm25", "pages": pages, "note": "not installed: pip install 'arpo[bench]'"}
    model, build_s = timed(lambda: BM25Okapi(documents))
    picked = texts[:25] + texts[-25:]
    searches = percentiles(lambda text: np.argsort(-model.get_scores(terms(text)))[:10], picked)
    return {"what": "rank-bm25", "pages": pages, "build_s": round(build_s, 2), **searches}


def measure_caches(entries: int) -> list[Row]:
    """Misses (writes) and hits of the cassette, and of a JSON file rewritten on every miss."""
    value = [["A title", "https://example.org", "word " * 60, 1.5]] * 3
    with tempfile.TemporaryDirectory() as folder:
        tape = Cassette(Path(folder) / "tape.sqlite")
        keys = [arguments_key({"query": f"query number {i}", "k": 3}) for i in range(entries)]
        writes = percentiles(lambda key: tape.put("search", "c", key, value), keys)
        hits = percentiles(lambda key: tape.get("search", "c", key), keys)
        tape.close()
        path = Path(folder) / "cache.json"
        table = dict.fromkeys(keys, json.dumps(value))
        rewritten = percentiles(lambda _: path.write_text(json.dumps(table)), keys[:20])
    return [
        {"what": "cassette, miss stored", "entries": entries, **writes},
        {"what": "cassette, hit", "entries": entries, **hits},
        {"what": "JSON file, miss stored", "entries": entries, **rewritten},
    ]


def show(rows: Sequence[Row]) -> None:
    """Print each row as ``name: key value, …``."""
    for row in rows:
        rest = ", ".join(f"{key} {value}" for key, value in row.items() if key != "what")
        print(f"{row['what']}: {rest}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="corpus sizes")
    parser.add_argument("--queries", type=int, default=400, help="searches a size")
    parser.add_argument("--baseline-up-to", type=int, default=100_000, help="largest size for rank-bm25")
    parser.add_argument("--entries", type=int, default=10_000, help="entries of the caches")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, NumPy {np.__version__}")
    rows: list[Row] = []
    context = multiprocessing.get_context("spawn")
    for pages in options.pages:
        with context.Pool(1) as pool:
            found = pool.apply(measure_index, (pages, options.queries, options.baseline_up_to))
        show(found)
        rows += found
    found = measure_caches(options.entries) if options.entries else []
    show(found)
    rows += found
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
