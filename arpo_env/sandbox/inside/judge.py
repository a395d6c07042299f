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
from collections.abc import Iterable, Sequence

from . import census, seccomp, sysapi
from .records import Birth, Session

ZYGOTE_UID = 999
_SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")


_FORKS = {sysapi.NR[name] for name in ("clone", "fork", "vfork") if name in sysapi.NR}
#: After a refusal a session's forks are refused unseen for this many seconds: a bomb must not keep us counting.
_SULK = 0.1
_sulking: dict[int, float] = {}


def decide(
    request: seccomp.Request, births: Sequence[Birth], sessions: Iterable[Session], own_users: bool, zygote: int
) -> None:  # fmt: skip
    """Answer ``request``. ``births`` are the forks now on their way; ``zygote`` the process id of the warm parent."""
    try:
        if request.nr in _FORKS:
            request.answer(errno.EAGAIN) if _too_many(request.pid, births, sessions, zygote) else request.proceed()
            return
        if request.nr in (sysapi.NR["chroot"], sysapi.NR["setresuid"]):
            granted = any(_grant(request, birth, own_users, zygote) for birth in births)
            if granted:
                request.proceed()
            else:
                request.answer(errno.EPERM)
        else:
            _signal(request)
    except (OSError, ValueError):
        request.answer(errno.EPERM)


def _grant(request: seccomp.Request, birth: Birth, own_users: bool, zygote: int) -> bool:
    """Is this the one change of its kind that ``birth`` still has coming? Uses it up."""
    if not _comes_from(request.pid, birth, own_users, zygote):
        return False
    if request.nr == sysapi.NR["chroot"]:
        granted, birth.may_chroot = birth.may_chroot, False
        return granted
    # Registers of 32-bit arguments may carry rubbish above.
    if birth.may_setuid and {a & 0xFFFFFFFF for a in request.args[:3]} == {birth.child.place.uid}:
        birth.may_setuid = False
        return True
    return False


def _comes_from(pid: int, birth: Birth, own_users: bool, zygote: int) -> bool:
    """Is ``pid`` a fork of the birth's parent that has not yet become the child?"""
    if birth.parent is None:
        source_uid: int | None = ZYGOTE_UID
        source_pid = zygote
    else:
        source_uid, source_pid = birth.parent.place.uid, birth.parent.process.pid
    if pid == source_pid:
        return False
    return not own_users or census.user_of(pid) == source_uid


def _too_many(pid: int, births: Sequence[Birth], sessions: Iterable[Session], zygote: int) -> bool:
    """Would one more process or thread put the session of ``pid`` past its bound?"""
    if pid == zygote or any(b.parent is not None and b.parent.process.pid == pid for b in births):
        return False  # a fork the supervisor asked for
    tag = census.tag_of(pid)
    now = time.monotonic()
    if _sulking.get(tag, 0.0) > now:
        return True
    bound = next((s.limits["processes"] + 1 for s in sessions if s.tag == tag), 0)
    if sum(census.threads_of(p) for p in census.tagged(tag)) < bound:
        return False
    for old in [t for t, until in _sulking.items() if until <= now]:
        del _sulking[old]
    _sulking[tag] = now + _SULK
    return True


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
