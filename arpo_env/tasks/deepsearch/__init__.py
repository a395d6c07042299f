"""Deep search over a generated encyclopaedia: world, questions, demonstrators, family."""

from arpo_env.tasks.deepsearch.family import DeepSearchFamily
from arpo_env.tasks.deepsearch.world import World, WorldSpec

__all__ = ["DeepSearchFamily", "World", "WorldSpec"]
