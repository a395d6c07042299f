"""What is a user's own, by where it stands: ``package.module:Class`` or ``path/to/file.py:Class``.

The module form is what environment ids have too (``package.module:Name-v0``): it must be importable. A file needs
nothing but its path, a relative one counting from the working directory.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from arpo_env.errors import ConfigError, unknown

FORMS = "module:Class or path/to/file.py:Class"


def find_own(kind: str, name: str) -> Any:
    """What ``name`` points at: mostly a class, else whatever has that name there.

    Args:
        kind: what it is wanted as (``tool``), for messages.

    Raises:
        ConfigError: there is no such module, file or name in it, or importing it fails.
    """
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise ConfigError(f"{kind} {name!r} must look like {FORMS}")
    is_file = where.endswith(".py") or "/" in where
    label = f"{kind} {name!r}"
    module = _from_file(label, Path(where).expanduser().resolve()) if is_file else _from_module(label, where, attribute)
    if attribute not in vars(module):
        raise unknown(f"class in {where}:", attribute, _classes(module))
    return vars(module)[attribute]


def _classes(module: ModuleType) -> list[str]:
    return [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]


def _from_module(label: str, module: str, attribute: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{label}: no module {error.name!r} can be imported; install its package, put its folder on "
                f"PYTHONPATH, or name the file: path/to/{module.rpartition('.')[2]}.py:{attribute}"
            ) from None
        raise _broken(label, error) from error


def _from_file(label: str, file: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(
            f"{label}: {file} is not there; a relative path counts from the working directory, {Path.cwd()}"
        )
    for module in list(sys.modules.values()):  # it may be the script that runs, or imported by its name already
        known = getattr(module, "__file__", None)
        if isinstance(known, str) and known.endswith(file.name) and Path(known).resolve() == file:
            return module
    # By a name of its own, as pickling looks classes up by it, and two files may be called alike.
    own = f"arpo_own_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(own, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{label}: {file} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[own]
        raise _broken(label, error) from error
    return module


def _broken(label: str, error: Exception) -> ConfigError:
    return ConfigError(f"{label}: importing it fails with {type(error).__name__}: {error}; mend the file")
