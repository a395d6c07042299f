"""Where sessions live: each its own root with a sized scratch file system, or, without privileges, a secret directory.

``Roots`` needs the capabilities of a private mount namespace: a slot is a recursive bind of the whole view plus
one tmpfs at ``/home/agent``, so every session and every clone of it sees its own files under the same path.
``Directories`` works anywhere: slots are directories with 128-bit random names below one per lineage, which
Landlock closes to other lineages; the common path is a link to the descriptor each session holds on its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections import deque
from dataclasses import dataclass

from . import sysapi, tree

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FIRST_UID = 1000


@dataclass(slots=True)
class Place:
    """One session's place. ``fd`` is what the session steps into; ``files`` the directory a clone copies."""

    number: int
    uid: int | None
    path: str
    files: str
    landlock: str
    device: int = 0


class Roots:
    """Slots that are roots of their own, in a mount namespace this process may change."""

    own_roots = True

    def __init__(self, capacity: int, own_users: bool) -> None:
        self.home = "/home/agent"
        self.readable = ["/"]
        self._own_users = own_users
        self._free: deque[int] = deque(range(capacity))
        self._bound: set[int] = set()
        self._spare: deque[int] = deque()  # bound already; a few rest so that a user id is not reused at once
        self._stock: tuple[Place, int] | None = None  # a place made ahead, and its size
        self._wanted = 0
        sysapi.mount(None, "/", None, sysapi.MS_REC | sysapi.MS_PRIVATE)
        # Nobody but the holder of capabilities may pass through it: mode 0, and root's.
        sysapi.mount("roots", "/roots", "tmpfs", sysapi.MS_NOSUID | sysapi.MS_NODEV, "mode=0,size=1m")
        sysapi.mount(None, "/roots", None, sysapi.MS_UNBINDABLE)

    def open(self, parent: Place | None, file_bytes: int) -> Place:
        self._wanted = file_bytes
        if self._stock is not None and self._stock[1] == file_bytes:
            place, self._stock = self._stock[0], None
        else:
            if self._stock is not None:  # made for other limits
                self.close(self._stock[0])
                self._stock = None
            place = self._make(file_bytes)
        if parent is not None:
            try:
                _copy(parent.files, place.files, None if place.uid is None else (place.uid, 0))
            except BaseException:
                self.close(place)
                raise
        return place

    def lacks_stock(self) -> bool:
        """Is it worth making a place ahead, like the last one asked for?"""
        return self._stock is None and self._wanted > 0 and bool(self._free or self._spare)

    def make_stock(self) -> None:
        """Make the next place ahead, in a quiet moment: mounting is a good part of a fork's time."""
        file_bytes, self._wanted = self._wanted, 0  # should it fail, the next open() says why
        with contextlib.suppress(OSError):
            self._stock = (self._make(file_bytes), file_bytes)
            self._wanted = file_bytes

    def _make(self, file_bytes: int) -> Place:
        if len(self._spare) > 8 or not self._free:
            if not self._spare:
                raise OverflowError("all sessions this sandbox can hold are in use; close some")
            number = self._spare.popleft()
        else:
            number = self._free.popleft()
        path = f"/roots/{number}"
        uid = FIRST_UID + number if self._own_users else None
        try:
            if number not in self._bound:
                os.makedirs(path, 0o755, exist_ok=True)
                sysapi.mount("/", path, None, sysapi.MS_BIND | sysapi.MS_REC)
                self._bound.add(number)
            inodes = max(256, min(tree.MAX_ENTRIES, file_bytes // 1024))
            owner = uid or 0
            options = f"size={file_bytes},nr_inodes={inodes},mode=0700,uid={owner},gid={0}"
            home = path + self.home
            sysapi.mount("session", home, "tmpfs", sysapi.MS_NOSUID | sysapi.MS_NODEV, options)
            try:
                _furnish(home, None if uid is None else (uid, 0))
                return Place(number, uid, path, home, "/home", os.stat(home).st_dev)
            except BaseException:
                sysapi.umount(home)
                raise
        except BaseException:
            (self._spare if number in self._bound else self._free).append(number)
            raise

    def close(self, place: Place) -> None:
        sysapi.umount(place.files)
        self._spare.append(place.number)


class Directories:
    """Slots that are secret directories below ``area``, for a supervisor without privileges."""

    own_roots = False

    def __init__(self, capacity: int, area: str, home: str) -> None:
        self._area = os.path.join(area, "s")
        os.makedirs(self._area, 0o700, exist_ok=True)
        self._free: deque[int] = deque(range(capacity))
        # Landlock adds rights up, so what must stay closed (the other lineages) must not be below anything open.
        top = "/" + area.strip("/").partition("/")[0]
        self.readable = [f"/{name}" for name in sorted(os.listdir("/")) if f"/{name}" != top]
        self.home = home
        if not (os.path.islink(home) and os.readlink(home) == "/proc/self/fd/250"):
            self.home = os.path.join(area, "agent")
            os.symlink("/proc/self/fd/250", self.home)

    def open(self, parent: Place | None, file_bytes: int) -> Place:
        if not self._free:
            raise OverflowError("all sessions this sandbox can hold are in use; close some")
        lineage = parent.landlock if parent is not None else os.path.join(self._area, secrets.token_hex(16))
        path = os.path.join(lineage, secrets.token_hex(16))
        os.makedirs(path, 0o700)
        number = self._free.popleft()
        place = Place(number, None, path, path, lineage)
        try:
            _furnish(path, None)
            if parent is not None:
                _copy(parent.files, path, None)
        except BaseException:
            self.close(place)
            raise
        return place

    def lacks_stock(self) -> bool:
        return False  # making a directory is quick

    def make_stock(self) -> None: ...

    def close(self, place: Place) -> None:
        self._free.append(place.number)
        for _attempt in range(2):
            shutil.rmtree(place.path, onerror=_force)
        with contextlib.suppress(OSError):
            os.rmdir(place.landlock)  # the last one of the lineage


def _force(_function: object, path: str, _info: object) -> None:
    """A directory the session made unreadable is still ours: give the rights back, the next pass removes it."""
    for victim in (os.path.dirname(path), path):
        with contextlib.suppress(OSError):
            os.chmod(victim, 0o700, follow_symlinks=False) if not os.path.islink(victim) else None


def _furnish(path: str, owner: tuple[int, int] | None) -> None:
    for name in ("work", "tmp"):
        os.mkdir(os.path.join(path, name), 0o700)
        if owner is not None:
            os.chown(os.path.join(path, name), *owner)


def _copy(source: str, target: str, owner: tuple[int, int] | None) -> None:
    with contextlib.ExitStack() as undo:
        r = os.open(source, _DIR)
        undo.callback(os.close, r)
        w = os.open(target, _DIR)
        undo.callback(os.close, w)
        tree.copy_tree(r, w, owner)
