"""The system calls Python has no function for, through ctypes: no compiled dependency.

Numbers are per architecture (x86-64 and AArch64); on any other machine :data:`SUPPORTED` is False and the
layers that need them are reported as missing, never skipped in silence.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from typing import Any

MACHINE = platform.machine()
SUPPORTED = MACHINE in ("x86_64", "aarch64")

_BOTH = {
    # number shared by every architecture since Linux 5.1
    "clone3": 435, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424, "process_madvise": 440,
    "mount_setattr": 442, "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446,
    "memfd_secret": 447, "process_mrelease": 448, "io_uring_setup": 425, "io_uring_enter": 426,
    "io_uring_register": 427, "quotactl_fd": 443,
}  # fmt: skip
_X86 = {
    "clone": 56, "fork": 57, "vfork": 58, "setsockopt": 54,
    "socket": 41, "ptrace": 101, "syslog": 103, "setuid": 105, "setgid": 106, "setreuid": 113,
    "setregid": 114, "setgroups": 116, "setresuid": 117, "setresgid": 119, "setfsuid": 122, "setfsgid": 123,
    "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "shmget": 29,
    "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "msgget": 68, "msgsnd": 69, "msgrcv": 70,
    "msgctl": 71, "fcntl": 72, "ioctl": 16, "pivot_root": 155, "adjtimex": 159, "setrlimit": 160, "chroot": 161,
    "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176,
    "quotactl": 179, "clock_settime": 227, "mq_open": 240, "kexec_load": 246, "add_key": 248, "request_key": 249,
    "keyctl": 250, "migrate_pages": 256, "mknod": 133, "mknodat": 259, "unshare": 272, "move_pages": 279,
    "vhangup": 153, "perf_event_open": 298, "fanotify_init": 300, "prlimit64": 302, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "finit_module": 313, "seccomp": 317, "memfd_create": 319, "kexec_file_load": 320, "bpf": 321,
    "userfaultfd": 323, "modify_ldt": 154, "personality": 135, "sched_setaffinity": 203, "sched_setparam": 142,
    "sched_setscheduler": 144, "sched_setattr": 314, "setpriority": 141, "ioprio_set": 251, "_sysctl": 156,
    "uselib": 134, "nfsservctl": 180, "lookup_dcookie": 212, "prctl": 157,
}  # fmt: skip
_ARM = {
    "setsockopt": 208,
    "clone": 220, "socket": 198, "ptrace": 117, "syslog": 116, "setuid": 146, "setgid": 144, "setreuid": 145,
    "setregid": 143, "setgroups": 159, "setresuid": 147, "setresgid": 149, "setfsuid": 151, "setfsgid": 152,
    "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "shmget": 194,
    "shmat": 196, "shmctl": 195, "semget": 190, "semop": 193, "semctl": 191, "msgget": 186, "msgsnd": 189,
    "msgrcv": 188, "msgctl": 187, "fcntl": 25, "ioctl": 29, "pivot_root": 41, "adjtimex": 171, "setrlimit": 164,
    "chroot": 51, "acct": 89, "settimeofday": 170, "mount": 40, "umount2": 39, "swapon": 224, "swapoff": 225,
    "reboot": 142, "sethostname": 161, "setdomainname": 162, "init_module": 105, "delete_module": 106,
    "quotactl": 60, "clock_settime": 112, "mq_open": 180, "kexec_load": 104, "add_key": 217, "request_key": 218,
    "keyctl": 219, "migrate_pages": 238, "mknodat": 33, "unshare": 97, "move_pages": 239, "vhangup": 58,
    "perf_event_open": 241, "fanotify_init": 262, "prlimit64": 261, "name_to_handle_at": 264,
    "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
    "kcmp": 272, "finit_module": 273, "seccomp": 277, "memfd_create": 279, "kexec_file_load": 294, "bpf": 280,
    "userfaultfd": 282, "personality": 92, "sched_setaffinity": 122, "sched_setparam": 118,
    "sched_setscheduler": 119, "sched_setattr": 274, "setpriority": 140, "ioprio_set": 30, "lookup_dcookie": 18,
    "nfsservctl": 42, "prctl": 167,
}  # fmt: skip
NR: dict[str, int] = {**_BOTH, **(_X86 if MACHINE == "x86_64" else _ARM)}

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 1, 4, 8, 24
PR_SET_SECUREBITS, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_GET_TID_ADDRESS = 28, 36, 38, 40
CAP_CHOWN, CAP_KILL, CAP_SETUID, CAP_SYS_CHROOT, CAP_SYS_PTRACE, CAP_SYS_ADMIN = 0, 5, 7, 18, 19, 21
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x80
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_UNBINDABLE, MS_PRIVATE = 16384, 1 << 17, 1 << 18
MNT_DETACH = 2

# PyDLL, not CDLL: the interpreter lock must stay held across clone().
_lib = ctypes.PyDLL(None, use_errno=True)
_lib.syscall.restype = ctypes.c_long
_lib.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def check(value: int, what: str) -> int:
    """``value`` when it is not negative, else the ``OSError`` that errno stands for."""
    if value < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return value


def syscall(name: str, *args: object) -> int:
    """One raw system call; ints are passed as 64-bit words."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return check(_lib.syscall(ctypes.c_long(NR[name]), *words), name)


def prctl(option: int, value: int = 0) -> None:
    check(_lib.prctl(ctypes.c_int(option), ctypes.c_ulong(value), _zero, _zero, _zero), f"prctl({option})")


def hide() -> None:
    """Make the calling process not dumpable: only the privileged may look into it."""
    check(_lib.prctl(*_hide_arguments), "prctl(PR_SET_DUMPABLE)")


_zero = ctypes.c_ulong(0)
_hide_arguments = (ctypes.c_int(PR_SET_DUMPABLE), _zero, _zero, _zero, _zero)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    enc = [s.encode() if s is not None else None for s in (source, target, kind, data)]
    check(_lib.mount(enc[0], enc[1], enc[2], flags, enc[3]), f"mount {source} on {target}")


def umount(target: str) -> None:
    check(_lib.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def unshare(flags: int) -> None:
    check(_lib.unshare(ctypes.c_int(flags)), "unshare")


def set_read_only(target: str) -> None:
    """Make a mount and every mount below it read-only, nosuid and nodev (Linux 5.12)."""
    # struct mount_attr {set, clear, propagation, userns}: RDONLY | NOSUID | NODEV
    attr = (ctypes.c_uint64 * 4)(1 | 2 | 4, 0, 0, 0)
    syscall("mount_setattr", -100, ctypes.c_char_p(target.encode()), 0x8000, ctypes.byref(attr), 32)


def effective_caps() -> int:
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


def set_caps(caps: int) -> None:
    """Make ``caps`` the permitted and effective set, nothing inheritable."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    low, high = caps & 0xFFFFFFFF, caps >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    check(_lib.capset(ctypes.byref(header), ctypes.byref(data)), "capset")


def drop_bounding(keep: int) -> None:
    for cap in range(64):
        if not keep >> cap & 1:
            try:
                prctl(PR_CAPBSET_DROP, cap)
            except OSError:
                return  # past the last capability this kernel knows


def raw_setresuid(uid: int) -> None:
    """All three user ids of the calling thread. One system call, so that a seccomp gate sees exactly one."""
    # Plain ints: the kernel reads 32 bits of each, and a clone on its way touches less memory.
    check(_lib.syscall(NR["setresuid"], uid, uid, uid), "setresuid")


def fork_sibling() -> int:
    """Fork the calling process without the program noticing; the child's parent is OUR parent. 0 in the child.

    Only for a process with a single thread. Two things differ from ``os.fork``, both on purpose. CLONE_PARENT: no
    child to reap or to wait for shows up here, so ``os.wait()`` means the same to both copies. And no fork handlers
    run, neither glibc's nor Python's: they repair locks that other threads may hold (there are none) and reseed
    ``random``, which a clone must not.
    """
    global _clone_arguments
    if _clone_arguments is None:
        address, null = ctypes.c_void_p(), ctypes.c_void_p(0)
        check(_lib.prctl(PR_GET_TID_ADDRESS, ctypes.byref(address), _zero, _zero, _zero), "prctl(PR_GET_TID_ADDRESS)")
        # CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID: what glibc's fork() passes, plus CLONE_PARENT
        flags = ctypes.c_ulong(0x8000 | 0x1000000 | 0x200000 | signal.SIGCHLD)
        last = (address, null) if MACHINE == "x86_64" else (null, address)  # AArch64 swaps tls and child_tid
        _clone_arguments = (ctypes.c_long(NR["clone"]), flags, null, null, *last)
    return check(_lib.syscall(*_clone_arguments), "clone")


_clone_arguments: tuple[Any, ...] | None = None  # the same in every fork: it stands in its parent's memory
