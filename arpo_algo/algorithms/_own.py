"""An algorithm of the user's own by where its class stands: ``package.module:Class`` or ``path/to/file.py:Class``.

The module form is what environment ids have too (``env.id=package.module:Name-v0``): it must be importable. A file
needs nothing but its path, a relative one counting from the working directory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from arpo_algo.errors import ConfigError, unknown

FORMS = "module:Class or path/to/file.py:Class"


def own_class(name: str) -> type:
    """The dataclass that ``name`` points at.

    Raises:
        ConfigError: there is no such module, file or class, importing it fails, or it is no dataclass.
    """
    where, _, cls = name.rpartition(":")
    if not where or not cls:
        raise ConfigError(f"algorithm {name!r} must look like {FORMS}")
    is_file = where.endswith(".py") or "/" in where
    module = _from_file(name, Path(where).expanduser().resolve()) if is_file else _from_module(name, where)
    found = vars(module).get(cls)
    if found is None:
        raise unknown(f"class in {where}:", cls, _dataclasses(module))
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise ConfigError(
            f"algorithm {name!r} is not a dataclass; derive it from arpo_algo.algorithms.base.Clipped (or Base), under "
            "@dataclass(frozen=True)"
        )
    return found


def _dataclasses(module: ModuleType) -> list[str]:
    return [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]


def _from_module(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"algorithm {name!r}: no module {error.name!r} can be imported; install its package, put its folder on "
                f"PYTHONPATH, or name the file: path/to/{module.rpartition('.')[2]}.py:{name.rpartition(':')[2]}"
            ) from None
        raise _broken(name, error) from error


def _from_file(name: str, file: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(
            f"algorithm {name!r}: {file} is not there; a relative path counts from the working directory, {Path.cwd()}"
        )
    for module in list(sys.modules.values()):  # it may be the script that runs, or imported by its name already
        known = getattr(module, "__file__", None)
        if isinstance(known, str) and known.endswith(file.name) and Path(known).resolve() == file:
            return module
    # By a name of its own, as pickling looks classes up by it, and two files may be called alike.
    own = f"arpo_own_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(own, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"algorithm {name!r}: {file} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[own]
        raise _broken(name, error) from error
    return module


def _broken(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"algorithm {name!r}: importing it fails with {type(error).__name__}: {error}; mend the file")
