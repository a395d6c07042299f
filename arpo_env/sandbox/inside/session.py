"""The interpreter process: first the warm zygote, then, by forking, every session.

The zygote never runs user code. A session is its fork, and a live clone is a fork of a session; both take the
same path (:func:`_fork`, :func:`_become`): the child moves into the root, the user id and the descriptors the
supervisor prepared for it, and only then says hello. Everything in a session is under the user's control, so
nothing it reports is believed beyond its own cell (see ``supervisor``).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import re
import resource
import signal
import socket
import struct
import sys
import threading
import warnings
from typing import Any

from . import cell, clonefd, clonemaps, landlock, seccomp, sysapi, wire

#: A request: length of what follows, nonce, operation. A report: nonce, code, errno.
REQUEST = struct.Struct(">I16sB")
REPORT = struct.Struct(">16sBI")
RUN, FORK = 1, 2
HELLO, DONE, FAILED = 1, 2, 3
#: Where a session that shares its root with others keeps the descriptor of its own directory.
HOME_FD = 250
_MAX_FDS = 256


class Channel:
    """The session's end of its control socket.

    Replaced in place and written to by number, so that a clone on its way to its hello touches little memory: every
    page it touches is copied.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
        self._buffer = bytearray()

    def receive(self) -> tuple[bytes, int, bytes, list[int]]:
        """Next request: nonce, operation, payload, descriptors sent along. ``EOFError`` when the other end left."""
        fds: list[int] = []
        need = REQUEST.size
        size = -1
        while True:
            if size < 0 and len(self._buffer) >= REQUEST.size:
                size = REQUEST.unpack_from(self._buffer)[0]
                need = REQUEST.size + size
            if size >= 0 and len(self._buffer) >= need:
                break
            # never past this frame: its descriptors must not be mixed with the next one's
            room = min(need - len(self._buffer), 2**18)
            data, got, _flags, _addr = socket.recv_fds(self.sock, room, 8, socket.MSG_CMSG_CLOEXEC)
            fds += got
            if not data:
                raise EOFError
            self._buffer += data
        _size, nonce, operation = REQUEST.unpack_from(self._buffer)
        payload = bytes(self._buffer[REQUEST.size : need])
        self._buffer.clear()
        return nonce, operation, payload, fds

    def report(self, nonce: bytes, code: int, number: int = 0) -> None:
        """One frame. Raises ``OSError`` when the other end is gone."""
        wire.write_all(self.fd, REPORT.pack(nonce, code, number))

    def replace(self, fd: int) -> None:
        """Go on over ``fd``, under the old number: in a fork, whose parent keeps the old channel."""
        os.dup2(fd, self.fd, False)
        os.close(fd)


class Runtime:
    """One session process between two forks."""

    def __init__(self, channel: Channel, config: dict[str, Any]) -> None:
        self.channel = channel
        self.config = config
        self.interpreter = cell.Interpreter()
        self.is_zygote = True
        self.output = (-1, -1)  # the inode of the pipe that is this session's output

    def loop(self) -> None:
        """Serve until the supervisor hangs up. In a forked child this is entered anew, on its own channel.

        Raises:
            SystemExit: in a child that a cell forked. Nothing above catches it, so that the interpreter ends there as
                it does after a script: with its exit handlers, its open files written, and its status.
        """
        while True:
            try:
                nonce, operation, payload, fds = self.channel.receive()
            except (EOFError, ConnectionError):
                os._exit(0)
            if operation == RUN:
                status = self.interpreter.run(payload.decode("utf-8", "surrogatepass"))
                self.channel.report(nonce, DONE, status)
            elif operation == FORK:
                self._fork(nonce, json.loads(payload), fds)

    def _fork(self, nonce: bytes, order: dict[str, Any], fds: list[int]) -> None:
        alone = _is_alone()
        state = None if alone else random.getstate()  # os.fork reseeds it
        held: list[clonefd.Held] = []
        saved: dict[int, clonefd.Saved] = {}
        maps: list[clonemaps.Map] = []
        self.interpreter.flush()
        sync_r, sync_w = os.pipe2(os.O_CLOEXEC)
        try:
            cwd = "" if self.is_zygote else os.readlink("/proc/self/cwd")
            base = os.readlink(f"/proc/self/fd/{HOME_FD}") if order["root"] is False and cwd else ""
            if not self.is_zygote:
                keep = {self.channel.fd, HOME_FD, sync_r, sync_w, *fds}
                held = clonefd.inventory(keep, self.output)
                saved = clonefd.save_deleted(held)
                maps = clonemaps.inventory(base or os.path.dirname(order["home"]))
            pid = sysapi.fork_sibling() if alone else _fork_with_threads()
        except OSError as error:
            for fd in (sync_r, sync_w, *fds):
                os.close(fd)
            self.channel.report(nonce, FAILED, error.errno or 1)
            return
        if pid:
            for fd in (sync_w, *fds):
                os.close(fd)
            while True:  # stand still until the child has its own files (or is dead: then this is the end of file)
                try:
                    os.read(sync_r, 1)
                    break
                except InterruptedError:
                    continue
            os.close(sync_r)
            self.channel.report(nonce, DONE)
            return
        os.close(sync_r)
        try:
            fresh = self.is_zygote
            self._become(order, fds)
            if base:  # the same place below the clone's own directory
                own = os.readlink(f"/proc/self/fd/{HOME_FD}")
                cwd = _moved(cwd, base, own)
                for h in held:
                    h.path = _moved(h.path, base, own)
                for m in maps:
                    m.path = _moved(m.path, base, own)
            try:
                os.chdir(cwd or order["home"])
            except OSError:  # it was removed, and the clone cannot stand in a directory without a name
                os.chdir(order["home"])
            out = fds[1]
            if held:
                clonefd.detach(held, saved, out)
            if maps:
                clonemaps.detach(maps, held)
            os.close(out)
            if fresh:
                _seed(order["seed"])
            elif state is not None:
                random.setstate(state)
            self.channel.report(nonce, HELLO, os.getuid())
        except BaseException as error:
            number = error.errno if isinstance(error, OSError) and error.errno else 1
            with contextlib.suppress(BaseException):
                self.channel.report(nonce, FAILED, number)
            os._exit(1)
        os.close(sync_w)
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]

    def _become(self, order: dict[str, Any], fds: list[int]) -> None:
        """Turn this fresh fork into the session ``order`` describes."""
        sock, out, root, *_ = fds
        os.setsid()
        self.channel.replace(sock)
        for fd in (1, 2):
            if self.is_zygote or clonefd.inode(fd) == self.output:  # else its parent has redirected or closed it
                os.dup2(out, fd)
        self.output = clonefd.inode(out)
        if order["root"]:
            os.fchdir(root)
            os.close(root)
            os.chroot(".")
        else:
            os.dup2(root, HOME_FD, inheritable=True)
            os.close(root)
        if order["uid"] is not None:
            sysapi.raw_setresuid(order["uid"])
        if self.config["harden"]:
            sysapi.hide()  # nobody else may look into this process
        if not self.is_zygote:
            return
        self.is_zygote = False
        limits = order["limits"]
        _limit(resource.RLIMIT_AS, _address_space() + limits["memory_bytes"])
        _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
        if order["nproc"]:
            _limit(resource.RLIMIT_NPROC, order["nproc"])
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_NOFILE, _MAX_FDS)
        _limit(resource.RLIMIT_MEMLOCK, 2**16)
        if self.config["harden"]:
            landlock.restrict(order["readable"], [order["landlock"]], [f"/dev/{d}" for d in ("null", "zero", "full")])
        self.interpreter.install()
        if not order["root"]:
            _show_home(os.path.dirname(order["home"]))


def _moved(path: str, old: str, new: str) -> str:
    return new + path[len(old) :] if path == old or path.startswith(old + "/") else path


def _show_home(home: str) -> None:
    """Where sessions share a root, let Python name its own directory by the path that is the same in every clone."""

    def shown(path: Any) -> Any:
        real = os.readlink(f"/proc/self/fd/{HOME_FD}")
        if isinstance(path, bytes):
            return _moved(path.decode("utf-8", "surrogateescape"), real, home).encode("utf-8", "surrogateescape")
        return _moved(path, real, home)

    getcwd, getcwdb, realpath = os.getcwd, os.getcwdb, os.path.realpath
    os.getcwd = lambda: shown(getcwd())
    os.getcwdb = lambda: shown(getcwdb())
    os.path.realpath = lambda *a, **k: shown(realpath(*a, **k))


def _is_alone() -> bool:
    """Does this process have one thread, so that it can be forked without it noticing?"""
    threads = os.stat("/proc/self/task").st_nlink - 2
    if threads < 1:  # not this kernel's way of counting (gVisor)
        threads = len(os.listdir("/proc/self/task"))
    return threads == 1 and sysapi.SUPPORTED


def _fork_with_threads() -> int:
    with warnings.catch_warnings():  # Python 3.12 warns of forking with threads; ours die, as documented
        warnings.simplefilter("ignore")
        return os.fork()


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _address_space() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[0]) * resource.getpagesize()


def _seed(seed: int) -> None:
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


#: Packages load and cache much at their first use; done once here, it is done for every session.
_FIRST_USES = {
    "numpy": "import numpy, numpy.random, numpy.linalg\n"
    "numpy.random.seed(0); numpy.linalg.solve(numpy.eye(2), numpy.ones(2)); str(numpy.arange(3.0) * 2)",
    "sympy": "import sympy\nx, y = sympy.symbols('x y')\n"
    "str(sympy.diff(x**2 * sympy.sin(x), x)); str(sympy.expand((x + 1)**2)); str(sympy.factor(x**2 - 1))\n"
    "sympy.solve(x**2 - 2, x); sympy.solve([x + y - 1, x - y], [x, y])\n"
    "sympy.simplify(sympy.sin(x)**2 + sympy.cos(x)**2)\n"
    "sympy.integrate(x * sympy.exp(x), x); sympy.Matrix([[1, 2], [3, 4]]).det(); sympy.sqrt(8); sympy.Rational(1, 3)\n"
    "sympy.sympify('2*x + 1'); sympy.latex(x / 2); sympy.N(sympy.pi, 5); sympy.factorint(12); sympy.isprime(7)",
}


def main(rfd: int, wfd: int, config: dict[str, Any]) -> None:
    """Become the zygote: preload, give up every privilege not needed to fork, serve. Never returns."""
    channel = Channel(rfd)
    os.environ.pop("GLIBC_TUNABLES", None)  # read by now; the programs a session starts need it not
    if config["preload"]:
        _reserve_arenas()
    loaded = []
    for name in config["preload"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            loaded.append(name)
    for name in loaded:
        with contextlib.suppress(Exception):  # only a head start: what is missing here is loaded when used
            exec(_FIRST_USES.get(name, ""), {})
    gate: int | None = None
    problems: list[str] = []
    if config["harden"] and not config["own_users"]:
        os.nice(10)  # one session's bomb may fill the common bound; the supervisor must still get its turn
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as f:
        f.write("1000")
    if config["harden"]:
        gate = _drop(config, problems)
    _warm_up()
    gc.collect()
    gc.freeze()
    _collapse()
    hello = json.dumps({"loaded": loaded, "gate": gate is not None, "landlock": landlock.abi(), "problems": problems})
    socket.send_fds(channel.sock, [struct.pack(">I", len(hello)) + hello.encode()], [] if gate is None else [gate])
    if gate is not None:
        os.close(gate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Runtime(channel, config).loop()


#: Arenas (1 MiB each) that the usual packages fill.
_ARENAS = 40
_HUGE, _MADV_COLLAPSE = 2**21, 25
_kept: list[bytes] = []  # an arena without a living object would go back to the system


def _reserve_arenas() -> None:
    """Have the allocator map its arenas now, side by side.

    Mapped one by one while modules are imported they lie between the libraries, where no huge page fits.
    """
    filler = [bytes(463) for _ in range(_ARENAS * 1984)]  # as many blocks of 496 bytes as an arena holds
    _kept.extend(filler[::1900])  # one in each


def _collapse() -> None:
    """Put the interpreter's memory into huge pages, so that a fork copies far fewer page-table entries.

    A page that a session writes is still copied alone: the kernel splits the map of a shared huge page. Linux 6.1;
    without it, or without room, everything stays as it is.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with open("/proc/self/maps") as f:
        maps = [line.split(None, 5) for line in f]
    for fields in maps:
        if fields[1] == "rw-p" and (len(fields) < 6 or fields[5] == "[heap]\n"):
            low, high = (int(x, 16) for x in fields[0].split("-"))
            low, high = -(-low // _HUGE) * _HUGE, high // _HUGE * _HUGE
            if low < high:
                libc.madvise(low, high - low, _MADV_COLLAPSE)


_HOT = re.compile(r"/(python3[^/]*|libpython3[^/]*|libc[.-][^/]*)\n")


def _warm_up() -> None:
    """Touch now what every session would have to fault in by itself.

    fork() copies page tables only of maps that hold a page of the process's own; for the code of the libraries each
    child would fault every page in again. One rewritten byte a library map makes the kernel copy its tables too.
    """
    random.setstate(random.getstate())
    with open("/proc/self/maps") as f:
        maps = [line.split(None, 5) for line in f]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for fields in maps:
        if len(fields) < 6 or fields[1] not in ("r-xp", "r--p") or not _HOT.search(fields[5]):
            continue
        low, high = (int(x, 16) for x in fields[0].split("-"))
        protection = 5 if "x" in fields[1] else 1
        if high - low <= 2**24 and libc.mprotect(low, high - low, protection | 2) == 0:
            byte = ctypes.c_char.from_address(low)
            byte.value = byte.value
            libc.mprotect(low, high - low, protection)


def _drop(config: dict[str, Any], problems: list[str]) -> int | None:
    keep = 0
    if config["own_roots"]:
        keep |= 1 << sysapi.CAP_SYS_CHROOT
    if config["own_users"]:
        keep |= 1 << sysapi.CAP_SETUID
    sysapi.drop_bounding(keep)
    if config["own_users"]:
        sysapi.prctl(sysapi.PR_SET_KEEPCAPS, 1)
        sysapi.syscall("setgroups", 0, 0)
        sysapi.syscall("setresgid", *[config["zygote_uid"]] * 3)
        sysapi.raw_setresuid(config["zygote_uid"])
    sysapi.set_caps(keep)
    sysapi.prctl(sysapi.PR_SET_NO_NEW_PRIVS, 1)
    sysapi.prctl(sysapi.PR_SET_DUMPABLE, 0)
    try:
        return seccomp.install(gate=True, own_users=config["own_users"])
    except OSError as error:
        problems.append(f"seccomp: {error}")
        if keep:
            raise  # sessions must not hold capabilities without the gate
        return None
