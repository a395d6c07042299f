"""Engines by name. Adding one is adding one file here, or an entry point in the group ``arpo.engines``.

The contract is :mod:`arpo_algo.engines.base`. An engine's file registers one function that builds it::

    @register("torch", TorchOptions)
    def build(setup: EngineSetup, options: TorchOptions) -> TorchEngine: ...

Heavy packages are imported when an engine is built, never when its file is.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

from arpo_algo import options as typed
from arpo_algo.errors import ConfigError, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from arpo_algo.engines.base import Engine


@dataclass(frozen=True)
class EngineSetup:
    """What every engine is built from.

    ``model`` is the learner's own; an engine in the same process may share it, others start from its weights.
    ``source`` is the folder or Hub name that ``model`` was loaded from. ``slots``: sequences generated at once.
    ``max_length``: longest sequence, prompt included. ``precision``: what the learner's products run in, so that an
    engine in the same process can compute the same numbers. ``separate``: the learner changes ``model`` while the
    engine works; one that computes on it then must copy it, without its adapters
    (:func:`~arpo_algo.lora.without_adapters`), because new weights come merged.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    slots: int
    max_length: int
    precision: Literal["float32", "bfloat16"] = "float32"
    separate: bool = False


Build = Callable[[EngineSetup, Any], "Engine"]
_REGISTRY: dict[str, tuple[type, Build]] = {}
_loaded = False


def register(name: str, options: type) -> Callable[[Build], Build]:
    """Function decorator: make an engine known under ``name``; ``options`` is the dataclass of its own options.

    Raises:
        ConfigError: the name is taken.
    """

    def wrap(build: Build) -> Build:
        known = _REGISTRY.get(name)
        if known is not None and known[1].__module__ != build.__module__:
            raise ConfigError(f"engine {name!r} is already registered by {known[1].__module__}; choose another name")
        _REGISTRY[name] = (options, build)
        return build

    return wrap


def _load() -> None:
    global _loaded
    if _loaded:
        return
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")
    for point in entry_points(group="arpo.engines"):
        point.load()  # registers itself
    _loaded = True


def list_engines() -> list[str]:
    """The names :func:`choose` knows."""
    _load()
    return sorted(_REGISTRY)


def choose(name: str, options: Mapping[str, Any], *, path: str = "rollout.engine_options.") -> Choice:
    """Check a name and its options, before any long work; ``.build(setup)`` makes the engine.

    Raises:
        ConfigError: unknown name or option (the nearest is given), a value of the wrong type or out of range.
    """
    _load()
    if name not in _REGISTRY:
        raise unknown("engine", name, _REGISTRY)
    cls, build = _REGISTRY[name]
    return Choice(name, typed.load(cls, options, path), build)


@dataclass(frozen=True)
class Choice:
    """An engine that has been chosen and not yet built."""

    name: str
    options: Any
    _build: Build

    def build(self, setup: EngineSetup) -> Engine:
        """Start the engine.

        Raises:
            ConfigError: a package is missing, or the model or the sizes do not suit the engine.
        """
        return self._build(setup, self.options)
