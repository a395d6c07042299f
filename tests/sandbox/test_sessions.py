"""What honest code sees: cells like a notebook's, forks that are live copies, limits that are said."""

from __future__ import annotations

import pytest

from arpo_env.errors import ConfigError, InfraError
from arpo_env.sandbox import Limits

from .conftest import Box


def test_cells(box: Box) -> None:
    s = box.session()
    assert s.run("x = 2\nx * 21").output == "42\n"
    assert s.run("x;").output == ""
    assert s.run("None").output == ""
    assert s.run("_, x").output == "(2, 2)\n"
    assert s.run("").output == ""
    assert s.run("# only a comment").ok
    assert s.run("def f(a: int) -> int:\n    return a + x\nf(1)").output == "3\n"
    assert s.run("__name__").output == "'__main__'\n"
    assert s.run("import pickle\nclass A: pass\ntype(pickle.loads(pickle.dumps(A()))) is A").output == "True\n"
    assert s.run("import asyncio\nasync def g():\n    await asyncio.sleep(0)\n    return 7\nawait g()").output == "7\n"
    assert s.run("import inspect\nprint(inspect.getsource(f))").output.startswith("def f(a: int)")


def test_order_of_output(box: Box) -> None:
    code = (
        "import sys, os, subprocess\n"
        "print('a', end=''); print('b', file=sys.stderr)\nsys.stdout.buffer.write(b'c\\n')\n"
        "subprocess.run(['echo', 'd'])\nos.write(1, b'e\\n')\nprint('f', flush=True)\n'g'"
    )
    assert box.session().run(code).output == "ab\nc\nd\ne\nf\n'g'\n"


def test_traceback_is_short_and_names_the_line(box: Box) -> None:
    s = box.session()
    s.run("def f(x):\n    return 1 / x")
    result = s.run("import json\nf(0)")
    assert result.status == "error"
    lines = result.output.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert '  File "<cell 2>", line 2, in <module>' in lines
    assert '  File "<cell 1>", line 2, in f' in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "arpo_inside" not in result.output
    assert 'File "<cell 3>", line 2' in s.run("x = 1\nx = = 2").output
    assert len(s.run("def r(): r()\nr()").output.splitlines()) < 20
    chained = "try:\n    raise ValueError('inner')\nexcept ValueError as e:\n    raise KeyError('o')"
    assert "ValueError: inner" in s.run(chained).output
    library = s.run("import json\njson.loads('{')").output
    assert "JSONDecodeError" in library
    assert len(library.splitlines()) <= 7


def test_exit_is_no_disaster(box: Box) -> None:
    s = box.session()
    s.run("x = 1")
    assert s.run("exit_code = 0\nraise SystemExit").status == "ok"
    assert s.run("import sys; sys.exit(3)").status == "error"
    assert s.run("x").output == "1\n"


def test_output_is_capped_head_and_tail(box: Box) -> None:
    result = box.session().run("print('h' * 5000)\nprint('t' * 5000)")
    assert result.output.startswith("h" * 1000 + "\n[... 8002 characters cut ...]\n")
    assert result.output.endswith("t" * 999 + "\n")
    assert box.session().run("print('é' * 1999)").output == "é" * 1999 + "\n"


@pytest.mark.parametrize(
    ("code", "say"),
    [
        ("x = '\x00'", "null"),
        ("x = '\ud800'", "surrogates"),
        ("x = " + "(" * 5000, "Error"),
        ("x = " + "1 + " * 200_000 + "1", ""),
        ("\tx = 1\n  y", "IndentationError"),
    ],
    ids=["NUL", "surrogate", "parentheses", "long expression", "indent"],
)
def test_broken_code_is_a_clear_result(box: Box, code: str, say: str) -> None:
    s = box.session()
    result = s.run(code)
    assert result.status in ("error", "killed")
    assert say in result.output
    assert s.run("1 + 1").output == "2\n" or s.run("1 + 1").output == "2\n"


def test_surrogates_in_output(box: Box) -> None:
    assert box.session().run("print('\\ud800x')").output == "\\ud800x\n"
    assert box.session().run("import os\nos.write(1, b'\\xff\\xfe'); print()").output == "��\n"


def test_ten_megabytes_of_code(box: Box) -> None:
    s = box.session()
    result = s.run("#" + "x" * 10_000_000)
    assert result.status == "error"
    assert "10000001 characters" in result.output
    assert s.run("#" + "x" * 3_000_000 + "\n1 + 1").output == "2\n"


def test_bad_arguments(box: Box) -> None:
    s = box.session()
    with pytest.raises(ConfigError, match="str"):
        s.run(b"1")  # type: ignore[arg-type]
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="seconds"):
            s.run("1", seconds=seconds)
    s.close()
    s.close()
    with pytest.raises(InfraError, match="closed"):
        s.run("1")


def test_seed(box: Box) -> None:
    draw = "import random, numpy as np\nrandom.random(), float(np.random.rand()), hash('a')"
    first = box.session(seed=5).run(draw).output
    assert box.session(seed=5).run(draw).output == first
    assert box.session(seed=6).run(draw).output != first


def test_lost_interpreter_starts_from_the_same_seed(box: Box) -> None:
    s = box.session(seed=5)
    draw = "import random; random.random()"
    first = s.run(draw).output
    assert s.run("import os; os._exit(1)").status == "killed"
    assert s.run(draw).output == first


def test_fork_takes_everything_along(box: Box) -> None:
    s = box.session()
    setup = (
        "import os, random\n"
        "def counter():\n    n = 0\n"
        "    def step():\n        nonlocal n\n        n += 1\n        return n\n"
        "    return step\n"
        "step = counter(); step()\n"
        "gen = (i * i for i in range(100)); next(gen); next(gen)\n"
        "os.makedirs('sub'); os.chdir('sub'); path = os.path.abspath('log')\n"
        "log = open('log', 'w+'); log.write('one\\n'); log.flush()\n"
        "back = open('log'); back.readline()\n"
        "dup = os.dup(back.fileno())\n"
        "import tempfile; gone = tempfile.TemporaryFile(); gone.write(b'abc'); gone.seek(1)\n"
        "r, w = os.pipe(); os.write(w, b'waiting')\n"
        "import mmap; shared = mmap.mmap(-1, 4096); shared[:3] = b'abc'\n"
        "import collections; x = collections.deque([1])\n"
    )
    assert s.run(setup).ok
    look = (
        "log.write('two\\n'); log.flush()\n"
        "x.append(len(x))\n"
        "shared[0] += 1\n"
        "(step(), next(gen), os.getcwd(), os.path.abspath('log') == path, open(path).read(), back.readline(), "
        "os.lseek(dup, 0, 1), gone.read(), os.read(r, 100), random.random(), list(x), bytes(shared[:3]), id(x) % 1)"
    )
    a, b = s.fork(), s.fork()
    first = a.run(look)
    assert first.ok, first
    assert b.run(look).output == first.output
    c = b.fork()
    again = b.run(look.replace("os.read(r, 100)", "os.write(w, b'x')"))
    assert c.run(look.replace("os.read(r, 100)", "os.write(w, b'x')")).output == again.output
    assert s.run(look).output == first.output


def test_what_has_its_other_end_elsewhere_is_closed_in_the_clone(box: Box) -> None:
    s = box.session()
    s.run("import subprocess\np = subprocess.Popen(['cat'], stdin=-1, stdout=-1)")
    c = s.fork()
    assert "BrokenPipeError" in c.run("p.stdin.write(b'x'); p.stdin.flush()").output
    assert s.run("p.stdin.write(b'own'); p.stdin.close(); p.stdout.read()").output == "b'own'\n"


_MAPS = {
    "to be read": (
        "import mmap\nopen('f', 'wb').write(b'.' * 9000)\nf = open('f', 'rb')\n"
        "m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); m[0]"
    ),
    "private": (  # its first page was written to, the second one only read, the third one not touched at all
        "import mmap\nopen('f', 'wb').write(b'.' * 9000)\nf = open('f', 'rb')\n"
        "m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY); m[1] = 65; m[4096]"
    ),
    "unlinked": (
        "import mmap, os\nf = open('f', 'w+b'); f.write(b'.' * 9000); f.flush()\n"
        "m = mmap.mmap(f.fileno(), 0); os.unlink('f')"
    ),
    "without a file": "import mmap\nm = mmap.mmap(-1, 9000); m[1] = 65",
}


@pytest.mark.parametrize("setup", _MAPS.values(), ids=_MAPS)
def test_a_clone_has_its_own_maps(box: Box, setup: str) -> None:
    """It shows its own file, now and later, and neither sees what the other one writes."""
    s = box.session()
    assert s.run(setup).ok
    write = (
        "if 'f' in dir():\n"
        "    with open('f' if os.path.exists('f') else f'/proc/self/fd/{f.fileno()}', 'r+b') as g:\n"
        "        for at in (0, 4096, 8192): g.seek(at); g.write(b'%c')\n"
        "else: m[8192] = ord('%c')\n"
    )
    look = "[chr(m[at]) for at in (0, 1, 4096, 4097, 8192)]"
    s.run("import os")
    a, b = s.fork(), s.fork()
    before = s.run(look).output
    mine = s.run(write.replace("%c", "S") + look).output
    assert mine != before
    assert [c.run(look).output for c in (a, b)] == [before, before]
    assert a.run(write.replace("%c", "A") + look).output == mine.replace("S", "A")
    c = a.fork()
    assert a.run(write.replace("%c", "B") + look).output == mine.replace("S", "B")
    assert [x.run(look).output for x in (s, b, c)] == [mine, before, mine.replace("S", "A")]


def test_a_library_in_the_folder_is_the_clones_own(box: Box) -> None:
    s = box.session()
    loaded = s.run(
        "import ctypes, mmap, os, re, shutil\n"
        "libm = re.search(r'/\\S*/libm[.-]\\S*', open('/proc/self/maps').read())[0]\n"
        "shutil.copy(libm, 'own.so'); lib = ctypes.CDLL('./own.so'); lib.cos.restype = ctypes.c_double\n"
        "lib.cos(ctypes.c_double(0))"
    )
    if "failed to map segment" in loaded.output:
        pytest.skip(f"{box.name}: no code can be run from the session's directory")
    assert loaded.output == "1.0\n"
    look = (
        "info = os.stat('own.so')\n"
        "own = f'{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x} {info.st_ino} '\n"
        "lines = [line for line in open('/proc/self/maps') if line.endswith('own.so\\n')]\n"
        "all(own in line for line in lines), [line.split()[1] for line in lines], lib.cos(ctypes.c_double(0))"
    )
    c = s.fork()
    result = c.run(look)
    assert result.output.startswith("(True, ["), result
    assert result == s.run(look)
    assert c.fork().run(look) == result


def test_a_clone_has_its_own_counters_and_input(box: Box) -> None:
    s = box.session()
    setup = (
        "import os, select\n"
        "e = os.eventfd(3, os.EFD_NONBLOCK); twin = os.dup(e)\n"
        "slow = os.eventfd(2, os.EFD_NONBLOCK | os.EFD_SEMAPHORE)\n"
        "open('in', 'w').write('one\\ntwo\\nthree\\n'); f = open('in'); os.dup2(f.fileno(), 0); os.read(0, 4)\n"
        "watcher = select.epoll(); r, w = os.pipe()\n"
        "watcher.register(r, select.EPOLLIN); watcher.register(e, select.EPOLLIN)\n"
    )
    assert s.run(setup).ok
    look = (
        "def tried(read, fd):\n    try: return read(fd)\n    except OSError as error: return error.strerror\n"
        "os.write(w, b'x'); os.eventfd_write(twin, 4)\n"
        "(os.read(0, 4), sorted(fd == r for fd, _ in watcher.poll(0)), os.read(r, 9), tried(os.eventfd_read, e), "
        "tried(os.eventfd_read, slow), len(watcher.poll(0)))"
    )
    c = s.fork()
    first = s.run(look)
    assert first.output == "(b'two\\n', [False, True], b'x', 7, 1, 0)\n"
    assert c.run(look) == first
    assert c.fork().run(look) == c.run(look)


def test_what_cannot_be_cloned_is_a_bad_descriptor_in_the_clone(box: Box) -> None:
    s = box.session()
    assert s.run("import ctypes, os\nfd = ctypes.CDLL(None).inotify_init1(os.O_NONBLOCK)").ok
    c = s.fork()
    assert "Bad file descriptor" in c.run("os.read(fd, 100)").output
    assert "temporarily unavailable" in s.run("os.read(fd, 100)").output
    assert c.run("new = open('f', 'w').fileno(); new != fd").output == "True\n"  # its number was not given away


def test_a_clone_writes_into_its_own_output(box: Box) -> None:
    """Also through a second descriptor of it, and when the first one is redirected at the moment of the fork."""
    s = box.session()
    s.run("import os\nkept = os.dup(1); log = open('log', 'w'); _ = os.dup2(log.fileno(), 1)")
    c = s.fork()
    for x, name in ((c, "clone"), (s, "parent")):
        assert x.run(f"os.write(1, b'{name}'); os.write(kept, b'{name}\\n');").output == f"{name}\n"
    for x, name in ((c, "clone"), (s, "parent")):
        assert x.run("_ = os.dup2(kept, 1); open('log').read()").output == f"'{name}'\n"


def test_holes_stay_holes_in_the_clone(box: Box) -> None:
    """Files that take no room fit into the clone, as they fitted into its parent; and more fits into both."""
    s = box.session()
    setup = (
        "import os, tempfile\n"
        "for name in 'abc':\n"
        "    with open(name, 'wb') as f: f.truncate(3 * 2**20); f.seek(2**20); f.write(b'x' * 5000)\n"
        "gone = tempfile.TemporaryFile(); gone.truncate(3 * 2**20); gone.seek(2**20); gone.write(b'y'); gone.flush()"
    )
    assert s.run(setup).ok
    c = s.fork()
    look = (
        "whole = open('a', 'rb').read(); gone.seek(0)\n"
        "len(whole), whole.strip(b'\\0') == b'x' * 5000, whole.find(b'x'), os.stat('c').st_blocks * 512 < 2**17, "
        "gone.read().find(b'y'), gone.tell(), open('more', 'wb').write(b'z' * 2**21)"
    )
    assert c.run(look).output == f"({3 * 2**20}, True, {2**20}, True, {2**20}, {3 * 2**20}, {2**21})\n"
    assert s.run(look) == c.run(look)


def test_extended_attributes_are_cloned(box: Box) -> None:
    s = box.session()
    setup = (
        "import os\nos.mkdir('d'); open('f', 'w').close()\n"
        "for path in 'df': os.setxattr(path, 'user.note', path.encode())\nos.chmod('f', 0o400)"
    )
    if "not supported" in (result := s.run(setup)).output:
        pytest.skip(f"{box.name}: this file system has no extended attributes")
    assert result.ok, result
    c = s.fork()
    assert c.run("[os.getxattr(path, 'user.note') for path in 'df']").output == "[b'd', b'f']\n"
    c.run("os.setxattr('d', 'user.note', b'other')")
    assert s.run("os.getxattr('d', 'user.note')").output == "b'd'\n"


def test_a_fork_that_fails_in_the_clone_costs_the_parent_nothing(box: Box) -> None:
    """As when more waits in a pipe than the clone's may hold, because the user's pipes have had their share."""
    s = box.session()
    s.run("import os\nr, w = os.pipe(); os.write(w, bytes(60_000)); x = 1")
    s.run("import sys\nsys.modules['arpo_inside.clonefd']._waiting = id")
    with pytest.raises(InfraError, match="could not be forked"):
        s.fork()
    assert s.run("x, len(os.read(r, 100_000))").output == "(1, 60000)\n"


def test_every_session_gets_the_room_of_its_own_limits(box: Box) -> None:
    """Places are made ahead, for the limits last asked for; another session's limits must not get them."""
    if not box.sandbox.server().features["own_roots"]:
        pytest.skip(f"{box.name}: one tmpfs for all")
    for size in (2**20, 2**20, 3 * 2**20, 2**20):
        s = box.sandbox.session(seed=0, limits=Limits(file_bytes=size))
        c = s.fork()
        for session in (s, c):
            look = "import os; v = os.statvfs('.'); v.f_blocks * v.f_frsize, os.listdir('.'), os.listdir('../tmp')"
            assert session.run(look).output == f"({size}, [], [])\n"
        c.close()
        s.close()


def test_threads_do_not_stop_a_fork(box: Box) -> None:
    s = box.session()
    s.run(
        "import threading\nstop = threading.Event()\n"
        "t = threading.Thread(target=stop.wait, daemon=True); t.start()\nx = 3"
    )
    c = s.fork()
    assert c.run("x, t.is_alive()").output == "(3, False)\n"
    assert s.run("t.is_alive()").output == "True\n"
    c.close()


def test_a_deep_line_of_forks(box: Box) -> None:
    s = box.session()
    s.run("n = 0\nopen('f', 'w').write('0')")
    for i in range(40):
        c = s.fork()
        s.close()
        s = c
        assert s.run("n += 1\nopen('f', 'a').write('.')\nn").output == f"{i + 1}\n"
    assert s.run("open('f').read()").output == repr("0" + "." * 40) + "\n"


def test_clone_of_a_lost_interpreter(box: Box) -> None:
    s = box.session()
    s.run("import threading, os\nthreading.Timer(0.01, os._exit, [1]).start()")
    while True:  # the server notices within moments
        result = s.run("x = 1")
        if result.status == "killed":
            break
    assert s.fork().run("1 + 1").output == "2\n"


def test_matplotlib_does_not_crash(box: Box) -> None:
    s = box.session()
    if "ModuleNotFound" in s.run("import matplotlib", seconds=60).output:
        pytest.skip(f"{box.name}: matplotlib is not installed")
    result = s.run(
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nplt.savefig('p.png')\nprint('done')", seconds=60
    )
    assert result.output.endswith("done\n"), result


def test_shared_memory_between_own_processes(box: Box) -> None:
    if box.name == "docker":
        pytest.skip("docker: the container has no /dev/shm, which its sessions would share")
    code = (
        "import multiprocessing as mp\n"
        "ctx = mp.get_context('fork')\n"
        "q = ctx.Queue(); v = ctx.Value('i', 0)\n"
        "def work():\n    with v.get_lock(): v.value += 1\n    q.put('hello')\n"
        "ps = [ctx.Process(target=work) for _ in range(3)]\n"
        "[p.start() for p in ps]; got = [q.get() for _ in ps]; [p.join() for p in ps]\n"
        "got, v.value"
    )
    assert box.session().run(code).output == "(['hello', 'hello', 'hello'], 3)\n"


def test_a_child_that_a_cell_forks_ends_with_the_cell(box: Box) -> None:
    """As a script's does: it does not go on as a second interpreter that answers the next cell."""
    s = box.session()
    code = "import os, time\nx = 1\nr, w = os.pipe()\nif os.fork() == 0:\n    x = 2; time.sleep(0.2)\nos.close(w)"
    assert s.run(code).status == "ok"
    for _ in range(3):
        assert s.run("x").output == "1\n"
    result = s.run("os.read(r, 1), x")  # the end of the pipe: nobody holds its other end any more
    assert (result.status, result.output) == ("ok", "(b'', 1)\n")
    ends = (
        "import atexit, sys\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    f = open('unflushed', 'w'); f.write('written'); atexit.register(print, 'goodbye')\n"
        "    %s\n"
        "code = os.WEXITSTATUS(os.waitpid(pid, 0)[1]); print(code, open('unflushed').read())\n"
    )
    for end, said in (("sys.exit(7)", "goodbye\n7"), ("sys.exit('why')", "why\ngoodbye\n1")):
        assert s.run(ends % end).output == f"{said} written\n"
    raised = s.run(ends % "1 / 0").output
    assert "ZeroDivisionError" in raised
    assert raised.endswith("goodbye\n1 written\n")
    assert s.run("if os.fork() == 0: atexit.register(lambda: [0 for _ in iter(int, 1)])").ok  # it never ends, and
    assert s.run("1 + 1").output == "2\n"  # nobody waits for it


@pytest.mark.parametrize("field", ["seconds", "memory_bytes", "output_chars", "file_bytes", "processes"])
@pytest.mark.parametrize("value", [0, -1, True, "5", float("nan")])
def test_limits_are_checked(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"Limits.{field}"):
        Limits(**{field: value})  # type: ignore[arg-type]
