"""A page's text in numbered pieces, and finding something in it. Pure functions of the text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from arpo_env.search.text import terms

#: Where a text may be cut, best first: between paragraphs, sentences, words.
_SENTENCE_ENDS = (". ", "! ", "? ", "。", "！", "？", "; ")
_UNIT_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n")


def split(text: str, chars: int) -> list[str]:
    """``text`` cut into pieces of at most ``chars`` characters; nothing but white space at the cuts is lost.

    A piece ends with a paragraph, else a sentence, else a word, if one ends in its second half.
    """
    pieces: list[str] = []
    start = 0
    while start < len(text):
        if text[start].isspace():
            start += 1
            continue
        end = len(text) if len(text) - start <= chars else _cut(text, start, start + chars)
        pieces.append(text[start:end].rstrip())
        start = end
    return pieces


def _cut(text: str, start: int, end: int) -> int:
    half = start + (end - start) // 2
    for marks in (("\n",), _SENTENCE_ENDS, (" ",)):
        places = [place + len(mark) for mark in marks if (place := text.rfind(mark, half, end)) >= 0]
        if places:
            return max(places)
    return end


@dataclass(frozen=True, slots=True)
class Found:
    """A passage: the number of the chunk it begins in (from 1) and its words."""

    chunk: int
    text: str


def find(pieces: list[str], words: str, *, limit: int, chars: int) -> list[Found]:
    """The passages that say most of ``words``, in page order: at most ``limit``, of ``chars`` characters each.

    A passage is a sentence or a line. One that holds the whole phrase comes before all others; else what counts is
    how many different words of it are there (as search understands words: caseless, without accents), and then
    the order on the page. Passages that hold fewer than half as many as the best are left out.
    """
    phrase, wanted = _plain(words), set(terms(words))
    ranked: list[tuple[int, int, Found]] = []
    for chunk, passage in _passages(pieces):
        whole = bool(phrase) and phrase in _plain(passage)
        score = len(wanted) + 1 if whole else len(wanted.intersection(terms(passage)))
        if score:
            ranked.append((-score, len(ranked), Found(chunk, _window(passage, words, wanted, chars))))
    ranked.sort(key=lambda entry: entry[:2])
    kept = [entry for entry in ranked[:limit] if 2 * entry[0] <= ranked[0][0]]
    return [found for _, _, found in sorted(kept, key=lambda entry: entry[1])]


def _passages(pieces: list[str]) -> Iterator[tuple[int, str]]:
    for number, piece in enumerate(pieces, 1):
        for passage in _UNIT_ENDS.split(piece):
            if passage.strip():
                yield number, passage.strip()


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _window(passage: str, words: str, wanted: set[str], chars: int) -> str:
    """``passage``, or where it is too long, what stands around the phrase, else around its first wanted word."""
    if len(passage) <= chars:
        return passage
    at = passage.casefold().find(words.casefold().strip())
    if at < 0:
        starts = (match.start() for match in re.finditer(r"\w+", passage) if wanted.intersection(terms(match[0])))
        at = next(starts, 0)
    start = max(0, min(at - chars // 4, len(passage) - chars + 1))
    body = passage[start : start + chars - (2 if start else 1)].strip()
    return f"{'…' if start else ''}{body}{'…' if start + chars < len(passage) + 1 else ''}"
