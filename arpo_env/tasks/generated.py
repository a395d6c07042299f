"""The families whose tasks are generated, by id. A table of names: a family is imported when it is asked for."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping

from arpo_env.errors import unknown
from arpo_env.tasks.base import TaskFamily

GENERATED: Mapping[str, str] = {
    "ARPO-Math-v0": "arpo_env.tasks.math:MathFamily",
    "ARPO-Code-v0": "arpo_env.tasks.code:CodeFamily",
    "ARPO-DeepSearch-v0": "arpo_env.tasks.deepsearch:DeepSearchFamily",
    "ARPO-ReasoningGym-v0": "arpo_env.tasks.gym:ReasoningGymFamily",
}


def generated_family(env_id: str) -> Callable[..., TaskFamily]:
    """The family behind an id of generated tasks.

    Raises:
        ConfigError: there is no such id.
    """
    if env_id not in GENERATED:
        raise unknown("id of generated tasks", env_id, GENERATED)
    family: Callable[..., TaskFamily] = pkgutil.resolve_name(GENERATED[env_id])
    return family
