"""Options of ``gymnasium.make`` held against the annotations of whoever declares them.

A value of the wrong type is told before anything is built, with the option's name, and not as a ``TypeError`` from the
depths or at the last step of the first episode. Only plain annotations are checked: whatever else one says, anything
fits it, and the checks of its owner decide. So do they about ranges, and about words out of a list.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import numbers
import types
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from arpo_env.errors import ConfigError

#: Names that annotations use and only type checkers import: asked for when one is met.
LateNames = Callable[[], dict[str, Any]]


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What ``function`` takes by name."""
    return {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def plain(value: Any) -> Any:
    """``value``, or the Python number (or text) that a NumPy scalar stands for."""
    return value.item() if isinstance(value, np.generic) else value


def missing(env_id: str, name: str) -> ConfigError:
    """The error for an option that must be given."""
    return ConfigError(f"{env_id} needs the option {name}: gymnasium.make({env_id!r}, {name}=…)")


def check_types(
    env_id: str, function: Callable[..., Any], options: Mapping[str, Any], late: LateNames | None = None
) -> None:
    """Hold those of ``options`` that ``function`` declares against its annotations.

    Raises:
        ConfigError: one is of another type.
    """
    declared = parameters(function)
    for name, value in options.items():
        if name not in declared:
            continue
        hint = _hint(function, declared[name], late)
        if not _fits(value, hint):
            raise ConfigError(
                f"{env_id}: the option {name} must be of type {_shown(declared[name].annotation)}, got "
                f"{repr(value)[:80]} ({type(value).__name__}): {_fix(declared[name], value, hint)}"
            )


def _hint(function: Callable[..., Any], parameter: inspect.Parameter, late: LateNames | None) -> Any:
    """The type behind an annotation; ``Any`` where it cannot be resolved."""
    while isinstance(function, functools.partial):
        function = function.func
    code = inspect.unwrap(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    names = getattr(code, "__globals__", {})
    # One at a time: a name that only type checkers know must not hide the types of all other options.
    alone = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    for local in (dict, *(() if late is None else (late,))):
        try:
            return get_type_hints(alone, globalns=names, localns=local())[parameter.name]
        except NameError:
            continue
    return Any


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:  # which words there are, their owner says, with the nearest one
        return type(value) in map(type, arguments)
    if origin is Callable:
        return callable(value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Collection):
        whole = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
        return whole and (len(arguments) != 1 or all(_fits(one, arguments[0]) for one in value))
    return origin is not None or _is_a(value, hint)


def _is_a(value: Any, hint: Any) -> bool:
    if hint in (int, float):  # True is a number to Python, and to nobody who writes max_turns=True
        kind: Any = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str | Path)
    if hint is Any or not isinstance(hint, type):
        return True
    try:
        return isinstance(value, hint)
    except TypeError:  # a protocol that is not checked at runtime
        return True


def _shown(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _fix(parameter: inspect.Parameter, value: Any, hint: Any) -> str:
    """What to write in place of ``value``."""
    guesses: list[Any] = [(value,)]
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            guesses.append(ast.literal_eval(value[:80].strip()))
    elif isinstance(value, int | float):
        guesses += [bool(value)] if value in (0, 1) else []
        guesses += [int(value)] if value == value // 1 else []
    for guess in guesses:
        if _fits(guess, hint):
            return f"write {parameter.name}={guess!r}"
    own = [f"{one.__module__}.{one.__qualname__}" for one in (hint, *get_args(hint)) if _is_ours(one)]
    give = f"give one of that type{f' ({own[0]})' if own else ''}"
    has_default = parameter.default is not parameter.empty
    return f"{give}, or leave it out (default {parameter.default!r})" if has_default else give


def _is_ours(hint: Any) -> bool:
    return isinstance(hint, type) and hint.__module__.startswith("arpo_env.")
