"""The pool that environments step in: as many threads as calls, and none that cannot be given up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait

from arpo_algo.threads import DaemonPool


def test_a_burst_gets_all_its_threads_at_once() -> None:
    """Eight calls that wait for each other: with seven threads they would wait for ever."""
    for _ in range(50):
        pool, together = DaemonPool(8), threading.Barrier(8, timeout=20)
        futures = [pool.submit(together.wait) for _ in range(8)]
        assert sorted(f.result(timeout=30) for f in futures) == list(range(8))
        pool.shutdown()


def test_idle_threads_are_used_before_new_ones() -> None:
    pool = DaemonPool(8)
    for _ in range(20):
        pool.submit(int).result(timeout=10)
        time.sleep(0.002)
    assert pool._started <= 2
    pool.shutdown()


def test_an_abandoned_call_is_replaced_and_counts_no_more() -> None:
    pool, release = DaemonPool(2), threading.Event()
    hanging = [pool.submit(release.wait, 30) for _ in range(2)]
    waiting = pool.submit(int)
    while any(f.began is None for f in hanging):
        time.sleep(0.001)
    assert waiting.began is None, "both threads hang"
    assert waiting.left(5.0) == 5.0
    for future in hanging:
        pool.abandon(future)
    assert waiting.result(timeout=10) == 0
    assert waiting.left(5.0) < 5.0
    release.set()
    wait(hanging, 10)
    together = threading.Barrier(2, timeout=20)
    assert sorted(f.result(timeout=30) for f in [pool.submit(together.wait) for _ in range(2)]) == [0, 1]
    pool.shutdown()


def test_it_need_not_be_waited_for() -> None:
    pool, release = DaemonPool(1), threading.Event()
    future = pool.submit(release.wait, 30)
    pool.shutdown(wait=False)
    assert not future.done()
    release.set()
    assert future.result(timeout=10)
