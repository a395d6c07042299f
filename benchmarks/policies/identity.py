"""What tells one player from another of the same name: a hash of a script's source, of a folder's weights.

Names do not: a script is edited, a checkpoint is trained on and saved in its place. A run folder that goes on with
another player would hold the samples of two, and call them one.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Files up to this size are hashed whole; of larger ones so many blocks, evenly spread, both ends among them.
_WHOLE, _BLOCKS, _BLOCK = 1 << 24, 64, 1 << 16


def of_function(function: Callable[..., Any]) -> str:
    """Of the file that defines the function; what that file imports is not looked at. "" where there is no file."""
    for one in (inspect.unwrap(function), type(function)):  # an object that is called has its class's file
        try:
            file = inspect.getsourcefile(one)
        except TypeError:
            continue
        if file is not None:
            return _short(hashlib.sha256(Path(file).read_bytes()))
    return ""


def of_folder(folder: Path) -> str:
    """Of the files directly in a model's folder: their names, sizes and contents.

    Of large files a sample of their bytes: training moves every weight a little, so another checkpoint differs in it,
    and a folder that was copied elsewhere does not (as it would by its times).
    """
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as data:
            if size <= _WHOLE:
                digest.update(data.read())
                continue
            for i in range(_BLOCKS):
                data.seek(i * (size - _BLOCK) // (_BLOCKS - 1))
                digest.update(data.read(_BLOCK))
    return _short(digest)


def _short(digest: Any) -> str:
    return str(digest.hexdigest()[:16])
