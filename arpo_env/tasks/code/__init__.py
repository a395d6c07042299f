"""Generated programming tasks: the family (``family.py``) over parametrised templates (``templates.py``)."""

from arpo_env.tasks.code.family import CodeFamily

__all__ = ["CodeFamily"]
