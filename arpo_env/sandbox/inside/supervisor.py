"""The trusted process inside the isolation: starts, limits, interrupts, kills and clones sessions. Runs no user code.

What is believed of whom. A session's process belongs to the code it runs, so a report from it is at most
"the cell with this nonce is over": fixed-size frames, any other byte ends the session. Who it is comes from the
kernel: the process id from SCM_CREDENTIALS, the user id, the root and the tag from /proc, its end from wait().
Output is read here, capped here; time is kept here. A session can therefore lie about its own cell (which it
can do anyway, by printing), and about nothing else.

One thread, one epoll loop, no call that a session could make wait.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import json
import os
import resource
import secrets
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from . import cell, census, judge, places, seccomp, session, sysapi, wire
from .capture import Capture
from .records import Birth, Process, Session

#: Seconds an interrupted cell gets to end by itself, and a fork to complete.
GRACE, FORK_SECONDS = 0.5, 20.0
#: How often the grace is renewed for a process that the machine did not let run.
MAX_GRACES = 20
CAPACITY = 1024
#: Descriptors kept free of sessions: to look into /proc, to kill, to replace one.
RESERVE = 16
_NO_SOCKET = socket.socket()  # of a session that has no process yet
_NO_SOCKET.close()


class Supervisor:
    """See the module docstring. ``rfd`` and ``wfd`` are the stream to the host."""

    def __init__(self, rfd: int, wfd: int, config: dict[str, Any]) -> None:
        self.rfd, self.wfd, self.config = rfd, wfd, config
        self.poll = selectors.DefaultSelector()
        self.sessions: dict[int, Session] = {}
        self.by_pid: dict[int, Session] = {}
        self.births: dict[int, Birth] = {}
        self.deadlines: list[tuple[float, int, Session, int]] = []
        self.count = itertools.count()
        self.tag = 2**40
        self.buffer = bytearray()
        self.gate: int | None = None
        self.features: dict[str, Any] = {}
        self.own_users = False
        self.place: places.Roots | places.Directories
        self.zygote: Process
        self.judge: judge.Judge

    # --- start ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        problems: list[str] = []
        self.place = self._choose_places(problems)
        hello = self._start_zygote(problems)
        self.judge = judge.Judge(self.births, self.sessions, self.own_users, self.zygote.pid)
        if self.config["private_mounts"]:
            with open("/proc/self/mountinfo") as f:
                proc = [line for line in f if " /proc " in line and " - proc " in line]
            hidden = "hidepid=" in (proc[-1] if proc else "")
        else:
            hidden = False
        self.features = {
            "layers": hello, "own_roots": self.place.own_roots, "own_users": self.own_users, "hidepid": hidden,
            "loaded": hello["loaded"], "problems": problems + hello["problems"], "python": sys.version.split()[0],
        }  # fmt: skip
        signal.signal(signal.SIGCHLD, lambda *_: None)
        wake_r, wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        self.poll.register(wake_r, selectors.EVENT_READ, lambda _mask: self._on_child(wake_r))
        self.poll.register(self.rfd, selectors.EVENT_READ, self._on_host)
        self.poll.register(self.zygote.sock, selectors.EVENT_READ, self._on_zygote)
        if self.gate is not None:
            self.poll.register(self.gate, selectors.EVENT_READ, self._on_gate)
        self._send({"ready": self.features})

    def _choose_places(self, problems: list[str]) -> places.Roots | places.Directories:
        config = self.config
        need = 1 << sysapi.CAP_SYS_ADMIN | 1 << sysapi.CAP_SYS_CHROOT
        if config["private_mounts"] and sysapi.SUPPORTED:
            if sysapi.effective_caps() & need == need:
                try:
                    with contextlib.suppress(OSError):
                        sysapi.mount("proc", "/proc", "proc", 14 | sysapi.MS_REMOUNT, "hidepid=2")
                    self.own_users = config["users"] > CAPACITY + places.FIRST_UID
                    with contextlib.suppress(OSError), open("/proc/sys/user/max_user_namespaces", "w") as f:
                        f.write("0")
                    return places.Roots(CAPACITY, self.own_users)
                except OSError as error:
                    self.own_users = False
                    problems.append(f"own roots: {error}")
            else:
                problems.append("own roots: no capability to mount inside the isolation")
        return places.Directories(CAPACITY, config["area"], config["home"])

    def _start_zygote(self, problems: list[str]) -> dict[str, Any]:
        """Start the warm interpreter; without a gate it gets no capability, and sessions no root of their own."""
        while True:
            ours, theirs = socket.socketpair()
            home = self.place.home
            # Huge pages for the heap where the machine allows them by madvise (see session._collapse); one heap for all
            # threads, each of which would reserve 64 MiB of a session's address space.
            env = {**self.config["env"], "HOME": f"{home}/work", "TMPDIR": f"{home}/tmp",
                   "MPLCONFIGDIR": f"{home}/tmp",
                   "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"}  # fmt: skip
            pid = os.fork()
            if pid == 0:
                try:
                    null = os.open("/dev/null", os.O_RDWR)
                    for fd in (0, 1, 2):
                        os.dup2(null, fd)
                    number = theirs.detach()
                    os.set_inheritable(number, True)
                    os.chdir("/")
                    python = self.config["python"] or sys.executable
                    os.execve(python, [python, "-P", "-c", self.config["stub"], str(number), str(number)], env)
                finally:
                    os._exit(127)
            theirs.close()
            order = {
                "bundle": self.config["bundle"], "entry": "session",
                "config": {"preload": self.config["preload"], "harden": self.config["harden"],
                           "own_roots": self.place.own_roots, "own_users": self.own_users,
                           "zygote_uid": judge.ZYGOTE_UID},
            }  # fmt: skip
            ours.sendall(wire.pack(order))
            head, fds, _flags, _addr = socket.recv_fds(ours, 4, 4, socket.MSG_CMSG_CLOEXEC)
            if len(head) == 4:
                hello: dict[str, Any] = json.loads(wire.read_exact(ours.fileno(), struct.unpack(">I", head)[0]))
                self.zygote = Process(ours, pid)
                ours.setblocking(False)
                self.gate = fds[0] if fds else None
                if self.gate is not None:
                    seccomp.wake_in_step(self.gate)
                return hello
            ours.close()
            _, status = os.waitpid(pid, 0)
            if not self.place.own_roots:
                raise RuntimeError(f"the warm interpreter did not start (wait status {status})")
            problems.append("own roots: seccomp gives no gate here")
            self.own_users = False
            self.place = places.Directories(CAPACITY, self.config["area"], self.config["home"])

    # --- the loop ------------------------------------------------------------------------------------------

    def run(self) -> None:
        while True:
            wait = None
            if self.deadlines:
                wait = max(0.0, self.deadlines[0][0] - time.monotonic())
            lacking = self.place.lacks_stock()
            events = self.poll.select(0 if lacking else wait)
            if lacking and not events:
                self.place.make_stock()
            for key, mask in events:
                try:
                    current = self.poll.get_key(key.fileobj)
                except (KeyError, ValueError):
                    continue  # an earlier event of this round closed it
                if current.data is key.data:
                    key.data(mask)
            now = time.monotonic()
            while self.deadlines and self.deadlines[0][0] <= now:
                _, _, late, token = heapq.heappop(self.deadlines)
                if late.token == token:
                    self._guard(late, self._on_deadline)

    def _guard(self, who: Session, handle: Callable[..., None], *args: Any) -> None:
        """``handle(who, *args)``, which works on what a session did. Should that break it, only ``who`` is lost."""
        try:
            handle(who, *args)
        except Exception as error:
            why = f"the interpreter did what its supervisor has no answer to ({type(error).__name__}: {error})"
            if who.sid in self.births:
                self._fail_birth(who, why, blameless=True)
            elif who.state != "dead":
                self._lose(who, why)

    def _deadline(self, target: Session, seconds: float) -> None:
        target.token = next(self.count)
        heapq.heappush(self.deadlines, (time.monotonic() + seconds, target.token, target, target.token))

    # --- the host ------------------------------------------------------------------------------------------

    def _send(self, message: dict[str, Any]) -> None:
        try:
            wire.write_all(self.wfd, wire.pack(message))
        except OSError:
            self._leave()

    def _reply(self, request: int, **content: Any) -> None:
        self._send({"id": request, **content})

    def _on_host(self, _mask: int) -> None:
        try:
            data = os.read(self.rfd, 2**18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._leave()
        self.buffer += data
        while (body := wire.take(self.buffer)) is not None:
            order = json.loads(body)
            try:
                getattr(self, "_op_" + order["op"])(order)
            except Exception as error:
                self._reply(order["id"], error=f"{type(error).__name__}: {error}")

    def _leave(self) -> None:
        """The host is gone: take everything down. As process 1 of a namespace, exiting is enough."""
        for victim in list(self.sessions.values()):
            with contextlib.suppress(Exception):
                self._kill(victim)
        with contextlib.suppress(OSError):
            os.kill(self.zygote.pid, signal.SIGKILL)
        if not self.place.own_roots and self.config.get("remove_area"):
            import shutil

            shutil.rmtree(self.config["area"], ignore_errors=True)
        os._exit(0)

    def _op_ping(self, order: dict[str, Any]) -> None:
        alive, zombies = 0, 0
        for pid in census.descendants():
            if census.is_zombie(pid):
                zombies += 1
            else:
                alive += 1
        self._reply(
            order["id"], sessions=len(self.sessions), births=len(self.births), processes=alive, zombies=zombies,
            descriptors=len(os.listdir("/proc/self/fd")),
        )  # fmt: skip

    def _op_new(self, order: dict[str, Any]) -> None:
        sid, request = order["sid"], order["id"]
        place = self.place.open(None, order["limits"]["file_bytes"])
        child = self._adopt(sid, order["seed"], order["limits"], place)
        self._bear(child, None, lambda problem: self._born(request, child, problem))

    def _born(self, request: int, child: Session, problem: str | None) -> None:
        if problem is None:
            self.sessions[child.sid] = child
            self._reply(request, sid=child.sid)
        else:
            self._reply(request, error=problem)

    def _op_fork(self, order: dict[str, Any]) -> None:
        request = order["id"]
        parent = self.sessions[order["sid"]]
        if parent.state == "dead":
            # The clone of a lost interpreter is a lost interpreter: the same note awaits both.
            place = self.place.open(None, parent.limits["file_bytes"])
            child = self._adopt(order["new"], parent.seed, parent.limits, place)
            child.note, child.state = parent.note, "dead"
            self.sessions[child.sid] = child
            self._reply(request, sid=child.sid)
            return
        if parent.state != "idle":
            raise RuntimeError(f"session {parent.sid} is {parent.state}, not idle")
        try:
            place = self.place.open(parent.place, parent.limits["file_bytes"])
        except OSError as error:
            raise RuntimeError(f"its files cannot be cloned: {error}") from error
        child = self._adopt(order["new"], parent.seed, parent.limits, place)
        parent.state = "forking"
        self._bear(child, parent, lambda problem: self._born(request, child, problem))

    def _op_close(self, order: dict[str, Any]) -> None:
        victim = self.sessions.pop(order["sid"], None)
        if victim is not None:
            self._close(victim)
        self._reply(order["id"])

    def _close(self, victim: Session) -> None:
        """End ``victim``, whatever it is at: whoever waits for its cell or for a fork of it gets an error."""
        birth = self.births.get(victim.sid)
        if birth is not None:
            # It is being replaced. The warm interpreter's forks are told apart only when they have arrived; one given
            # up on its way could use up what the gate grants to the next. So it is closed when it is there.
            self._reply(victim.request, error="the session was closed while its interpreter was replaced")
            birth.done = lambda problem: self._close(victim) if problem is None else None
            return
        waiting = victim.state in ("running", "grace")
        # Dead from here on, with nothing due and nothing to report: neither its end nor its deadline may replace it.
        victim.state, victim.nonce, victim.token = "dead", b"", next(self.count)
        if victim.placed:  # without a place of its own, its user id may be another session's by now
            self._kill(victim)
        for birth in [b for b in self.births.values() if b.parent is victim]:
            self._fail_birth(birth.child, "the session was closed while it was forked")
        self._release(victim)
        victim.capture = None
        if waiting:
            self._reply(victim.request, error="the session was closed while its cell ran")

    def _op_run(self, order: dict[str, Any]) -> None:
        target = self.sessions[order["sid"]]
        target.request = order["id"]
        target.seconds = order["seconds"]
        if target.state == "dead":
            self._replace(target, target.note + " since the last cell; this cell was not run")
            return
        if target.state != "idle":
            raise RuntimeError(f"session {target.sid} is {target.state}, not idle")
        self._drain(target)  # what background threads said between two cells belongs to no cell
        target.capture = Capture(target.limits["output_chars"])
        target.nonce = secrets.token_bytes(16)
        target.state = "running"
        self.poll.register(target.out, selectors.EVENT_READ, lambda _mask: self._guard(target, self._on_output))
        self._tell(target.process, target.nonce, session.RUN, order["code"].encode("utf-8", "surrogatepass"))
        self._deadline(target, order["seconds"])

    # --- sessions ------------------------------------------------------------------------------------------

    def _adopt(self, sid: int, seed: int, limits: dict[str, Any], place: places.Place) -> Session:
        self.tag -= 1
        return Session(sid, seed, limits, place, Process(_NO_SOCKET), -1, self.tag)

    def _bear(self, child: Session, parent: Session | None, done: Callable[[str | None], None]) -> None:
        """Have ``parent`` (the zygote when None) fork ``child`` into its place; ``done`` gets None or a problem.

        Raises:
            OSError, RuntimeError: it could not even be asked. ``child`` is released, ``parent`` goes on, ``done`` is
                not called.
        """
        try:
            self._conceive(child, parent, done)
        except BaseException:
            birth = self.births.pop(child.sid, None)
            if birth is not None:
                self.judge.over(birth, complete=False)
            child.state, child.token = "dead", next(self.count)
            if parent is not None:
                parent.owed.discard(child.nonce)
                parent.state = "idle"
            self._release(child)
            raise

    def _conceive(self, child: Session, parent: Session | None, done: Callable[[str | None], None]) -> None:
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            child.process = Process(ours)  # its end and the pipe's are the child's, and released with it
            undo.callback(theirs.close)
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            child.out, out_w = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, out_w)
            os.set_blocking(child.out, False)
            root = os.open(child.place.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, root)
            if root >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVE:  # the lowest free number is given out
                raise OSError(errno.EMFILE, "no descriptors left for another session: close some, or raise ulimit -Hn")
            order = self._announce(child, parent, done)
            undo.pop_all()
        source = self.zygote if parent is None else parent.process
        # They travel with the first byte and are closed here, sent or not.
        self._tell(source, child.nonce, session.FORK, json.dumps(order).encode(), [theirs.detach(), out_w, root])

    def _announce(
        self, child: Session, parent: Session | None, done: Callable[[str | None], None]
    ) -> dict[str, Any]:  # fmt: skip
        """Enter the birth into the books; what its source is to be told."""
        child.state, child.nonce = "starting", secrets.token_bytes(16)
        own_roots, own_users = self.place.own_roots, self.own_users
        order: dict[str, Any] = {"root": own_roots, "uid": child.place.uid, "home": self.place.home + "/work"}
        if parent is None:  # a clone has the rest from its parent
            nproc = child.limits["processes"] + 1
            if not own_users:  # one user id for all: counted by the gate, or else bounded together
                nproc = 0 if self.gate is not None else self.config["shared_processes"]
            order.update(
                limits=child.limits, nproc=nproc, seed=child.seed, landlock=child.place.landlock,
                readable=self.place.readable,
            )  # fmt: skip
        birth = Birth(child, parent, done, may_chroot=own_roots, may_setuid=own_users)
        self.births[child.sid] = birth
        self.poll.register(
            child.process.sock, selectors.EVENT_READ, lambda mask: self._guard(child, self._on_session, mask)
        )
        self._deadline(child, FORK_SECONDS)
        if parent is not None:
            parent.owed.add(child.nonce)
        return order

    def _on_hello(self, child: Session, code: int, pid: int, number: int) -> None:
        birth = self.births.get(child.sid)
        if birth is None or code != session.HELLO:
            why = f"the interpreter could not be forked: {_reason(number)} in the clone"
            self._fail_birth(child, why, blameless=True)
            return
        child.process.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        child.process.pid = pid
        problem = self._verify(child, pid)
        if problem is not None:
            self._fail_birth(child, problem)
            return
        self.by_pid[pid] = child
        child.token = next(self.count)
        child.state = "idle"
        del self.births[child.sid]
        self.judge.over(birth, complete=True)
        if birth.parent is not None and birth.parent.state == "forking":
            birth.parent.state = "idle"  # it may still be putting its things in order; its next cell queues behind
        birth.done(None)

    def _verify(self, child: Session, pid: int) -> str | None:
        """Does the kernel agree that this process became what it was told to become?"""
        try:
            if self.own_users:
                if set(census.users_of(pid)) != {child.place.uid}:
                    return "the fork did not take the user it was given"
            else:
                with contextlib.suppress(OSError, ValueError):
                    resource.prlimit(pid, seccomp.TAG_LIMIT, (child.tag, child.tag))
            if self.place.own_roots and os.stat(f"/proc/{pid}/root/home/agent").st_dev != child.place.device:
                return "the fork did not take the root it was given"
        except OSError as error:
            return f"the fork could not be verified: {error}"
        return None

    def _fail_birth(self, child: Session, problem: str, *, blameless: bool = False) -> None:
        """Undo a fork. ``blameless``: the clone said that it failed, so its parent did its part and goes on."""
        birth = self.births.pop(child.sid, None)
        child.token = next(self.count)
        self._kill(child)
        self._release(child)
        if birth is None:
            return
        self.judge.over(birth, complete=False)
        parent = birth.parent
        if parent is not None and parent.state == "forking":
            if blameless or child.nonce not in parent.owed:
                parent.state = "idle"
            else:  # it neither forked nor said so: nothing it holds can be relied on any more
                self._lose(parent, "the interpreter did not answer a fork")
        birth.done(problem)

    def _on_session(self, who: Session, mask: int) -> None:
        process = who.process
        if mask & selectors.EVENT_WRITE:
            self._flush(process, who)
        if not mask & selectors.EVENT_READ:
            return
        pid = 0
        try:
            if who.state == "starting":
                data, extra, _flags, _addr = process.sock.recvmsg(session.REPORT.size, socket.CMSG_SPACE(12) + 64)
                for level, kind, raw in extra:
                    if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                        pid = struct.unpack("=iII", raw[:12])[0]
                    elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                        for (fd,) in struct.iter_unpack("=i", raw[: len(raw) // 4 * 4]):
                            os.close(fd)  # nobody asked for it, and kept it would use up ours
            else:
                data = process.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_death(who, None)
            return
        process.inbox += data
        size = session.REPORT.size
        while len(process.inbox) >= size and who.process is process and who.state != "dead":
            nonce, code, number = session.REPORT.unpack_from(process.inbox)
            del process.inbox[:size]
            if nonce in who.owed:
                who.owed.discard(nonce)
                self._on_forked(who, nonce, code, number)
            elif nonce != who.nonce:
                self._lose(who, "the interpreter wrote to its control channel")
            elif who.state == "starting":
                self._on_hello(who, code, pid, number)
            elif who.state in ("running", "grace") and code == session.DONE:
                self._on_done(who, number)
            else:
                self._lose(who, "the interpreter wrote to its control channel")

    def _on_forked(self, parent: Session, nonce: bytes, code: int, number: int) -> None:
        """The parent of a fork says that it has done its part, or that it could not."""
        if code == session.DONE:
            return
        for birth in list(self.births.values()):
            if birth.parent is parent and birth.child.nonce == nonce:
                self._fail_birth(birth.child, f"the interpreter could not be forked: {_reason(number)}")

    def _on_done(self, who: Session, number: int) -> None:
        self._silence(who)
        self._drain(who, who.capture)
        assert who.capture is not None
        text = who.capture.text()
        status = "ok" if number == cell.OK else "error"
        if number == cell.INTERRUPTED:
            status = "timeout"
            self._purge(who)
            text += f"[timed out after {who.seconds:g} s; the variables are kept]"
        who.state, who.capture, who.nonce = "idle", None, b""
        who.token = next(self.count)
        self._reply(who.request, status=status, output=text)

    def _on_deadline(self, who: Session) -> None:
        if who.state == "running":
            who.state, who.graces, who.cpu = "grace", 0, 0.0
            with contextlib.suppress(OSError):
                who.cpu = census.cpu_of(who.process.pid)[1]
            self._interrupt(who)
        elif who.state == "grace" and (who.graces == 0 or self._starved(who)):
            who.graces += 1
            self._interrupt(who)  # again: the first may have come before the cell had even begun
        elif who.state == "grace":
            self._lose(who, f"timed out after {who.seconds:g} s and could not be interrupted")
        elif who.sid in self.births:
            self._fail_birth(who, f"the fork did not complete in {FORK_SECONDS:g} s")

    def _interrupt(self, who: Session) -> None:
        with contextlib.suppress(OSError):
            os.kill(who.process.pid, signal.SIGINT)
        self._deadline(who, GRACE / 2)

    def _starved(self, who: Session) -> bool:
        """On a crowded machine: it wants to run, and has hardly been let since it was interrupted."""
        try:
            state, cpu = census.cpu_of(who.process.pid)
        except OSError:
            return False
        return state == "R" and cpu - who.cpu < GRACE / 4 and who.graces < MAX_GRACES

    def _on_death(self, who: Session, status: int | None) -> None:
        if who.state == "starting":
            self._fail_birth(who, "the interpreter died while it was forked")
            return
        if who.state == "dead":
            return
        status = who.ended if status is None else status
        if status is None:  # the channel closed first: how it ended is known only if it is a child of ours
            with contextlib.suppress(ChildProcessError, OSError):
                for _ in range(20):
                    done, status = os.waitpid(who.process.pid, os.WNOHANG)
                    if done:
                        break
                    status = None
                    time.sleep(0.0005)
        self._lose(who, "the interpreter " + census.how_it_ended(status))

    def _lose(self, who: Session, why: str) -> None:
        """The interpreter is gone or no longer to be trusted: kill what is left, replace it if a cell waits."""
        running = who.state in ("running", "grace")
        forking = who.state == "forking"
        self._silence(who)
        if running:
            self._drain(who, who.capture)
        self._kill(who)
        with contextlib.suppress(KeyError, ValueError):
            self.poll.unregister(who.process.sock)  # its end would be news for ever
        who.state, who.note, who.nonce = "dead", why, b""
        who.token = next(self.count)
        if running:
            self._replace(who, why)
        elif forking:
            for birth in [b for b in self.births.values() if b.parent is who]:
                self._fail_birth(birth.child, why)

    def _replace(self, who: Session, why: str) -> None:
        """A fresh interpreter in the same session; answers the waiting cell when it is up."""
        request = who.request
        text = "" if who.capture is None else who.capture.text()
        who.capture = None
        if text and not text.endswith("\n"):
            text += "\n"
        text += f"[{why}; the variables and files are gone, the next cell starts afresh]"
        self._release(who)
        try:
            who.place = self.place.open(None, who.limits["file_bytes"])
        except Exception as error:
            self._reply(request, error=f"no fresh interpreter: {error}")
            return
        self.tag -= 1
        who.tag, who.note, who.placed, who.ended = self.tag, "", True, None
        who.owed.clear()

        def up(problem: str | None) -> None:
            if problem is None:
                self._reply(request, status="killed", output=text)
            else:
                who.state, who.note = "dead", problem
                self._reply(request, error=problem)

        try:
            self._bear(who, None, up)
        except Exception as error:
            up(f"no fresh interpreter: {error}")

    def _silence(self, who: Session) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self.poll.unregister(who.out)

    def _release(self, who: Session) -> None:
        """Give back what a dead process held: socket, pipe, place."""
        self._silence(who)
        with contextlib.suppress(KeyError, ValueError):
            self.poll.unregister(who.process.sock)
        for fd in who.process.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        who.process.fds.clear()
        who.process.sock.close()
        if who.out >= 0:
            os.close(who.out)
            who.out = -1
        if who.placed:
            who.placed = False
            self.place.close(who.place)

    # --- bytes ---------------------------------------------------------------------------------------------

    def _tell(self, process: Process, nonce: bytes, op: int, payload: bytes, fds: list[int] | None = None) -> None:
        """Queue one request. Descriptors go out with the first byte of their own frame and are then closed here."""
        frame = session.REQUEST.pack(len(payload), nonce, op) + payload
        if fds:
            try:
                sent = socket.send_fds(process.sock, [frame], fds)
            except BlockingIOError:
                # Only a stopped zygote can get here; its queue holds far more forks than there are slots.
                raise RuntimeError("the interpreter does not take requests") from None
            except OSError:
                sent = len(frame)  # it is dead; its death is reported by the channel
            finally:
                for fd in fds:
                    os.close(fd)
            frame = frame[sent:]
        process.outbox += frame
        self._flush(process, None)

    def _flush(self, process: Process, who: Session | None) -> None:
        box = process.outbox
        while box:
            try:
                sent = process.sock.send(memoryview(box)[: 2**18])
            except BlockingIOError:
                break
            except OSError:
                box.clear()
                break
            del box[:sent]
        with contextlib.suppress(KeyError, ValueError):
            key = self.poll.get_key(process.sock)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if box else 0)
            if key.events != events:
                self.poll.modify(process.sock, events, key.data)

    def _on_output(self, who: Session) -> None:
        try:
            data = os.read(who.out, 2**16)
        except BlockingIOError:
            return
        if not data:
            self._silence(who)
        elif who.capture is not None:
            who.capture.feed(data)

    def _drain(self, who: Session, into: Capture | None = None) -> None:
        for _ in range(16):  # a pipe holds 64 KiB; a writer that never stops must not keep us here
            try:
                data = os.read(who.out, 2**16)
            except (BlockingIOError, OSError):
                return
            if not data:
                return
            if into is not None:
                into.feed(data)

    # --- killing -------------------------------------------------------------------------------------------

    def _kill(self, who: Session) -> None:
        """Every process of the session, daemons included."""
        pid = who.process.pid
        self.by_pid.pop(pid, None)
        if self.own_users:
            assert who.place.uid is not None
            os.seteuid(who.place.uid)
            try:
                # One pass is enough: a process with a kill pending cannot finish a fork.
                os.kill(-1, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
            finally:
                os.seteuid(0)
                if self.config.get("die_with_parent"):  # a change of user clears it
                    sysapi.prctl(sysapi.PR_SET_PDEATHSIG, signal.SIGKILL)
            return
        dead = set()
        if pid:
            dead.add(pid)
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._kill_tagged(who, dead)

    def _purge(self, who: Session) -> None:
        """Every process of the session but its interpreter: what an interrupted cell left running."""
        self._kill_tagged(who, {who.process.pid})

    def _kill_tagged(self, who: Session, done: set[int]) -> None:
        """Kill the session's processes but those in ``done``, until a look finds no other: the dying cannot fork."""
        limited: set[int] = set()
        for _ in range(500):
            alive = [p for p in self._members(who) if p not in done]
            if not alive:
                return
            fresh = [p for p in alive if p not in limited]
            if fresh and len(alive) > 2:
                # A bomb refills while it is being killed. Take away the right to fork first; nobody dies
                # meanwhile, so at its bound it cannot grow, and a few looks see all of it.
                limited.update(fresh)
                for pid in fresh:
                    with contextlib.suppress(OSError, ValueError):
                        resource.prlimit(pid, resource.RLIMIT_NPROC, (0, 0))
                continue
            done.update(alive)
            for victim in alive:
                with contextlib.suppress(OSError):
                    os.kill(victim, signal.SIGKILL)

    def _members(self, who: Session) -> list[int]:
        if not self.own_users:
            return census.tagged(who.tag)
        found = []
        for pid in census.descendants():
            with contextlib.suppress(OSError):
                if census.user_of(pid) == who.place.uid:
                    found.append(pid)
        return [p for p in found if not census.is_zombie(p)]

    # --- the kernel's news ---------------------------------------------------------------------------------

    def _on_child(self, wake: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.zygote.pid:
                self._leave()
            who = self.by_pid.pop(pid, None)
            if who is not None and who.process.pid == pid:
                # Its last report may still be in the socket: that one counts first.
                who.ended = status
                self._guard(who, self._on_session, selectors.EVENT_READ)
                if who.process.pid == pid and who.state != "dead":
                    self._guard(who, self._on_death, status)

    def _on_zygote(self, _mask: int) -> None:
        try:
            data = self.zygote.sock.recv(4096)
        except BlockingIOError:
            return
        if not data:
            self._leave()
        # Its reports (a fork that failed) carry the nonce of the child they are about.
        self.zygote.inbox += data
        while len(self.zygote.inbox) >= session.REPORT.size:
            nonce, code, number = session.REPORT.unpack_from(self.zygote.inbox)
            del self.zygote.inbox[: session.REPORT.size]
            if code == session.FAILED:
                for birth in list(self.births.values()):
                    if birth.parent is None and birth.child.nonce == nonce:
                        self._fail_birth(birth.child, f"no interpreter could be forked: {_reason(number)}")

    def _on_gate(self, _mask: int) -> None:
        assert self.gate is not None
        request = seccomp.receive(self.gate)
        if request is not None:
            self.judge.decide(request)


def _reason(number: int) -> str:
    """What an errno says. ``number`` comes out of a session, so it may be anything that fits into 32 bits."""
    return os.strerror(number) if number in errno.errorcode else f"error {number}"


def main(rfd: int, wfd: int, config: dict[str, Any]) -> None:
    for fd in (rfd, wfd):
        os.set_inheritable(fd, False)  # no interpreter may ever hold the stream to the host
    if config["private_mounts"]:
        os.umask(0o022)
    else:
        with contextlib.suppress(OSError):
            sysapi.prctl(sysapi.PR_SET_CHILD_SUBREAPER, 1)
    with contextlib.suppress(OSError, ValueError):  # two descriptors a session; sessions have their own bound
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if config.get("die_with_parent"):
        sysapi.prctl(sysapi.PR_SET_PDEATHSIG, signal.SIGKILL)
    supervisor = Supervisor(rfd, wfd, config)
    try:
        supervisor.start()
    except Exception as error:
        wire.write_all(wfd, wire.pack({"failed": f"{type(error).__name__}: {error}"}))
        os._exit(1)
    supervisor.run()
