"""Generated mathematics: the calculator family (``family.py``) over expression trees (``expression.py``)."""

from arpo_env.tasks.math.family import MathFamily

__all__ = ["MathFamily"]
