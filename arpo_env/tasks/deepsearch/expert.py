"""Demonstrators for deep search: one that is right, and one that makes a single mistake one can see.

Both know how the question was put together (which is what reading it amounts to): the first name in it and the
relations to follow. Everything else they read from the results they are sent, with the patterns of
:mod:`.schema`; neither looks at the answer. The flawed one is the raw material of reinforcement learning: its
format is right, and each of its mistakes can be told from the right move by what stands in the results.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from arpo_env.protocol import answer_turn, result_body, tool_turn
from arpo_env.tasks.base import Expert, Task
from arpo_env.tasks.deepsearch.schema import RELATIONS, Relation, read_alias, read_date, read_facts

_HIT = re.compile(r"^\[\d+\] (.+?): (.*)$(?:\n(https?://\S+)$)?", re.MULTILINE)
_CHUNK = re.compile(r" \(chunk (\d+) of (\d+)\)$")
#: The answer of a demonstrator that cannot go on: honest, and wrong.
GIVE_UP = "unknown"

#: What can go wrong, each a thing that the results show to be wrong.
SLIPS = (
    "attribute",  # another fact of the right page (where she died, not where she was born)
    "hit",  # the right fact of another page of the same result
    "early",  # answers with what the look-up before found, or with an operand instead of computing
    "repeat",  # searches the same once more, then does as "early" (or "attribute" at the first look-up)
    "operator",  # adds where it should subtract
    "stale",  # what an outdated version of the page says (where there is one)
)


@dataclass(frozen=True)
class _Hit:
    title: str
    text: str
    url: str = ""

    @property
    def facts(self) -> dict[str, str]:
        return read_facts(self.text)

    @property
    def date(self) -> int:
        return read_date(self.text)


@dataclass
class Slip:
    """One mistake of :data:`SLIPS`, due at look-up ``step`` of the episode (from 0, over all chains).

    Where the results do not offer it, it moves on to the next look-up, and at last becomes "early".
    """

    kind: str
    step: int
    rng: np.random.Generator
    made: bool = False

    def due(self, step: int) -> bool:
        return not self.made and step >= self.step


def read_hits(observation: str) -> list[_Hit]:
    """The hits in a search result, best first; empty for anything else."""
    try:
        body = result_body(observation)
    except ValueError:
        return []
    return [_Hit(title, text, url) for title, text, url in _HIT.findall(body)]


def _is_about(hit: _Hit, name: str) -> bool:
    """Whether ``hit`` is the page of ``name``, by title or stated alias."""
    alias = read_alias(hit.text)
    return name.casefold() in (hit.title.casefold(), None if alias is None else alias.casefold())


def _newest(hits: list[_Hit], name: str) -> list[_Hit]:
    """The hits that are the page of ``name``, without its outdated versions."""
    about = [hit for hit in hits if _is_about(hit, name)]
    date = max((hit.date for hit in about), default=0)
    return [hit for hit in about if hit.date == date]


def _find(hits: list[_Hit], name: str, relation: Relation) -> _Hit | None:
    """The page of ``name``, if it states the fact."""
    return next((hit for hit in _newest(hits, name) if relation.id in hit.facts), None)


def _wrong_version(hits: list[_Hit], right: _Hit, name: str, relation: Relation) -> str | None:
    """The fact as an outdated version of the page states it."""
    facts = [hit.facts for hit in hits if _is_about(hit, name) and hit.date < right.date]
    return next(
        (
            old[relation.id]
            for old in facts
            if old.get(relation.id, right.facts[relation.id]) != right.facts[relation.id]
        ),
        None,
    )


def _wrong_attribute(hit: _Hit, relation: Relation, last: bool, rng: np.random.Generator) -> str | None:
    """Another fact of the page: of the same sort if it has one; at the end of a chain any other will do."""
    facts = {key: value for key, value in hit.facts.items() if value != hit.facts[relation.id]}
    same = [value for key, value in facts.items() if RELATIONS[key].target == relation.target]
    if not same and relation.numeric:
        same = [value for key, value in facts.items() if RELATIONS[key].numeric]
    if not same and last and not relation.numeric:
        same = [value for key, value in facts.items() if not RELATIONS[key].numeric]
    return same[int(rng.integers(len(same)))] if same else None


def _wrong_hit(hits: list[_Hit], right: _Hit, relation: Relation) -> str | None:
    """The same fact (else one of the same sort) as the next page of the result states it."""
    truth = right.facts[relation.id]
    for hit in hits:
        facts = hit.facts if hit is not right else {}
        values = [facts[relation.id]] if relation.id in facts else []
        values += [value for key, value in facts.items() if RELATIONS[key].target == relation.target]
        wrong = [value for value in values if value != truth]
        if wrong:
            return wrong[0]
    return None


def demonstrate(task: Task, slip: Slip | None = None) -> Expert:
    """Solve ``task``; with a ``slip``, make that one mistake on the way."""
    operator: str = task.meta["operator"]
    looks = [
        (chain["start"] if place == 0 else None, RELATIONS[relation_id], place + 1 == len(chain["steps"]))
        for chain in task.meta["chains"]
        for place, (_, relation_id) in enumerate(chain["steps"])
    ]
    ends: list[str] = []
    found, searched, think = "", "", ""
    for step, (start, relation, last) in enumerate(looks):
        due = slip is not None and step > 0 and not operator and slip.due(step)
        if due and slip and slip.kind in ("early", "repeat"):
            if slip.kind == "repeat":
                yield tool_turn(f"{think} Search again.", "search", searched)
            yield answer_turn(think, found)
            return
        searched = start or found
        goal = f"{relation.label} of {start}." if start else f"{relation.label}."
        turn = f"{think} Next: {goal}" if think else f"Find the {goal}"
        read = yield from _look_up(searched, relation, last, turn, slip if slip and slip.due(step) else None)
        if read is None:
            yield answer_turn("I cannot find it.", GIVE_UP)
            return
        found = read
        think = f"{relation.label.capitalize()}: {found}."
        if last:
            ends.append(found)
    if slip is not None and not slip.made and not (operator and slip.kind == "operator"):
        # The mistake that is left: the page's own name for what stands on it, an operand for the result.
        yield answer_turn(think, found if operator else searched)
    elif operator:
        yield from _compute(ends, operator if slip is None or slip.made else {"+": "-", "-": "+"}[operator], think)
    else:
        yield answer_turn(think, found)


def _search(think: str, query: str, name: str, relation: Relation) -> Generator[str, str, list[_Hit]]:
    """The hits of ``query``; the page of ``name`` (else the first) is opened if hits show addresses and no fact."""
    hits = read_hits((yield tool_turn(think, "search", query)))
    if _find(hits, name, relation) is not None:
        return hits
    shown = [hit for hit in hits if hit.url]
    if not shown:
        return hits
    # An alias may stand in what is cut off, so versions of a page are told by their title; else the best hit is it.
    title = next((hit.title for hit in shown if _is_about(hit, name)), shown[0].title)
    best = _newest(shown, title)[0]
    page = yield from _open(best, relation)
    return [page if hit is best else hit for hit in hits]


def _open(hit: _Hit, relation: Relation) -> Generator[str, str, _Hit]:
    """The page behind ``hit``, read as far as the chunk that states the fact."""
    text, think, argument = "", f"Open {hit.title}.", hit.url
    while True:
        try:
            head, _, chunk = result_body((yield tool_turn(think, "browse", argument))).partition("\n")
        except ValueError:
            return hit
        text = f"{text} {chunk}".strip()
        page = _Hit(hit.title, text, hit.url)
        place = _CHUNK.search(head)
        if relation.id in page.facts or place is None or place[1] == place[2]:
            return page
        think, argument = "Not yet. Read on.", str(int(place[1]) + 1)


def _look_up(
    name: str, relation: Relation, last: bool, think: str, slip: Slip | None
) -> Generator[str, str, str | None]:
    """Search for ``name`` (once more in other words if need be) and read the fact; None when it is not there."""
    hits = yield from _search(think, name, name, relation)
    right = _find(hits, name, relation)
    if right is None:
        again = "Not found. Search in other words."
        hits = yield from _search(again, f"{name} {relation.label}", name, relation)
        right = _find(hits, name, relation)
        if right is None:
            return None
    wrong: str | None = None
    if slip is not None and slip.kind == "hit":
        wrong = _wrong_hit(hits, right, relation)
    elif slip is not None and slip.kind == "stale":
        wrong = _wrong_version(hits, right, name, relation)
    elif slip is not None and slip.kind in ("attribute", "repeat"):
        wrong = _wrong_attribute(right, relation, last, slip.rng)
        if wrong is not None and slip.kind == "repeat":
            yield tool_turn(f"Search {name} again.", "search", name)
    if slip is not None and wrong is not None:
        slip.made = True
    return right.facts[relation.id] if wrong is None else wrong


def _compute(numbers: list[str], operator: str, think: str) -> Expert:
    """The last turns of a question about two numbers."""
    if not all(number.isdigit() for number in numbers):
        yield answer_turn("These are no numbers.", GIVE_UP)
        return
    high, low = sorted(map(int, numbers), reverse=True)
    verb = {"+": "Add", "-": "Subtract"}[operator]
    result = yield tool_turn(f"{think} {verb} them.", "python", f"print({high} {operator} {low})")
    values = re.findall(r"-?\d+", result)
    yield answer_turn(f"The result is {values[-1]}.", values[-1]) if values else answer_turn("No result.", GIVE_UP)


def draw_slip(task: Task, rng: np.random.Generator, among: Sequence[str] = SLIPS) -> Slip:
    """A mistake of ``among`` (which hold "attribute") that this task has room for, and where to make it."""
    hops: int = task.meta["hops"]
    kinds = ["attribute", "hit"]
    if task.meta["operator"]:
        kinds += ["early", "operator"]
    else:
        kinds += ["early", "repeat"] if hops > 1 else ["repeat"]
    if task.meta.get("contested"):
        kinds.append("stale")
    kinds = [kind for kind in kinds if kind in among]
    kind = kinds[int(rng.integers(len(kinds)))]
    first = 1 if kind == "early" and not task.meta["operator"] else 0
    return Slip(kind, int(rng.integers(first, hops)), rng)
