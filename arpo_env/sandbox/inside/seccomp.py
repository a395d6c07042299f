"""The system-call filter of the sessions, and the gate through which the supervisor judges a few of them.

Refused for good: everything that changes mounts, namespaces, clocks, modules or keys, that looks into another
process, that opens a network or a System V channel, and calls newer than this list. *Gated* (sent to the
supervisor, which says yes or no; Linux 5.5): the two calls a forked session needs to become somebody else
(``setresuid``, ``chroot``), which are granted once per fork that the supervisor itself asked for, and, where
all sessions must share one user id, the calls that send signals or make processes.

Register arguments only are judged after a "continue": those cannot change between check and use.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import struct

from . import sysapi

ALLOW, KILL, NOTIFY = 0x7FFF0000, 0x80000000, 0x7FC00000
_ERRNO = 0x00050000
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: The tag of a session's processes lives in this resource limit, unused by Linux since 2.4.
TAG_LIMIT = 10

REFUSED = (
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "process_madvise", "process_mrelease",
    "move_pages", "migrate_pages", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "unshare", "setns", "setuid", "setgid", "setreuid", "setregid", "setgroups",
    "setresgid", "setfsuid", "setfsgid", "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd",
    "io_uring_setup", "io_uring_enter", "io_uring_register", "init_module", "finit_module", "delete_module",
    "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "sethostname",
    "setdomainname", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "iopl", "ioperm", "modify_ldt",
    "name_to_handle_at", "open_by_handle_at", "fanotify_init", "vhangup", "syslog", "lookup_dcookie", "nfsservctl",
    "_sysctl", "uselib", "seccomp", "memfd_create", "memfd_secret", "socket", "shmget", "shmat", "shmctl", "semget",
    "semop", "semctl", "msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "personality",
)  # fmt: skip
_SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
_OTHERS = ("sched_setaffinity", "sched_setparam", "sched_setscheduler", "sched_setattr")
_NEW_SPACES = (
    sysapi.CLONE_NEWNS | sysapi.CLONE_NEWCGROUP | sysapi.CLONE_NEWUTS | sysapi.CLONE_NEWIPC
    | sysapi.CLONE_NEWUSER | sysapi.CLONE_NEWPID | sysapi.CLONE_NEWNET
)  # fmt: skip
_LAST_KNOWN = 463


def _insn(code: int, jt: int, jf: int, k: int) -> bytes:
    return struct.pack("=HBBI", code, jt, jf, k)


def _ret(value: int) -> bytes:
    return _insn(0x06, 0, 0, value)


def _load(offset: int) -> bytes:
    return _insn(0x20, 0, 0, offset)


def _eq(k: int, jt: int, jf: int) -> bytes:
    return _insn(0x15, jt, jf, k)


def _errno(number: int) -> int:
    return _ERRNO | number


def program(*, gate: bool, own_users: bool) -> bytes:
    """The filter as BPF. ``gate``: ask the supervisor; ``own_users``: every session has its own user id."""
    eperm = _errno(errno.EPERM)
    nr, args = 0, (16, 24, 32)  # offsets in struct seccomp_data, little endian low words
    out = [_load(4), _eq(_ARCH[sysapi.MACHINE], 1, 0), _ret(KILL), _load(nr)]
    if sysapi.MACHINE == "x86_64":
        out += [_insn(0x35, 0, 1, 0x40000000), _ret(_errno(errno.ENOSYS))]  # the x32 calls

    def rule(name: str, action: int) -> None:
        if name in sysapi.NR:
            out.extend((_eq(sysapi.NR[name], 0, 1), _ret(action)))

    def rule_arg(name: str, body: list[bytes]) -> None:
        """``body`` runs when the call is ``name`` and must leave the number loaded when it falls through."""
        if name in sysapi.NR:
            body = [*body, _load(nr)]
            out.append(_eq(sysapi.NR[name], 0, len(body)))
            out.extend(body)

    for name in REFUSED:
        rule(name, eperm)
    rule("clone3", _errno(errno.ENOSYS))  # its flags are behind a pointer; libraries fall back to clone
    rule("setresuid", NOTIFY if gate else eperm)
    rule("chroot", NOTIFY if gate else eperm)
    counted = gate and not own_users  # where no user id counts a session's processes, the supervisor does
    birth = [_load(args[0]), _insn(0x45, 0, 1, _NEW_SPACES), _ret(eperm)]
    rule_arg("clone", [*birth, _ret(NOTIFY)] if counted else birth)
    if counted:
        rule("fork", NOTIFY)
        rule("vfork", NOTIFY)
    # A session may lower its limits, but not the one that carries its tag.
    rule_arg("setrlimit", [_load(args[0]), _eq(TAG_LIMIT, 0, 1), _ret(eperm)])
    touches_tag = [_load(args[1]), _eq(TAG_LIMIT, 0, 5), _load(args[2]), _eq(0, 0, 2), _load(args[2] + 4)]
    rule_arg("prlimit64", [*touches_tag, _eq(0, 1, 0), _ret(eperm)])
    # No terminal tricks, no signals by descriptor ownership.
    rule_arg("ioctl", [_load(args[1]), _eq(0x5412, 3, 0), _eq(0x541C, 2, 0), _eq(0x8901, 1, 0), _eq(0x8902, 0, 1),
                       _ret(eperm)])  # fmt: skip
    rule_arg("fcntl", [_load(args[1]), _eq(8, 2, 0), _eq(10, 1, 0), _eq(15, 0, 1), _ret(eperm)])
    # No larger socket buffers: a few megabytes each, and no limit of the process counts them.
    rule_arg("setsockopt", [_load(args[1]), _eq(1, 0, 6), _load(args[2]), _eq(7, 3, 0), _eq(8, 2, 0), _eq(32, 1, 0),
                            _eq(33, 0, 1), _ret(eperm)])  # fmt: skip
    # No device nodes: mode is S_IFCHR or S_IFBLK.
    for name, arg in (("mknod", 1), ("mknodat", 2)):
        rule_arg(name, [_load(args[arg]), _insn(0x54, 0, 0, 0o170000), _eq(0o020000, 1, 0), _eq(0o060000, 0, 1),
                        _ret(eperm)])  # fmt: skip
    if not own_users:
        for name in _SIGNALS:
            rule(name, NOTIFY if gate else ALLOW)
        rule("pidfd_send_signal", eperm)
        for name in (*_OTHERS, "prlimit64"):
            rule_arg(name, [_load(args[0]), _eq(0, 1, 0), _ret(eperm)])  # only on oneself
        for name in ("setpriority", "ioprio_set"):
            rule_arg(name, [_load(args[1]), _eq(0, 1, 0), _ret(eperm)])
    out += [_insn(0x25, 0, 1, _LAST_KNOWN), _ret(_errno(errno.ENOSYS)), _ret(ALLOW)]
    return b"".join(out)


def install(*, gate: bool, own_users: bool) -> int | None:
    """Put the filter on the calling process for ever. Returns the gate's descriptor, if one was asked for."""
    code = program(gate=gate, own_users=own_users)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Prog(ctypes.Structure):
        _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    prog = Prog(len(code) // 8, ctypes.addressof(buffer))
    fd = sysapi.syscall("seccomp", 1, 8 if gate else 0, ctypes.byref(prog))  # SET_MODE_FILTER, NEW_LISTENER
    return fd if gate else None


class Request:
    """One gated call: who asks, what for. Answer it once, with :meth:`proceed` or :meth:`answer`."""

    __slots__ = ("_fd", "_id", "args", "nr", "pid")

    def __init__(self, fd: int, ident: int, pid: int, nr: int, args: tuple[int, ...]) -> None:
        self._fd, self._id, self.pid, self.nr, self.args = fd, ident, pid, nr, args

    def proceed(self) -> None:
        """Let the kernel run the call as it stands."""
        self._send(0, 0, 1)

    def answer(self, error: int) -> None:
        """Do not run it: 0 pretends success, a positive number is the errno."""
        self._send(0, -error, 0)

    def _send(self, value: int, error: int, flags: int) -> None:
        try:
            fcntl.ioctl(self._fd, 0xC0182101, struct.pack("=QqiI", self._id, value, error, flags))
        except OSError as err:
            if err.errno != errno.ENOENT:  # the asker died meanwhile
                raise


def receive(fd: int) -> Request | None:
    """The next gated call waiting on ``fd``; None when its asker has died."""
    buffer = bytearray(80)
    try:
        fcntl.ioctl(fd, 0xC0502100, buffer)
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    ident, pid, _flags, nr, _arch, _ip, *args = struct.unpack("=QIIiIQ6Q", buffer)
    return Request(fd, ident, pid, nr, tuple(args))


def wake_in_step(fd: int) -> None:
    """Have asker and judge run on one CPU, which halves the latency of a gated call (Linux 6.6; else no effect)."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, 0x40082104, 1)
