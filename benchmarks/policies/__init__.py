"""Policies by one word: what ``--policy`` takes."""

from benchmarks.policies.choose import WORDS, Choice, Settings, choose

__all__ = ["WORDS", "Choice", "Settings", "choose"]
