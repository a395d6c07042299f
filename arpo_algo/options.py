"""One way to declare a configuration value with its help text, and to load values strictly.

Configuration is frozen dataclasses all the way down; this module fills them from nested dicts (a TOML file)
and ``key=value`` overrides. Unknown keys are refused with the nearest name, values are type-checked by pydantic.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from arpo_algo.errors import ConfigError, unknown

T = TypeVar("T")


def opt(default: Any, help: str) -> Any:
    """A dataclass field with a default and a help text."""
    return dataclasses.field(default=default, metadata={"help": help})


def section(cls: type[T], help: str) -> Any:
    """A nested dataclass, built with its defaults."""
    return dataclasses.field(default_factory=cls, metadata={"help": help})


def load(cls: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """A ``cls`` (nested frozen dataclasses) from nested ``values``; what is missing takes its default.

    ``path`` goes before each key in messages (``"rollout."``).

    Raises:
        ConfigError: an unknown key (the nearest is given), or a value of the wrong type or out of range.
    """
    return _load(cls, values, path)


def _load(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    out: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown("configuration key", f"{path}{key}", [f"{path}{name}" for name in fields])
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{path}{key} is a section; write {path}{key}.NAME=VALUE, got {value!r}")
            out[key] = _load(hint, value, f"{path}{key}.")  # type: ignore[arg-type]
            continue
        if value == "none" and type(None) in getattr(hint, "__args__", ()):
            value = None
        try:
            out[key] = TypeAdapter(hint).validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"{path}{key}={value!r}: {error.errors()[0]['msg']} (expected {_name(hint)})") from None
    return cls(**out)


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if not getattr(hint, "__args__", None) else str(hint)


def read(path: Path) -> dict[str, Any]:
    """A TOML file as nested dicts.

    Raises:
        ConfigError: the file is not there or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration file {str(path)!r} is not there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def override(values: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply ``a.b=value`` assignments (values in TOML syntax; bare words are strings) to nested dicts.

    Raises:
        ConfigError: an assignment without ``=``.
    """
    out = _copy(values)
    for text in assignments:
        key, sign, raw = text.partition("=")
        if not sign or not key:
            raise ConfigError(f"override {text!r} must look like key=value, e.g. learner.lr=3e-5")
        try:
            value = tomllib.loads(f"x = {raw}")["x"]
        except tomllib.TOMLDecodeError:
            value = raw
        at = out
        *sections, name = key.split(".")
        for part in sections:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise ConfigError(f"override {text!r}: {part!r} is a value, not a section")
        at[name] = value
    return out


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, section by section."""
    out = _copy(below)
    for key, value in above.items():
        at = out.get(key)
        out[key] = merge(at, value) if isinstance(at, dict) and isinstance(value, Mapping) else value
    return out


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def describe(cls: type, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, default, help) of every value, sections expanded: what ``--help`` prints."""
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from describe(hints[f.name], f"{path}{f.name}.")
            continue
        default: Any = f.default
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        yield f"{path}{f.name}", "none" if default is None else str(default), f.metadata.get("help", "")
