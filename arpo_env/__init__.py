"""Tool use as Gymnasium environments that can be forked mid-episode.

>>> import gymnasium, arpo_env
>>> env = gymnasium.make("ARPO-DeepSearch-v0")
>>> question, info = env.reset(seed=0)

Importing registers the ids and nothing else: no download, no process, no torch.
"""

from arpo_env.env import AgentEnv
from arpo_env.errors import ArpoEnvError, ConfigError, InfraError, ToolUnavailable
from arpo_env.registration import IDS, SUITE_IDS, register_all
from arpo_env.tasks.base import Task, TaskFamily

__all__ = [
    "IDS",
    "SUITE_IDS",
    "AgentEnv",
    "ArpoEnvError",
    "ConfigError",
    "InfraError",
    "Task",
    "TaskFamily",
    "ToolUnavailable",
    "__version__",
]
__version__ = "0.1.0"

register_all()
