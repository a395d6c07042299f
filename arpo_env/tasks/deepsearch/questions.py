"""Questions over a world: chains of relations, and sums over the ends of two chains.

An answer is computed by following the columns of the world, never by searching. A chain visits no entity twice,
its answer does not stand in its question, and every relation has one value: so there is exactly one answer, and
none but the look-ups lead there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from arpo_env.tasks.deepsearch.schema import CHANGING, KINDS, RELATIONS_OF, Relation
from arpo_env.tasks.deepsearch.world import Entity, World

KIND_NAMES = tuple(KINDS)
#: Share of questions that use an entity's alias where it has one.
_ALIAS_USE = 0.5
#: A random walk can fail (an entity comes back, a page has no number): it is drawn again, this often at most.
_TRIES = 1000

_SPANS = ("How many years passed between {a} and {b}?", "How many years after {a} was {b}?")
_SUMS = ("What is the total {a}?", "What is the combined {a}?")
#: In worlds with outdated pages: which of two contradicting pages counts.
_CURRENT = ("Go by the newest page.", "The newest page counts.", "Outdated pages do not count.")
_GAPS = ("How much larger is the {a} than the {b}?", "By how much does the {a} exceed the {b}?")


@dataclass(frozen=True)
class Chain:
    """``entities[0]`` -relations[0]-> ``entities[1]`` … -> ``value``."""

    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...]
    value: Entity | int

    @property
    def number(self) -> int:
        """The value of a chain that was drawn to end in a number."""
        assert isinstance(self.value, int)
        return self.value

    @property
    def last(self) -> Relation:
        return self.relations[-1]


@dataclass(frozen=True)
class Question:
    """A question, its answer and what an expert or a report needs; ``chains`` is JSON-able.

    ``contested`` counts the look-ups where an outdated page states another value.
    """

    text: str
    answer: str
    aliases: tuple[str, ...]
    hops: int
    operator: str
    chains: list[dict[str, Any]]
    contested: int = 0


T = TypeVar("T")


def _pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _draw_chain(
    world: World,
    rng: np.random.Generator,
    hops: int,
    kinds: Sequence[str],
    end: str = "",
    avoid: frozenset[Entity] = frozenset(),
) -> Chain | None:
    """One random walk of ``hops`` relations over pages of ``kinds``; None when it cannot go on.

    ``end`` says what the last relation must be: any (empty), one with that target, or one with that id.
    """
    here = Entity(kind := _pick(rng, kinds), int(rng.integers(world.counts[kind])))
    entities, relations = [here], []
    for left in range(hops - 1, -1, -1):
        # The end may be of any kind; a page on the way is one that is read.
        choices = [
            r for r in RELATIONS_OF[here.kind] if (end in ("", r.target, r.id) if left == 0 else r.target in kinds)
        ]
        if not choices:
            return None
        relation = _pick(rng, choices)
        value = world.value(here, relation)
        relations.append(relation)
        if left == 0:
            seen = {*entities, *avoid}
            if avoid & set(entities) or value in seen:
                return None
            return Chain(tuple(entities), tuple(relations), value)
        assert isinstance(value, Entity)
        if value in entities:
            return None
        entities.append(value)
        here = value
    return None


class _Writer:
    """Puts chains into words; every choice of wording is drawn from ``rng``."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._world, self._rng = world, rng

    def wording(self, options: Sequence[str]) -> str:
        free = self._rng.random() < self._world.spec.paraphrase
        return _pick(self._rng, options) if free else options[0]

    def start(self, chain: Chain) -> str:
        """What the question calls the first entity."""
        entity = chain.entities[0]
        alias = self._world.alias(entity)
        return alias if alias is not None and self._rng.random() < _ALIAS_USE else self._world.name(entity)

    def subject(self, chain: Chain, start: str) -> str:
        """The noun phrase for the last page of the chain: the start itself, or "the founder of …"."""
        phrase = KINDS[chain.entities[0].kind].article + start
        for relation in chain.relations[:-1]:
            phrase = self.wording(relation.phrases).format(x=phrase)
        return phrase

    def end(self, text: str) -> str:
        """The question, with which pages count where pages contradict each other."""
        return f"{text} {self.wording(_CURRENT)}" if self._world.spec.stale > 0 else text


def _contested(world: World, *chains: Chain) -> int:
    return sum(
        relation.id in CHANGING and world.outdated(entity) is not None
        for chain in chains
        for entity, relation in zip(chain.entities, chain.relations, strict=True)
    )


def _plan(chain: Chain, start: str) -> dict[str, Any]:
    steps = [[entity.id, relation.id] for entity, relation in zip(chain.entities, chain.relations, strict=True)]
    return {"start": start, "steps": steps}


def look_up(world: World, rng: np.random.Generator, hops: int, kinds: Sequence[str] = KIND_NAMES) -> Question:
    """A chain of ``hops`` look-ups on pages of ``kinds``; the answer is a name or a number."""
    writer = _Writer(world, rng)
    for _ in range(_TRIES):
        chain = _draw_chain(world, rng, hops, kinds)
        if chain is None:
            continue
        start = writer.start(chain)
        text = writer.wording(chain.last.asks).format(x=writer.subject(chain, start))
        aliases: tuple[str, ...] = ()
        if isinstance(chain.value, Entity):
            answer = world.name(chain.value)
            alias = world.alias(chain.value)
            aliases = (alias,) if alias is not None else ()
        else:
            answer = str(chain.value)
        # "Mikton" may not be the answer to a question about New Mikton.
        if answer.casefold() not in text.casefold():
            plans = [_plan(chain, start)]
            return Question(writer.end(text), answer, aliases, hops, "", plans, _contested(world, chain))
    raise AssertionError(f"no chain of {hops} hops over {kinds} in {_TRIES} tries: {world.spec}")


def _operands(world: World, rng: np.random.Generator, hops: int, kinds: Sequence[str]) -> tuple[Chain, Chain, bool]:
    """Two chains that end in different numbers of one sort, and whether these are years."""
    first_hops = int(rng.integers(1, hops))
    over_years = bool(rng.random() < 0.5)
    target = "year" if over_years else "number"
    for _ in range(_TRIES):
        a = _draw_chain(world, rng, first_hops, kinds, target)
        if a is None:
            continue
        # Any two years make a span, but only two populations (lengths, …) make a sum.
        end = "year" if over_years else a.last.id
        b = _draw_chain(world, rng, hops - first_hops, kinds, end, frozenset(a.entities))
        if b is not None and a.number != b.number:
            return a, b, over_years
    raise AssertionError(f"no two chains of {hops} hops over {kinds} in {_TRIES} tries: {world.spec}")


def compute(world: World, rng: np.random.Generator, hops: int, kinds: Sequence[str] = KIND_NAMES) -> Question:
    """Two chains of ``hops`` look-ups together, each ending in a number, and their sum or difference.

    ``hops`` >= 2. Differences are positive: the question is put the right way round.
    """
    a, b, over_years = _operands(world, rng, hops, kinds)
    writer = _Writer(world, rng)
    operator = "-" if over_years or rng.random() < 0.5 else "+"
    # A span runs from the earlier year, a gap from the larger number; in a sum the plain name comes first, since
    # "the seat of Brimco and Kelport" could be read in two ways.
    turned = len(a.relations) > len(b.relations) if operator == "+" else (a.number < b.number) != over_years
    if turned:
        a, b = b, a
    starts = [writer.start(chain) for chain in (a, b)]
    subjects = [writer.subject(chain, start) for chain, start in zip((a, b), starts, strict=True)]
    phrases = [writer.wording(chain.last.phrases).format(x=x) for chain, x in zip((a, b), subjects, strict=True)]
    if operator == "+":
        both = f"{subjects[0]} and {subjects[1]}"
        text = writer.wording(_SUMS).format(a=writer.wording(a.last.phrases).format(x=both))
    else:
        text = writer.wording(_SPANS if over_years else _GAPS).format(a=phrases[0], b=phrases[1])
    answer = a.number + b.number if operator == "+" else abs(a.number - b.number)
    plans = [_plan(chain, start) for chain, start in zip((a, b), starts, strict=True)]
    return Question(writer.end(text), str(answer), (), hops, operator, plans, _contested(world, a, b))
