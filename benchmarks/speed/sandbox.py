"""How fast is a Python call? Our fork server against ``subprocess python -c`` and ``docker exec``, in one run.

    python -m benchmarks.speed.sandbox [--calls 200] [--tier auto] [--episodes 64] [--json FILE]

The same work everywhere (one NumPy solve and one SymPy derivative). ``subprocess`` is what the published code
does: a bare interpreter a call, unprotected, stateless. ``docker exec`` is the common container sandbox, in the image
of our docker tier; it is left out, and said to be, where no engine runs. Numbers of one machine are comparable
with each other only: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from arpo_env.errors import ArpoEnvError
from arpo_env.sandbox import Limits, Sandbox, SandboxSession, make_sandbox

WORK = (
    "import numpy as np, sympy as sp\n"
    "a = np.linalg.solve(np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([9.0, 8.0]))\n"
    "x = sp.Symbol('x')\n"
    "print(a.tolist(), sp.diff(x**3 * sp.sin(x), x))"
)
ANSWER = "[2.0, 3.0] x**3*cos(x) + 3*x**2*sin(x)"


@dataclass(frozen=True)
class Row:
    """One measurement. Milliseconds a call; ``per_second`` is one caller, one call after the other."""

    name: str
    calls: int
    p50: float
    p99: float
    per_second: float


def measure(name: str, call: Callable[[], None], calls: int, warm: int = 3) -> Row:
    for _ in range(warm):
        call()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    return Row(name, calls, times[calls // 2], times[min(calls - 1, int(calls * 0.99))], 1e3 * calls / sum(times))


def _expect(output: str) -> None:
    if output.strip() != ANSWER:
        raise RuntimeError(f"the work gave {output!r}, expected {ANSWER!r}")


def by_subprocess() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    _expect(done.stdout)


def by_docker_exec(calls: int) -> Row:
    """``docker exec`` in one warm container. Raises ``ToolUnavailable`` without an engine or the image."""
    import docker
    from arpo_env.errors import ToolUnavailable
    from arpo_env.sandbox.docker import IMAGE, connect

    client = connect()
    try:
        try:
            container = client.containers.run(
                os.environ.get("ARPO_SANDBOX_IMAGE", IMAGE), ["sleep", "1000"], detach=True, network_mode="none",
                auto_remove=True, environment={"OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        except docker.errors.DockerException as error:
            raise ToolUnavailable(f"no container: {error}") from error
        try:

            def call() -> None:
                code, output = container.exec_run(["python3", "-c", WORK])
                if code:
                    raise RuntimeError(output.decode())
                _expect(output.decode())

            return measure("docker exec python3 -c", call, calls, warm=1)
        finally:
            container.remove(force=True)
    finally:
        client.close()


def by_sandbox(sandbox: Sandbox, calls: int) -> list[Row]:
    rows = []
    session = sandbox.session(seed=0)
    rows.append(measure(f"{sandbox.tier}: call", lambda: _expect(session.run(WORK).output), calls))

    def fresh() -> None:
        one = sandbox.session(seed=0)
        _expect(one.run(WORK).output)
        one.close()

    rows.append(measure(f"{sandbox.tier}: fresh interpreter + call", fresh, calls))
    rows += [_forks(sandbox, megabytes, min(calls, 100)) for megabytes in (0, 256)]
    session.close()
    return rows


def _forks(sandbox: Sandbox, megabytes: int, calls: int) -> Row:
    holder = sandbox.session(seed=0)
    made = holder.run(f"import numpy as np\nstate = np.ones({megabytes} * 2**17)", seconds=60)
    if not made.ok:
        raise RuntimeError(made.output)
    clones: list[SandboxSession] = []
    row = measure(f"{sandbox.tier}: fork, {megabytes} MB live", lambda: clones.append(holder.fork()), calls)
    for clone in [*clones, holder]:
        clone.close()
    return row


def many(sandbox: Sandbox, episodes: int, total: int) -> dict[str, float]:
    """``episodes`` at once, ``total`` calls in all: how many came back right, calls a second, memory growth here."""
    each = total // episodes + 1

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def episode(number: int) -> int:
        session = sandbox.session(seed=number)
        right = sum(session.run(f"n = {number} * {i}\nn").output == f"{number * i}\n" for i in range(each))
        session.close()
        return right

    with ThreadPoolExecutor(episodes) as pool:
        list(pool.map(episode, range(2)))
        before, start = resident(), time.perf_counter()
        right = sum(pool.map(episode, range(episodes)))
        seconds = time.perf_counter() - start
    return {
        "episodes": episodes, "calls": episodes * each, "lost": episodes * each - right,
        "calls_per_second": round(episodes * each / seconds, 1),
        "memory_growth_mb": round((resident() - before) / 2**20, 1),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="calls a measurement (the slow ones take a tenth)")
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--total", type=int, default=10_000, help="calls of the concurrent run")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)

    slow = max(5, args.calls // 10)
    baseline = measure("subprocess python -c", by_subprocess, slow, warm=1)
    rows = [baseline]
    notes = []
    try:
        rows.append(by_docker_exec(slow))
    except (ArpoEnvError, ImportError) as error:
        notes.append(f"docker exec: not measured ({error})")
    sandbox = make_sandbox(args.tier, limits=Limits(memory_bytes=2**30))
    rows += by_sandbox(sandbox, args.calls)
    # again at the end, so that a machine that became busy or quiet meanwhile shows
    rows.append(measure("subprocess python -c (again)", by_subprocess, slow, warm=1))
    crowd = many(sandbox, args.episodes, args.total)
    sandbox.close()

    width = max(len(r.name) for r in rows)
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {load}")
    print(f"{'':{width}}  {'p50 ms':>9} {'p99 ms':>9} {'calls/s':>9} {'x subprocess':>13}")
    for row in rows:
        ratio = baseline.p50 / row.p50
        print(f"{row.name:{width}}  {row.p50:9.2f} {row.p99:9.2f} {row.per_second:9.1f} {ratio:13.1f}")
    print("\n".join([f"concurrent: {crowd}", *notes]))
    if args.json:
        report = {"rows": [asdict(r) for r in rows], "concurrent": crowd, "notes": notes}
        args.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
