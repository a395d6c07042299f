"""Verifiers: small pure functions from (answer, gold) to a score, and the ARPO reward over them.

``verifiers.py`` is the table by name that file-backed families read; every module here can be used alone.
"""

from arpo_env.rewards.base import Verdict

__all__ = ["Verdict"]
