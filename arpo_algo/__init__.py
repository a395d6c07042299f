"""ARPO and its rivals over forkable Gymnasium environments.

>>> import arpo_algo
>>> arpo_algo.make("arpo", M=16, N=8, attribution="hard")  # doctest: +ELLIPSIS
ARPO(M=16, ..., N=8, ..., attribution='hard', ...)

Importing this package does not import torch; its modules do when they are used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arpo_algo.algorithms import list_algorithms, make, register

__all__ = ["list_algorithms", "make", "register"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from arpo_algo import algorithms

        return getattr(algorithms, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
