"""Algorithms by name. Adding one is adding one file here, or an entry point in the group ``arpo.algorithms``; one that
is not installed goes by where its class stands, ``./my_algorithm.py:MyAlgorithm``.

An algorithm is data and two pure functions (:class:`arpo_algo.algorithms.contract.Algorithm`): no model, no IO.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from arpo_algo.algorithms._own import own_class
from arpo_algo.errors import ConfigError, unknown
from arpo_env.own import FORMS

if TYPE_CHECKING:
    from arpo_algo.algorithms.contract import Algorithm

C = TypeVar("C", bound=type)
_REGISTRY: dict[str, type] = {}
_loaded = False


def register(name: str) -> Callable[[C], C]:
    """Class decorator: make a frozen dataclass known under ``name``.

    Raises:
        ConfigError: the name is taken by another class.
    """

    def wrap(cls: C) -> C:
        known = _REGISTRY.get(name)
        if known is not None and _origin(known) != _origin(cls):
            raise ConfigError(f"algorithm {name!r} is already registered by {known.__module__}; choose another name")
        _REGISTRY[name] = cls
        return cls

    return wrap


def _origin(cls: type) -> tuple[str, str]:
    """Where a class was written: a file may be imported under two names."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return str(file or cls.__module__), cls.__qualname__


def _load() -> None:
    global _loaded
    if _loaded:
        return
    try:
        for module in pkgutil.iter_modules(__path__):
            importlib.import_module(f"{__name__}.{module.name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("arpo_algo"):
            raise
        # The light install (`pip install arpo`) is the environments alone.
        text = f"the algorithms need {error.name}, which is not installed: pip install 'arpo[train]'"
        raise ModuleNotFoundError(text, name=error.name) from error
    _loaded = True
    for point in entry_points(group="arpo.algorithms"):
        register(point.name)(point.load())


def list_algorithms() -> list[str]:
    """The names :func:`make` knows."""
    _load()
    return sorted(_REGISTRY)


def option_names(name: str) -> frozenset[str]:
    """The options of :func:`make` for ``name``.

    Raises:
        ConfigError: unknown name.
    """
    return frozenset(f.name for f in dataclasses.fields(_class(name)) if f.init)


def short_name(name: str) -> str:
    """``name`` for titles and file names: of ``./my_algorithm.py:MyAlgorithm`` the class."""
    return name.rpartition(":")[2]


def _class(name: str) -> type:
    _load()
    if name in _REGISTRY:
        return _REGISTRY[name]
    if ":" in name:
        return own_class(name)
    raise ConfigError(f"{unknown('algorithm', name, _REGISTRY)}. One of your own goes by {FORMS}")


def make(name: str, **options: Any) -> Algorithm:
    """Build an algorithm by name: ``make("arpo", M=16, N=8, attribution="hard")``.

    ``name`` may also say where a class of your own stands: ``package.module:Class`` or ``path/to/file.py:Class``.

    Raises:
        ConfigError: unknown name or option (the nearest is given), a value of the wrong type or out of range.
    """
    cls = _class(name)
    fields = option_names(name)
    hints = get_type_hints(cls)
    for option, value in options.items():
        if option not in fields:
            raise unknown(f"option of algorithm {name!r}", option, fields)
        _check_type(name, option, value, hints[option])
    made: Algorithm = cls(**options)
    return made


def _check_type(algorithm: str, option: str, value: object, hint: Any) -> None:
    """Refuse plain type errors (``M="8"``) and values outside a ``Literal`` before they act."""
    accepted = get_args(hint) if get_origin(hint) is not None else (hint,)
    if all(isinstance(a, str) for a in accepted):  # Literal["a", "b"]
        if value not in accepted:
            raise unknown(f"{option} of algorithm {algorithm!r}", str(value), accepted)
        return
    if float in accepted and isinstance(value, int) and not isinstance(value, bool):
        return
    kinds = tuple(a for a in accepted if isinstance(a, type))
    wrong_bool = isinstance(value, bool) and bool not in kinds
    if kinds and len(kinds) == len(accepted) and (wrong_bool or not isinstance(value, kinds)):
        wanted = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
        raise ConfigError(f"{option} of algorithm {algorithm!r} must be {wanted}, got {value!r}")
