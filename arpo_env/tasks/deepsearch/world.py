"""The generated encyclopaedia: a pure function of a :class:`WorldSpec`.

A world is a few integer columns (who founded what, who was born where), drawn at once with NumPy; names and page
texts are made when asked for. So a world is a lazy ``Sequence[Page]``: a thousand pages take milliseconds, a
million a few seconds and some tens of megabytes, and an index keeps no copy of the texts.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arpo_env.errors import ConfigError, unknown
from arpo_env.search.base import Page, PageSequence
from arpo_env.tasks.base import SPLITS
from arpo_env.tasks.deepsearch.names import SPACES
from arpo_env.tasks.deepsearch.schema import (
    ALIAS_SENTENCES,
    CHANGING,
    DATE_SENTENCES,
    FILLER,
    KINDS,
    RELATIONS_OF,
    Relation,
)

#: Fewer pages leave kinds with a single member, and no wrong answer to give.
MIN_PAGES = 100
#: With ``distractors=1``: this share of all pages is filler, and this share of the entities has a near-duplicate.
_FILLER_SHARE = 0.15
_TWIN_SHARE = 0.4
#: When current pages were written, and how many years older an outdated one is, at most.
_DATES = (1990, 2024)
_OLDEST = 40
#: The kind of outdated pages; their subjects are of the other kinds.
OLD = "old"
_OLD_KINDS = tuple(kind for kind in KINDS if any(relation.id in CHANGING for relation in RELATIONS_OF[kind]))

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class WorldSpec:
    """All that decides a world; equal specs give equal worlds, byte for byte.

    Args:
        seed: the world seed.
        pages: how many pages, at least :data:`MIN_PAGES`.
        split: each split has worlds of its own, with names no other split has.
        distractors: 0..1; near-duplicate names, and pages that mention entities without their facts.
        aliases: 0..1; the share of entities with a second name, stated on their page.
        paraphrase: 0..1; the share of pages and questions that may use another wording than the first.
        stale: 0..1; the share of entities (of kinds that change) with an older version of their page beside the
            current one, under the same title, where every fact that changes has another value. Above 0, pages of
            entities say when they were written, and stand in random order.

    Raises:
        ConfigError: a value out of range.
    """

    seed: int = 0
    pages: int = 1000
    split: str = "train"
    distractors: float = 0.5
    aliases: float = 0.0
    paraphrase: float = 1.0
    stale: float = 0.0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise unknown("split", self.split, SPLITS)
        if self.seed < 0:
            raise ConfigError(f"world_seed must be >= 0, got {self.seed}")
        if self.pages < MIN_PAGES:
            raise ConfigError(f"pages must be >= {MIN_PAGES}, got {self.pages}")
        for name in ("distractors", "aliases", "paraphrase", "stale"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must lie in 0..1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """A page's subject: its kind and its number among that kind."""

    kind: str
    number: int

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.number}"


class World(PageSequence):
    """The encyclopaedia of one spec. Read-only after construction, so threads and clones share it."""

    def __init__(self, spec: WorldSpec) -> None:
        self.spec = spec
        key = (zlib.crc32(b"deepsearch-world"), SPLITS[spec.split])
        rng = np.random.default_rng(np.random.SeedSequence(entropy=spec.seed, spawn_key=key))
        self.counts = _counts(spec)
        self._names: dict[str, tuple[int, Ints, Ints]] = {}
        for kind, count in self.counts.items():
            self._names[kind] = _draw_names(rng, spec, kind, count)
        self._facts: dict[str, Ints] = {}
        for kind in KINDS:
            self._draw_facts(rng, kind)
        self._draw_years(rng)
        self._aliases = self._draw_aliases(rng)
        self._styles = {
            kind: np.where(rng.random(count) < spec.paraphrase, rng.integers(0, 256, count), 0)
            for kind, count in self.counts.items()
        }
        self._mentions = {
            "city": rng.integers(0, self.counts["city"], self.counts["other"]),
            "person": rng.integers(0, self.counts["person"], self.counts["other"]),
        }
        self._order: Ints | None = None
        if spec.stale > 0:
            # A stream of its own: what was drawn above is the same with and without outdated pages.
            self._draw_old(np.random.default_rng(np.random.SeedSequence(entropy=spec.seed, spawn_key=(*key, 1))))
        self._starts = dict(zip(self.counts, np.cumsum([0, *self.counts.values()]).tolist(), strict=False))

    # ------------------------------------------------------------------ drawing

    def _draw_facts(self, rng: np.random.Generator, kind: str) -> None:
        """All relations of a kind but the dependent years; two relations with one target kind never agree."""
        count = self.counts[kind]
        drawn: dict[str, Ints] = {}
        for relation in RELATIONS_OF[kind]:
            if relation.after:
                continue
            if relation.numeric:
                self._facts[relation.id] = rng.integers(relation.low, relation.high + 1, count)
                continue
            size = self.counts[relation.target]
            if relation.target == kind:
                values = _pairing(rng, count)
            elif relation.target in drawn:
                values = (drawn[relation.target] + rng.integers(1, size, count)) % size
            else:
                values = rng.integers(0, size, count)
            drawn[relation.target] = self._facts[relation.id] = values

    def _draw_years(self, rng: np.random.Generator) -> None:
        """The years that follow from a person's birth, in table order (births are drawn already)."""
        births = self._facts["person.birth_year"]
        for kind in KINDS:
            for relation in RELATIONS_OF[kind]:
                if not relation.after:
                    continue
                who = relation.after.split(".")[0]
                base = births if who == "self" else births[self._facts[f"{kind}.{who}"]]
                gap = rng.integers(relation.low, relation.high + 1, self.counts[kind])
                self._facts[relation.id] = base + gap

    def _draw_aliases(self, rng: np.random.Generator) -> dict[str, Ints]:
        """For each kind the alias numbers, -1 where an entity has none; no alias is given twice."""
        marks = {kind: rng.random(self.counts[kind]) < self.spec.aliases for kind in KINDS}
        total = int(sum(mark.sum() for mark in marks.values()))
        space = SPACES["alias"]
        self._alias_level = space.level(total)
        numbers = space.draw(rng, total, SPLITS[self.spec.split])
        out: dict[str, Ints] = {}
        for kind, mark in marks.items():
            column = np.full(len(mark), -1, np.int64)
            column[mark], numbers = numbers[: mark.sum()], numbers[mark.sum() :]
            out[kind] = column
        return out

    def _draw_old(self, rng: np.random.Generator) -> None:
        """The outdated pages: whose they are, what they state, when all pages were written, and their order."""
        total = self.spec.pages - sum(self.counts.values())
        sizes = [self.counts[kind] for kind in _OLD_KINDS]
        ends: Ints = np.cumsum(sizes, dtype=np.int64)
        picks = np.sort(rng.choice(int(ends[-1]), total, replace=False))
        kinds = np.searchsorted(ends, picks, side="right")
        self._old_subjects = (kinds, picks - (ends - sizes)[kinds])
        self._old_of: dict[str, Ints] = {}
        self._old_facts: dict[str, Ints] = {}
        self._dates = {kind: rng.integers(_DATES[0], _DATES[1] + 1, self.counts[kind]) for kind in KINDS}
        dates = np.empty(total, np.int64)
        for place, kind in enumerate(_OLD_KINDS):
            here = np.flatnonzero(kinds == place)
            numbers = self._old_subjects[1][here]
            self._old_of[kind] = np.full(self.counts[kind], -1, np.int64)
            self._old_of[kind][numbers] = here
            dates[here] = self._dates[kind][numbers] - rng.integers(1, _OLDEST + 1, len(here))
            for relation in RELATIONS_OF[kind]:
                if relation.id in CHANGING:
                    column = self._old_facts.setdefault(relation.id, np.full(total, -1, np.int64))
                    column[here] = self._another(rng, relation, numbers)
        self._dates[OLD] = dates
        self._styles[OLD] = np.where(rng.random(total) < self.spec.paraphrase, rng.integers(0, 256, total), 0)
        self.counts[OLD] = total
        self._order = rng.permutation(self.spec.pages)

    def _another(self, rng: np.random.Generator, relation: Relation, numbers: Ints) -> Ints:
        """For each entity a value that is not its own."""
        now = self._facts[relation.id][numbers]
        if relation.target == "year":
            return now - rng.integers(1, 16, len(now))
        low = relation.low if relation.numeric else 0
        size = relation.high - low + 1 if relation.numeric else self.counts[relation.target]
        other = low + (now - low + rng.integers(1, size, len(now))) % size
        if relation.target == relation.kind:
            # Nobody is married to herself: the next one, and if that is the spouse, the one after.
            for taken in (numbers, now):
                other = np.where(other == taken, (other + 1) % size, other)
        return other

    # ------------------------------------------------------------------ asking

    def name(self, entity: Entity) -> str:
        """The title of the entity's page; unique but for outdated versions, and in no world of another split."""
        entity = self.subject(entity)
        level, numbers, forms = self._names[entity.kind]
        return SPACES[entity.kind].name(level, int(numbers[entity.number]), int(forms[entity.number]))

    def alias(self, entity: Entity) -> str | None:
        """The entity's second name, if it has one."""
        entity = self.subject(entity)
        column = self._aliases.get(entity.kind)
        if column is None or column[entity.number] < 0:
            return None
        return SPACES["alias"].name(self._alias_level, int(column[entity.number]))

    def value(self, entity: Entity, relation: Relation) -> Entity | int:
        """The fact: another entity, or an integer. On an outdated page, what was the case then."""
        if entity.kind == OLD and relation.id in CHANGING:
            value = int(self._old_facts[relation.id][entity.number])
        else:
            value = int(self._facts[relation.id][self.subject(entity).number])
        return value if relation.numeric else Entity(relation.target, value)

    def subject(self, entity: Entity) -> Entity:
        """Whom a page is about: the entity itself, or of an outdated page the entity of the current one."""
        if entity.kind != OLD:
            return entity
        kinds, numbers = self._old_subjects
        return Entity(_OLD_KINDS[int(kinds[entity.number])], int(numbers[entity.number]))

    def outdated(self, entity: Entity) -> Entity | None:
        """The outdated version of the entity's page, if there is one."""
        column = self._old_of.get(entity.kind) if self.spec.stale > 0 else None
        return None if column is None or column[entity.number] < 0 else Entity(OLD, int(column[entity.number]))

    def date(self, entity: Entity) -> int | None:
        """The year the page says it was written in; None where it does not say."""
        column = self._dates.get(entity.kind) if self.spec.stale > 0 else None
        return None if column is None else int(column[entity.number])

    def entity(self, index: int) -> Entity:
        """The entity of page ``index`` (of kind ``old`` for an outdated page)."""
        if self._order is not None:
            index = int(self._order[index])
        for kind, count in self.counts.items():
            if index < self._starts[kind] + count:
                return Entity(kind, index - self._starts[kind])
        raise IndexError(index)

    # ------------------------------------------------------------------ pages

    def __len__(self) -> int:
        return self.spec.pages

    def page_at(self, number: int) -> Page:
        return self.page(self.entity(number))

    def page(self, entity: Entity) -> Page:
        """The page about ``entity``."""
        url = f"https://{self.spec.split}.world.invalid/{entity.kind}/{entity.number}"
        return Page(entity.id, self.name(entity), self.text(entity), url)

    def text(self, entity: Entity) -> str:
        """The text of the page; its sentences never name their own subject (the title does)."""
        kind, number = entity.kind, entity.number
        style = int(self._styles[kind][number])
        if kind == "other":
            city, person = (Entity(k, int(self._mentions[k][number])) for k in ("city", "person"))
            return FILLER[number % len(FILLER)].format(city=self.name(city), person=self.name(person))
        kind = self.subject(entity).kind
        values: dict[str, str] = {}
        for relation in RELATIONS_OF[kind]:
            value = self.value(entity, relation)
            values[relation.name] = self.name(value) if isinstance(value, Entity) else str(value)
        sentences = [
            wordings[style >> i & 1 if len(wordings) > 1 else 0] for i, wordings in enumerate(KINDS[kind].sentences)
        ]
        text = " ".join(sentences).format(**values)
        alias, date = self.alias(entity), self.date(entity)
        if alias is not None:
            text = f"{ALIAS_SENTENCES[style >> 7 & 1].format(alias=alias)} {text}"
        return text if date is None else f"{DATE_SENTENCES[style >> 6 & 1].format(date=date)} {text}"


def _counts(spec: WorldSpec) -> dict[str, int]:
    """Pages of each kind; outdated pages are what is missing from ``spec.pages`` (see ``World._draw_old``)."""
    filler = int(spec.pages * _FILLER_SHARE * spec.distractors)
    rest = spec.pages - filler
    if spec.stale > 0:
        # Rounded up, so that there are never more outdated pages than entities to have them.
        rest = math.ceil(rest / (1 + spec.stale * sum(KINDS[kind].share for kind in _OLD_KINDS)))
    counts = {name: int(rest * kind.share) for name, kind in KINDS.items()}
    # Spouses pair up, and so do twin cities: both counts are even. What rounding left over goes to companies.
    for kind in ("person", "city"):
        counts[kind] -= counts[kind] % 2
    counts["company"] += rest - sum(counts.values())
    return {**counts, "other": filler}


def _draw_names(rng: np.random.Generator, spec: WorldSpec, kind: str, count: int) -> tuple[int, Ints, Ints]:
    """(level, name numbers, forms) of ``count`` entities; near-duplicates share a number and differ in form."""
    space = SPACES[kind]
    twins = 0 if kind == "other" else int(count * _TWIN_SHARE * spec.distractors / 2)
    base = count - twins
    numbers = space.draw(rng, base, SPLITS[spec.split])
    forms = rng.integers(0, space.base_forms, base)
    originals = rng.choice(base, twins, replace=False)
    others = (forms[originals] + rng.integers(1, max(len(space.forms), 2), twins)) % len(space.forms)
    # Shuffled together, so that a page's number says nothing about its being a near-duplicate.
    order = rng.permutation(count)
    all_numbers = np.concatenate([numbers, numbers[originals]])[order]
    return space.level(base), all_numbers, np.concatenate([forms, others])[order]


def _pairing(rng: np.random.Generator, count: int) -> Ints:
    """A random perfect matching: ``out[out[i]] == i != out[i]``; ``count`` is even."""
    order = rng.permutation(count)
    out = np.empty(count, np.int64)
    out[order[0::2]], out[order[1::2]] = order[1::2], order[0::2]
    return out
