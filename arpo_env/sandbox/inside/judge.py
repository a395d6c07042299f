"""Answers the system calls that the seccomp filter sends to the supervisor.

Three kinds. *Becoming somebody else*: a fork the supervisor asked for may change its root once and its user once, to
the ones it was given; nobody else may, ever. *Signals*, where all sessions share one user id: they reach only
processes that carry the sender's own tag. *New processes and threads*, there too: counted by session. Anything unclear
is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from collections.abc import Mapping

from . import census, seccomp, sysapi
from .records import Birth, Session

ZYGOTE_UID = 999
_SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")


_FORKS = {sysapi.NR[name] for name in ("clone", "fork", "vfork") if name in sysapi.NR}
#: After a refusal a session's forks are refused unseen for this many seconds: a bomb must not keep us counting.
_SULK = 0.1


class Judge:
    """Decides, and remembers what it granted. ``births`` and ``sessions`` are the supervisor's own books."""

    def __init__(
        self, births: Mapping[int, Birth], sessions: Mapping[int, Session], own_users: bool, zygote: int
    ) -> None:  # fmt: skip
        self._births, self._sessions, self._own_users, self._zygote = births, sessions, own_users, zygote
        self._roots: dict[int, int] = {}  # source -> changes of root granted to its forks that are on their way
        self._sulking: dict[int, float] = {}

    def decide(self, request: seccomp.Request) -> None:
        """Answer ``request``."""
        try:
            if request.nr in _FORKS:
                if self._too_many(request.pid):
                    request.answer(errno.EAGAIN)
                else:
                    request.proceed()
            elif request.nr in (sysapi.NR["chroot"], sysapi.NR["setresuid"]):
                if self._may_become(request):
                    request.proceed()
                else:
                    request.answer(errno.EPERM)
            else:
                _signal(request)
        except (OSError, ValueError):
            request.answer(errno.EPERM)

    def over(self, birth: Birth, complete: bool) -> None:
        """``birth`` has left the books: complete (so it used its one change of root) or failed."""
        source = _source(birth)
        granted = self._roots.pop(source, 0) - (1 if complete else 0)
        granted = min(granted, self._under_way(source))
        if granted > 0:
            self._roots[source] = granted

    def _under_way(self, source: int) -> int:
        return sum(_source(b) == source for b in self._births.values())

    def _may_become(self, request: seccomp.Request) -> bool:
        for birth in self._births.values():
            if not self._comes_from(request.pid, birth):
                continue
            if request.nr == sysapi.NR["chroot"]:
                # The zygote's forks cannot be told apart yet, so they are counted: one each.
                source = _source(birth)
                granted = self._roots.get(source, 0)
                if not birth.may_chroot or granted >= self._under_way(source):
                    return False
                self._roots[source] = granted + 1
                return True
            # Registers of 32-bit arguments may carry rubbish above.
            if birth.may_setuid and {a & 0xFFFFFFFF for a in request.args[:3]} == {birth.child.place.uid}:
                birth.may_setuid = False
                return True
        return False

    def _comes_from(self, pid: int, birth: Birth) -> bool:
        """Is ``pid`` a fork of the birth's parent that has not yet become the child?"""
        parent = birth.parent
        if pid == (self._zygote if parent is None else parent.process.pid):
            return False
        if self._own_users:
            return census.user_of(pid) == (ZYGOTE_UID if parent is None else parent.place.uid)
        return census.tag_of(pid) == (-1 if parent is None else parent.tag)

    def _too_many(self, pid: int) -> bool:
        """Would one more process or thread put the session of ``pid`` past its bound?"""
        if pid == self._zygote:
            return False
        if any(b.parent is not None and b.parent.process.pid == pid for b in self._births.values()):
            return False  # a fork the supervisor asked for
        tag = census.tag_of(pid)
        now = time.monotonic()
        if self._sulking.get(tag, 0.0) > now:
            return True
        bound = next((s.limits["processes"] + 1 for s in self._sessions.values() if s.tag == tag), 0)
        if sum(census.threads_of(p) for p in census.tagged(tag)) < bound:
            return False
        self._sulking = {t: until for t, until in self._sulking.items() if until > now}
        self._sulking[tag] = now + _SULK
        return True


def _source(birth: Birth) -> int:
    return 0 if birth.parent is None else birth.parent.sid


def _signal(request: seccomp.Request) -> None:
    name = next(n for n in _SIGNALS if sysapi.NR[n] == request.nr)
    target = struct.unpack("=i", struct.pack("=I", request.args[0] & 0xFFFFFFFF))[0]
    own = census.tag_of(request.pid)
    if own < 0:
        request.answer(errno.EPERM)
    elif target > 0:
        if census.tag_of(target if name != "tkill" else census.process_of(target)) == own:
            request.proceed()
        else:
            request.answer(errno.EPERM)
    elif name != "kill":
        request.answer(errno.EINVAL)
    else:
        request.answer(_broadcast(request.pid, target, request.args[1] & 0xFFFFFFFF, own))


def _broadcast(sender: int, target: int, number: int, own: int) -> int:
    """kill() of a group or of everybody: the kernel would not stop at the session, so it is done here, one by one."""
    group = os.getpgid(sender) if target == 0 else -target
    hit = False
    for pid in census.tagged(own):
        if target == -1 and pid == sender:
            continue
        with contextlib.suppress(OSError):
            if target == -1 or os.getpgid(pid) == group:
                os.kill(pid, number)
                hit = True
    return 0 if hit else errno.ESRCH
