"""Search backends behind one small interface (:class:`~arpo_env.search.base.SearchBackend`)."""

from arpo_env.search.base import Hit, Page, SearchBackend
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.corpus import read_jsonl, write_jsonl

__all__ = ["BM25Index", "Hit", "Page", "SearchBackend", "read_jsonl", "write_jsonl"]
