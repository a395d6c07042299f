"""The adversarial battery: each attack fails, and the next honest session works. Runs on every tier.

An attack prints BREACH where it got through; what it prints otherwise does not matter.
"""

from __future__ import annotations

import contextlib

import pytest

from arpo_env.errors import InfraError, ToolUnavailable
from arpo_env.sandbox import bundle, factory, local
from arpo_env.sandbox.local import LocalSandbox

from .conftest import LIMITS, SECRET, Box

#: Attacks that are over by themselves: name -> code. ``{secret}`` is a readable file of the host.
QUIET = {
    "host file": """
try:
    if 'canary' in open({secret!r}).read(): print('BREACH')
except OSError as e: print(e)
""",
    "host home and repository": """
import os
for path in ('/root/.bashrc', '/root/.ssh', '/work/main/pyproject.toml', '/home', '/etc/shadow', '/var/log', '/run'):
    try:
        found = os.listdir(path) if os.path.isdir(path) else [open(path).read()]
        if path == '/home': found = [f for f in found if f != 'agent']
        if path == '/run': found = [f for f in found if f not in ('lock', 'mount', 'shm', 'secrets', '.containerenv')]
        if path == '/var/log': found = [f for f in found if os.path.getsize('/var/log/' + f) > 2**22]
        if found: print('BREACH', path, found[:3])
    except OSError as e: print(e)
""",
    "environment of any process": """
import glob, os
for path in glob.glob('/proc/[0-9]*/environ') + ['/proc/self/environ']:
    try:
        if b'canary' in open(path, 'rb').read(): print('BREACH', path)
    except OSError as e: print(e)
if 'canary' in str(dict(os.environ)): print('BREACH')
""",
    "inherited descriptors": """
import os
for fd in range(3, 256):
    try: path = os.readlink(f'/proc/self/fd/{{fd}}')
    except OSError: continue
    ours = ('/home/agent', '/tmp/s/', '/proc', 'socket:', 'pipe:', '/dev/null', 'anon_inode:[eventpoll]')
    if not path.startswith(ours): print('BREACH', fd, path)
sockets = [fd for fd in range(256) if os.path.exists(f'/proc/self/fd/{{fd}}')
           and os.readlink(f'/proc/self/fd/{{fd}}').startswith('socket:')]
if len(sockets) != 1: print('BREACH: more than its own control channel', sockets)
""",
    "tcp, udp, dns, unix sockets": """
import socket
def attempt(f):
    try: f(); print('BREACH', f)
    except OSError as e: print(e)
attempt(lambda: socket.create_connection(('1.1.1.1', 80), 2))
attempt(lambda: socket.create_connection(('127.0.0.1', 22), 2))
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53)))
attempt(lambda: socket.getaddrinfo('example.com', 80))
attempt(lambda: socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock'))
attempt(lambda: socket.socket(socket.AF_UNIX).bind('\\0arpo'))
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW))
attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
""",
    "unshare, mount, chroot, setns, ptrace, keyctl, bpf": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, value):
    print(name, value)
    if value >= 0: print('BREACH', name)
for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x08000000):
    attempt('unshare', libc.unshare(flag))
attempt('mount', libc.mount(b'none', b'/home/agent/work', b'tmpfs', 0, None))
attempt('umount', libc.umount2(b'/proc', 2))
attempt('chroot', libc.chroot(b'/home/agent/work'))
attempt('setns', libc.setns(os.open('/proc/self/ns/mnt', 0) if os.path.exists('/proc/self/ns/mnt') else 0, 0))
attempt('ptrace', libc.ptrace(16, 1, None, None))
attempt('ptrace', libc.ptrace(0, 0, None, None))
attempt('setuid', libc.setuid(0) if os.getuid() else -1)
attempt('setresuid', libc.setresuid(1001, 1001, 1001))
attempt('setresuid', libc.setresuid(999, 999, 999))
libc.syscall.restype = ctypes.c_long
import platform
x86 = platform.machine() == 'x86_64'
attempt('keyctl', libc.syscall(ctypes.c_long(250 if x86 else 219), 0, -3, 0, 0, 0))
attempt('bpf', libc.syscall(ctypes.c_long(321 if x86 else 280), 0, 0, 0))
attempt('clone newuser', libc.syscall(ctypes.c_long(56 if x86 else 220), 0x10000000 | 17, 0, 0, 0, 0))
attempt('mknod', libc.mknod(b'disk', 0o060600, 0xfe00))
attempt('io_uring', libc.syscall(ctypes.c_long(425), 8, 0))
""",
    "calls that look into, watch or outlive others": """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
buf = ctypes.create_string_buffer(4096)
x86 = platform.machine() == 'x86_64'
def attempt(name, number, *args):
    if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args]) >= 0:
        print('BREACH', name)
own = libc.syscall(ctypes.c_long(434), os.getpid(), 0)
attempt('pidfd_getfd', 438, own, 0, 0)
attempt('userfaultfd', 323 if x86 else 282, 1)
attempt('perf_event_open', 298 if x86 else 241, buf, 0, -1, -1, 0)
attempt('name_to_handle_at', 303 if x86 else 264, -100, b'/', buf, buf, 0)
attempt('open_by_handle_at', 304 if x86 else 265, -100, buf, 0)
attempt('process_vm_readv', 310 if x86 else 270, os.getpid(), buf, 1, buf, 1, 0)
attempt('fanotify_init', 300 if x86 else 262, 0, 0)
attempt('seccomp', 317 if x86 else 277, 1, 0, buf)
attempt('personality', 135 if x86 else 92, 0x0040000)
attempt('syslog', 103 if x86 else 116, 3, buf, 4096)
attempt('shmget', 29 if x86 else 194, 0, 4096, 0o1600)
attempt('mq_open', 240 if x86 else 180, b'/x', 0x40, 0o600, 0)
attempt('clone3', 435, buf, 88)
attempt('memfd_secret', 447, 0)
attempt('a call not invented yet', 499, 0)
if x86: attempt('getpid of the x32 table', 0x40000000 + 39)
for path in ('/proc/self/mem', '/proc/1/mem', '/proc/self/oom_score_adj', '/proc/kcore', '/dev/mem', '/dev/kmsg'):
    try:
        os.open(path, os.O_RDWR); print('BREACH', path)
    except OSError as e: print(e)
import fcntl, termios
for fd in range(3):
    try: fcntl.ioctl(fd, termios.TIOCSTI, b'x'); print('BREACH TIOCSTI')
    except OSError as e: print(e)
""",
    "socket buffers that no limit counts": """
import socket
pairs, total = [], 0
try:
    while True:
        pair = socket.socketpair(); pairs.append(pair)
        for which in (socket.SO_SNDBUF, socket.SO_RCVBUF, 32, 33):
            try: pair[0].setsockopt(socket.SOL_SOCKET, which, 2**28); print('BREACH', which)
            except OSError: pass
        pair[0].setblocking(False)
        try:
            while True: total += pair[0].send(b'x' * 65536)
        except BlockingIOError: pass
except OSError as e: print(e)
if total > 2**27: print('BREACH', total)
""",
    "raise limits": """
import resource
for which in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, 10):
    try:
        resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)); print('BREACH', which)
    except (ValueError, OSError) as e: print(e)
    try:
        resource.prlimit(0, which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)); print('BREACH', which)
    except (ValueError, OSError) as e: print(e)
""",
    "write where others read": """
import os, sys, sysconfig
packages = sysconfig.get_paths()['purelib']
for path in ('/', '/usr/lib', '/dev', packages, os.path.dirname(os.__file__), '/proc/sys/kernel'):
    try: open(os.path.join(path, 'planted'), 'w'); print('BREACH', path)
    except OSError as e: print(e)
for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger', os.__file__):
    try: open(path, 'r+'); print('BREACH', path)
    except OSError as e: print(e)
""",
    "climb out of the root": """
import os
for path in ('/../../../..', '/proc/self/root/..', '/proc/1/root', '/proc/1/cwd', '/roots', '/roots/1', '/old'):
    try: names = os.listdir(path)
    except OSError as e: print(e); continue
    if {{'farm', 'boot', 'lost+found', '0', '1'}} & set(names): print('BREACH', path, names)
""",
}


@pytest.mark.parametrize("attack", QUIET)
def test_attack_fails(box: Box, attack: str) -> None:
    code = QUIET[attack].format(secret=str(box.secret_file))
    session = box.session()
    result = session.run(code)
    assert result.status == "ok", result
    assert "BREACH" not in result.output
    assert SECRET not in result.output
    session.close()
    box.honest()


def test_other_sessions_files(box: Box) -> None:
    """Secrets in a session's files are found by no stranger that walks everything it can see."""
    victim = box.session()
    victim.run("open('diary-of-a', 'w').write('canary'); import os; os.makedirs('sub'); open('sub/diary-of-b', 'w')")
    thief = box.session()
    result = thief.run(
        "import os, glob\n"
        "roots = ['/', '/tmp', '/roots', '/home'] + glob.glob('/proc/[0-9]*/root') + glob.glob('/proc/[0-9]*/cwd')\n"
        "for root in roots:\n"
        "    for here, dirs, files in os.walk(root):\n"
        "        dirs[:] = [d for d in dirs if d not in ('usr', 'sys', 'root', 'lib', 'task')]\n"
        "        if any('diary' in f for f in files): print('BREACH', here, files)\n",
        seconds=30,
    )
    assert result.status == "ok"
    assert "BREACH" not in result.output
    box.honest()


def test_programs_of_other_sessions(box: Box) -> None:
    """A program that a session started may be looked into by its user: not by a stranger, nor by another user."""
    victim = box.session()
    sibling, stranger = victim.fork(), box.session()
    start = "import subprocess\nopen('diary', 'w').write('canary')\nsubprocess.Popen(['sleep', '100']).pid"
    assert victim.run(start).ok
    # A later process has a higher id than every one before, unless ids have wrapped around.
    look = (
        "import os\n"
        "for pid in range(1, 5000):\n"
        "    if pid == os.getpid(): continue\n"
        "    for what in ('environ', 'maps', 'mem', 'root/home/agent/work/diary', 'cwd/diary'):\n"
        "        try:\n"
        "            with open(f'/proc/{pid}/{what}', 'rb') as f:\n"
        "                if what == 'mem' or f.read(1): print('BREACH', pid, what)\n"
        "        except OSError: pass\n"
    )
    result = stranger.run(look, seconds=60)
    assert result.status == "ok"
    assert "BREACH" not in result.output
    if box.sandbox.server().features["own_users"]:  # elsewhere open: see the table
        assert "BREACH" not in sibling.run(look, seconds=60).output
    box.honest()


def test_signals_to_others(box: Box) -> None:
    """kill(-1), every id there is, the server, its group: nobody else notices."""
    victim = box.session()
    victim.run("x = 'alive'")
    clone = victim.fork()
    killer = victim.fork()
    result = killer.run(
        "import os, signal\n"
        "me = os.getpid()\n"
        "for sig in (signal.SIGSTOP, signal.SIGKILL):\n"
        "    for pid in [1, os.getppid(), *range(2, 400)]:\n"
        "        if pid == me: continue\n"
        "        for f in (os.kill, os.killpg):\n"
        "            if f is os.killpg and pid == 1: continue  # that is everybody, see below\n"
        "            try: f(pid, sig); print('BREACH', pid, f.__name__)\n"
        "            except OSError: pass\n"
        "try: os.kill(-1, signal.SIGKILL)\n"
        "except OSError as e: print(e)\n"
    )
    assert "BREACH" not in result.output
    assert victim.run("x").output == "'alive'\n"
    assert clone.run("x").output == "'alive'\n"
    box.honest()


def test_fork_bomb(box: Box) -> None:
    before = box.counts()["processes"]
    session = box.session()
    result = session.run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", seconds=1.0)
    assert result.status in ("timeout", "killed")
    box.honest()
    session.close()
    box.honest()
    box.settle("processes", before)


def test_processes_are_counted_by_session(box: Box) -> None:
    """At its bound a session gets EAGAIN, while another one still forks, runs programs and starts threads."""
    code = (
        "import os, signal, time\n"
        "pids = []\n"
        "try:\n"
        "    while len(pids) < 100:\n"
        "        pid = os.fork()\n"
        "        if pid == 0:\n"
        "            while True: time.sleep(100)\n"
        "        pids.append(pid)\n"
        "except BlockingIOError as e: print('EAGAIN')\n"
        "len(pids) <= 12"
    )
    greedy = box.session()
    assert greedy.run(code).output == "EAGAIN\nTrue\n"
    other = box.session()
    work = "import subprocess, threading\nt = threading.Thread(target=print, args=('t',)); t.start(); t.join()\n"
    assert other.run(work + "subprocess.run(['echo', 'ran'])\n1").output == "t\nran\n1\n"
    other.fork().close()
    box.honest()
    greedy.close()


def test_fork_bomb_that_outlives_its_cell(box: Box) -> None:
    code = (
        "import os\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setsid()\n"
        "    while True:\n"
        "        try: os.fork()\n"
        "        except OSError: pass\n"
    )
    before = box.counts()["processes"]
    session = box.session()
    assert session.run(code).status == "ok"
    session.close()
    box.honest()
    box.settle("processes", before)


def test_memory_bomb(box: Box) -> None:
    session = box.session()
    result = session.run("x = []\nwhile True: x.append(bytearray(10**7))", seconds=60)
    assert result.status in ("error", "killed")
    assert "MemoryError" in result.output or result.status == "killed"
    box.honest()


def test_memory_bomb_by_files_nobody_maps(box: Box) -> None:
    code = (
        "import os, ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.memfd_create(b'x', 0) >= 0: print('BREACH')\n"
    )
    assert "BREACH" not in box.session().run(code).output
    box.honest()


def test_disk_bomb(box: Box) -> None:
    session = box.session()
    code = (
        "import os\n"
        "total, n = 0, 0\n"
        "try:\n"
        "    while n < 500:\n"
        "        with open(f'f{n}', 'wb', buffering=0) as f:\n"
        "            n += 1\n"
        "            while True:\n"
        "                k = f.write(b'x' * 2**20)\n"
        "                total += k\n"
        "                if k < 2**20: break\n"
        "except OSError as e: print(e)\n"
        "print(total)\n"
    )
    result = session.run(code, seconds=30)
    written = int(result.output.split()[-1])
    if box.name == "docker":
        session.close()  # one tmpfs for all: the others have no room until its owner is gone (see the table)
    else:
        assert written <= 4 * 2**20
    box.honest()
    session.close()


def test_a_bomb_of_empty_files_and_attributes(box: Box) -> None:
    """What a file system holds besides bytes is bounded too: it is the kernel's memory."""
    session = box.session()
    code = (
        "import os\n"
        "n = size = 0\n"
        "try:\n"
        "    while n < 3000:\n"
        "        open(f'f{n}', 'w').close(); n += 1\n"
        "    for i in range(3000):\n"
        "        for j in range(100): os.setxattr(f'f{i}', f'user.{j}', bytes(60000)); size += 60000\n"
        "except OSError as e: print(e)\n"
        "size"
    )
    result = session.run(code, seconds=60)
    assert result.status == "ok", result
    bound = 64 * 4096 * 1024 if box.name == "docker" else 2**23  # the container's as a whole, or the session's own
    assert int(result.output.split()[-1]) <= bound, result
    session.close()
    box.honest()


def test_a_bomb_of_arguments(box: Box) -> None:
    code = (
        "import subprocess\n"
        "for n in (10, 10_000):\n"
        "    try: print(subprocess.run(['/bin/true', *['y' * 130_000] * n]).returncode)\n"
        "    except (OSError, MemoryError) as e: print('refused')"
    )
    assert box.session().run(code, seconds=60).output == "0\nrefused\n"
    box.honest()


def test_endless_loop_keeps_the_variables(box: Box) -> None:
    session = box.session()
    session.run("x = 41")
    result = session.run("x += 1\nwhile True: pass", seconds=0.3)
    assert result.status == "timeout"
    assert "line 2" in result.output
    assert session.run("x").output == "42\n"


@pytest.mark.parametrize(
    "code",
    [
        "sum(range(10**13))",
        "import signal\nfor s in (2, 15, 1): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    ],
    ids=["C loop", "ignored signals", "stopped itself"],
)
def test_what_cannot_be_interrupted_is_killed(box: Box, code: str) -> None:
    session = box.session(seed=7)
    session.run("x = 1")
    result = session.run(code, seconds=0.3)
    assert result.status == "killed"
    assert "variables and files are gone" in result.output
    assert session.run("'x' in dir()").output == "False\n"
    box.honest()


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    try:\n        for i in range(10**12): i + 1\n    except BaseException: pass",
        "import threading\nl = threading.Lock(); l.acquire()\n"
        "while True:\n    try: l.acquire()\n    except BaseException: pass",
    ],
    ids=["loop", "lock"],
)
def test_a_swallowed_interrupt_does_not_hold_the_session(box: Box, code: str) -> None:
    """Interrupted after all (between two tries) or killed: either way it is over soon, and the session goes on."""
    session = box.session()
    result = session.run(code, seconds=0.3)
    assert result.status in ("timeout", "killed")
    assert session.run("1 + 1").output == "2\n"
    box.honest()


@pytest.mark.parametrize(
    "code",
    [
        "class A:\n    def __del__(self):\n        while True: pass\na = A(); del a",
        "class A:\n    def __repr__(self):\n        while True: pass\nA()",
        "class A(Exception):\n    def __str__(self):\n        while True: pass\nraise A()",
        "import sys\nclass A:\n    def flush(self):\n        while True: pass\nsys.stdout = A()",
        "import sys\nsys.setswitchinterval(1e6)\nimport threading\ndef f():\n    while True: pass\n"
        "for _ in range(4): threading.Thread(target=f, daemon=True).start()",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
        "10 ** 10 ** 8",
    ],
    ids=["__del__", "__repr__", "__str__", "flush", "threads", "blocked signals", "regex", "power"],
)
def test_a_loop_hidden_where_interrupts_get_lost(box: Box, code: str) -> None:
    session = box.session()
    assert session.run(code, seconds=0.3).status in ("timeout", "killed")
    session.run("1")
    assert session.run("1 + 1", seconds=30).output == "2\n"
    box.honest()


@pytest.mark.parametrize(
    "code",
    [
        "import gc\ngc.callbacks.append(lambda *a: [0 for _ in iter(int, 1)])\ngc.set_threshold(1)",
        "import sys\nsys.addaudithook(lambda *a: [0 for _ in iter(int, 1)])",
        "import signal\ndef h(*a): raise ValueError\nsignal.signal(signal.SIGALRM, h)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)",
        "import atexit\natexit.register(lambda: [0 for _ in iter(int, 1)])\nraise SystemExit",
        "import os\nos.getpid = lambda me=os.getpid(): me\nos.fork()",  # the child does not end with the cell
        "import json, sys\njson.loads = sys.exit\nsys.modules['arpo_inside.session'].REPORT = None",
    ],
    ids=["gc callback", "audit hook", "timer", "atexit", "two of itself", "its own runtime"],
)
def test_traps_left_for_the_time_between_two_cells(box: Box, code: str) -> None:
    """Whatever a cell leaves in its interpreter, the session answers again, and no other one notices."""
    bystander = box.session()
    bystander.run("x = 1")
    session = box.session()
    session.run(code, seconds=0.5)
    # The cell's own timer or second self may still speak in the cell's own next turns: that harms nobody else. When
    # the trap springs is the scheduler's affair, but it springs once: after a loss the interpreter is a fresh one.
    results = [session.run(f"40 + {i}", seconds=2.0) for i in range(4)]
    if results[-1].status == "killed":
        results.append(session.run("44", seconds=2.0))
    assert f"{39 + len(results)}" in results[-1].output.splitlines(), results
    assert sum(r.status == "killed" for r in results) <= 1, results
    assert bystander.run("x").output == "1\n"
    box.honest()


@pytest.mark.parametrize(
    "call", ["os.kill(-1, 0)", "os.setresuid(5, 5, 5)", "os.chroot('.')", "os.fork() or os._exit(0)"]
)
def test_floods_of_judged_calls(box: Box, call: str) -> None:
    """A session that keeps the supervisor busy judging slows the others at most."""
    session = box.session()
    code = f"import os\nif os.fork() == 0:\n    while True:\n        try: {call}\n        except OSError: pass"
    assert session.run(code).status == "ok"
    box.honest()
    session.close()
    box.honest()


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "import os; os.abort()",
        "import ctypes; ctypes.string_at(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os; os.closerange(0, 256)",
        "import os; os.execv('/bin/true', ['true'])",
    ],
    ids=["_exit", "abort", "segfault", "kill", "closed descriptors", "exec"],
)
def test_suicide_gives_a_fresh_interpreter(box: Box, code: str) -> None:
    session = box.session()
    session.run("x = 1")
    result = session.run("print('before', flush=True)\n" + code, seconds=1.5)
    assert result.status == "killed", result
    assert result.output.startswith("before\n")
    assert session.run("'x' in dir()").output == "False\n"
    box.honest()


def test_deep_recursion(box: Box) -> None:
    """It ends at the stack (the interpreter dies) or, from Python 3.12 on, at the memory limit (it may live on)."""
    session = box.session()
    code = "print('before', flush=True)\nimport sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()"
    result = session.run(code, seconds=1.5)
    assert result.status in ("killed", "error", "timeout"), result
    assert result.output.startswith("before\n")
    session.run("del f")  # of one that died in raising its error this may be the end
    assert session.run("1 + 1").output.endswith("2\n")
    box.honest()


def test_death_between_two_cells_is_reported(box: Box) -> None:
    session = box.session()
    session.run("import threading, os, time\nthreading.Timer(0.05, lambda: os._exit(3)).start()")
    result = session.run("import time; time.sleep(5)")
    assert result.status == "killed"
    assert session.run("1 + 1").output == "2\n"


def test_daemon_dies_with_its_session(box: Box) -> None:
    before = box.counts()["processes"]
    session = box.session()
    code = (
        "import os, time, signal\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        open('daemon', 'w').write(str(os.getpid()))\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        while True: time.sleep(100)\n"
        "    os._exit(0)\n"
        "os.wait()[1]"
    )
    assert session.run(code).output == "0\n"
    poll = (
        "while not os.path.exists('daemon') or not open('daemon').read(): pass\nos.kill(int(open('daemon').read()), 0)"
    )
    assert session.run(poll).ok
    session.close()
    box.settle("processes", before)
    box.honest()


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_timeouts_leave_no_zombie(box: Box, count: int) -> None:
    session = box.session()
    for _ in range(count):
        assert session.run("while True: pass", seconds=0.01).status == "timeout"
    session.close()
    box.settle("zombies", 0)
    box.honest()


def test_flood_of_output(box: Box) -> None:
    result = box.session().run("import os\nfor _ in range(200): os.write(1, b'y' * 10**6)\nprint('end')", seconds=60)
    assert result.status == "ok"
    assert len(result.output) < 2200
    assert "characters cut" in result.output
    assert result.output.endswith("end\n")
    box.honest()


def test_flood_without_end(box: Box) -> None:
    result = box.session().run("import os\nwhile True: os.write(2, b'y' * 65536)", seconds=0.5)
    assert result.status == "timeout"
    box.honest()


def test_stdin(box: Box) -> None:
    session = box.session()
    result = session.run("input('name? ')")
    assert result.status == "error"
    assert "EOFError" in result.output
    code = "import sys, os\nsys.stdin.read(), sys.stdin.readline(), os.read(0, 10)"
    assert session.run(code).output == "('', '', b'')\n"


def test_links_in_the_folder_are_not_followed_by_the_clone(box: Box) -> None:
    session = box.session()
    code = (
        "import os\n"
        "os.symlink('/etc/shadow', 'link'); os.symlink('/', 'everything'); os.symlink('link', 'chain')\n"
        "os.symlink('/proc/1/root', 'up'); os.mkfifo('pipe'); os.makedirs('d/e'); os.symlink('../..', 'd/e/loop')\n"
        "open('twice', 'w').write('t'); os.link('twice', 'again')"
    )
    assert session.run(code).ok
    clone = session.fork()
    look = (
        "sorted((p, os.readlink(p)) for p in os.listdir('.') if os.path.islink(p)), os.path.isfile('link'), "
        "os.path.samefile('twice', 'again'), sorted(os.listdir('.'))"
    )
    assert session.run(look).output == clone.run(look).output
    clone.run("open('again', 'w').write('other')")
    assert session.run("open('twice').read()").output == "'t'\n"
    box.honest()


def test_a_directory_too_deep_to_copy(box: Box) -> None:
    session = box.session()
    session.run("import os\nfor _ in range(200):\n    os.mkdir('d'); os.chdir('d')\nx = 1")
    with pytest.raises(InfraError, match="cannot be cloned"):
        session.fork()
    assert session.run("x").output == "1\n"  # the parent goes on
    session.close()
    box.honest()


_SOCKETS = (
    "import os, socket\n"
    "mine = [fd for fd in range(3, 256) if os.path.exists(f'/proc/self/fd/{fd}') and "
    "os.readlink(f'/proc/self/fd/{fd}').startswith('socket:')]\n"
)


@pytest.mark.parametrize(
    "frame",
    [
        "b'n' * 16 + bytes([2, 0, 0, 0, 0])",
        "b'n' * 16 + bytes([3]) + b'\\xff' * 4",
        "bytes(21)",
        "b'x' * 21",
        "b'\\xff' * 10**5",
        'b\'{"status": "ok"}\'',
    ],
    ids=["another nonce", "no errno", "zero", "x", "flood", "json"],
)
def test_forged_answers(box: Box, frame: str) -> None:
    """Whatever is written to the control channel without the nonce ends that session and touches no other."""
    bystander = box.session()
    bystander.run("x = 1")
    session = box.session()
    code = _SOCKETS + f"for fd in mine:\n    os.set_blocking(fd, False)\n    os.write(fd, {frame})\nwhile True: pass"
    result = session.run(code, seconds=1.0)
    assert result.status in ("killed", "timeout")  # never the forged "ok"
    session.run("1")
    assert session.run("1 + 1").output == "2\n"
    assert bystander.run("x").output == "1\n"
    box.honest()


def test_stolen_nonce(box: Box) -> None:
    """With the nonce of its own cell a session can end that cell early. Nothing more: the next one is its own."""
    session = box.session()
    code = _SOCKETS + (
        "import sys, struct\n"
        "frame = sys._getframe()\n"
        "while frame is not None and 'nonce' not in frame.f_locals: frame = frame.f_back\n"
        "nonce = frame.f_locals['nonce']\n"
        "for fd in mine: os.write(fd, struct.pack('>16sBI', nonce, 2, 0))\n"
        "while True: pass\n"
    )
    assert session.run(code).status == "ok"
    assert session.run("print('honest?')", seconds=0.3).status in ("killed", "timeout")
    session.run("1")
    assert session.run("1 + 1").output == "2\n"
    box.honest()


#: The right nonce, and a number that no errno has: in the parent's report of a fork, and in the clone's hello.
_NO_ERRNO_IN_THE_PARENT = (
    "session = sys.modules['arpo_inside.session']\n"
    "session.Runtime._fork = lambda self, nonce, order, fds: self.channel.report(nonce, 3, 2**32 - 1)"
)
_NO_ERRNO_IN_THE_CLONE = (
    "import os\nsession = sys.modules['arpo_inside.session']\n"
    "me, report = os.getpid(), session.Channel.report\n"
    "def forged(self, nonce, code, number=0):\n"
    "    report(self, nonce, *((code, number) if os.getpid() == me else (3, 2**32 - 1)))\n"
    "session.Channel.report = forged"
)


@pytest.mark.parametrize(
    "tamper",
    [
        "import os\nos.chroot = lambda path: None\nos.fchdir = lambda fd: None\nos.chdir = lambda path: None",
        "sysapi.raw_setresuid = lambda uid: None\nimport os\nos.chdir = lambda path: None",
        "import os\nsysapi.raw_setresuid = lambda uid: os.setresuid(uid + 1, uid + 1, uid + 1)",
        _NO_ERRNO_IN_THE_PARENT,
        _NO_ERRNO_IN_THE_CLONE,
    ],
    ids=["its parent's root", "its parent's user", "a stranger's user", "a parent without errno", "without errno"],
)
def test_a_clone_is_what_it_was_told_to_be(box: Box, tamper: str) -> None:
    """A clone that takes another root or user than it was given is refused, and so is one that reports nonsense."""
    features = box.sandbox.server().features
    if ("chroot" in tamper and not features["own_roots"]) or ("uid" in tamper and not features["own_users"]):
        pytest.skip(f"{box.name}: clones share root or user by design")
    bystander = box.session()
    bystander.run("x = 1")
    session = box.session()
    session.run("import sys; sysapi = sys.modules['arpo_inside.sysapi']")
    session.run(tamper)
    with pytest.raises(InfraError, match="fork"):
        session.fork()
    session.run("1")
    session.close()
    assert bystander.run("x").output == "1\n"
    box.honest()


@pytest.mark.parametrize("tamper", [_NO_ERRNO_IN_THE_PARENT, _NO_ERRNO_IN_THE_CLONE], ids=["parent", "clone"])
def test_what_breaks_the_supervisor_costs_its_own_session_only(tamper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were there a mistake in how a session's bytes are handled: here one is planted."""
    whole = bundle.modules
    *others, (name, source) = whole("supervisor")
    broken = source + "\ndef _reason(number):\n    raise OverflowError('planted')\n"
    monkeypatch.setattr(local, "modules", lambda entry: [*others, [name, broken]] if entry == name else whole(entry))
    try:
        tier = factory.choose()
    except ToolUnavailable as error:
        pytest.skip(str(error))
    with contextlib.closing(LocalSandbox(tier, preload=(), limits=LIMITS)) as sandbox:
        bystander, session = sandbox.session(seed=0), sandbox.session(seed=0)
        bystander.run("x = 1")
        session.run("import sys\n" + tamper)
        with pytest.raises(InfraError, match="planted"):
            session.fork()
        assert session.run("1 + 1").status in ("ok", "killed")
        assert bystander.run("x").output == "1\n"


def test_descriptors_sent_to_the_supervisor_are_not_kept(box: Box) -> None:
    session = box.session()
    session.run(
        "import os, socket, sys\n"
        "session = sys.modules['arpo_inside.session']\n"
        "def report(self, nonce, code, number=0):\n"
        "    socket.send_fds(self.sock, [session.REPORT.pack(nonce, code, number)], [0] * 16)\n"
        "session.Channel.report = report"
    )
    session.fork().close()
    before = box.counts()["descriptors"]
    for _ in range(5):
        session.fork().close()
    box.settle("sessions", 1)
    assert box.counts()["descriptors"] <= before
    session.close()
    box.honest()


def test_a_runtime_that_will_not_fork(box: Box) -> None:
    session = box.session()
    session.run("import sys\nsys.modules['arpo_inside.sysapi'].fork_sibling = lambda: 12345")
    with pytest.raises(InfraError):
        session.fork()
    session.close()
    box.honest()
