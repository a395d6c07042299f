"""What the encyclopaedia knows: kinds of pages, their relations, and every wording in one table.

One table serves four readers, so that they cannot drift apart: the world draws a value for each relation, the page
renderer fills the sentences, the question writer fills ``asks`` and ``phrases``, and :func:`read_facts` turns a
page's text back into facts with patterns made from the very same sentences.

Every relation is functional (one value a page), so a chain of relations has exactly one answer. Every kind has at
least two relations with values of one sort (born in / died in, founder / head), so that reading the wrong one is a
mistake one can make, and see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One fact of a page.

    Args:
        kind: the kind of page it stands on.
        name: its slot in the sentences; ``kind.name`` is its id.
        target: the kind of its value, ``"year"`` or ``"number"``.
        label: how a person would call it ("birth city").
        asks: whole questions about ``{x}``.
        phrases: noun phrases that stand for the value ("the founder of {x}"): links of a longer chain. For a
            year, the event ("the founding of {x}"); for a number, the quantity ("the population of {x}").
        low, high: range of a drawn number (both included); for a year with ``after``, added to that year.
        after: ``"relation.year_relation"`` on whose value a year depends, so that nobody founds before birth.
    """

    kind: str
    name: str
    target: str
    label: str
    asks: tuple[str, ...]
    phrases: tuple[str, ...]
    low: int = 0
    high: int = 0
    after: str = ""

    @property
    def id(self) -> str:
        return f"{self.kind}.{self.name}"

    @property
    def numeric(self) -> bool:
        return self.target in ("year", "number")


@dataclass(frozen=True)
class Kind:
    """A kind of page: its share of the world, its sentences, each in one or more wordings, and its names' article."""

    name: str
    share: float
    sentences: tuple[tuple[str, ...], ...]
    article: str = ""


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "person",
            0.34,
            (
                (
                    "Born {birth_year} in {birth_city}, died {death_year} in {death_city}.",
                    "Birth: {birth_city}, {birth_year}. Death: {death_city}, {death_year}.",
                ),
                ("Studied at {school}, married {spouse}.", "Spouse: {spouse}. Studies: {school}."),
            ),
        ),
        Kind(
            "city",
            0.14,
            (
                (
                    "City of {population} people on the {river}, founded in {founded}.",
                    "Founded in {founded} on the {river}; {population} people live there.",
                ),
                ("Mayor {mayor}, twin city {twin}.", "Its twin city is {twin}, its mayor {mayor}."),
            ),
        ),
        Kind(
            "company",
            0.14,
            (
                (
                    "Company founded in {founded} by {founder}, led by {head}.",
                    "Company led by {head}; {founder} founded it in {founded}.",
                ),
                (
                    "Seat {seat}, factory {factory}, staff {staff}.",
                    "Staff {staff}. Its seat is {seat}, its factory {factory}.",
                ),
            ),
        ),
        Kind(
            "book",
            0.10,
            (
                (
                    "Novel by {author}, published in {published}, translated by {translator}.",
                    "Novel that {author} published in {published} and {translator} translated.",
                ),
                ("Set in {setting}, won the {award}.", "It plays in {setting} and won the {award}."),
            ),
        ),
        Kind(
            "film",
            0.08,
            (
                (
                    "Film by {director} from {released}, starring {star}.",
                    "Film with {star}, which {director} directed in {released}.",
                ),
                ("Based on {source}, shot in {location}.", "Shot in {location} after the novel {source}."),
            ),
        ),
        Kind(
            "university",
            0.08,
            (
                (
                    "Founded in {founded} by {founder}, with {students} students.",
                    "School of {students} students that {founder} founded in {founded}.",
                ),
                ("Campus in {campus}, hospital in {hospital}, rector {rector}.",),
            ),
        ),
        Kind(
            "river",
            0.07,
            (
                (
                    "River of {length} km, from {source} to {mouth}.",
                    "It rises near {source} and ends in {mouth} after {length} km.",
                ),
                ("Dam built in {dam_year} by {engineer}.",),
            ),
            "the ",
        ),
        Kind(
            "award",
            0.05,
            (
                (
                    "Created in {created} by {founder}, now held by {holder}.",
                    "Its holder is {holder}; {founder} created it in {created}.",
                ),
                ("Handed over in {place}.",),
            ),
            "the ",
        ),
    )
}

#: Pages about nothing one asks for: they name entities without their facts. Filled with ``{city}`` and ``{person}``.
FILLER = (
    "Held every spring in {city}, often with {person} as a guest.",
    "Well known in {city}; {person} wrote about it.",
    "Named after {person}, a short walk from {city}.",
)
#: The sentence that gives an alias, in front of the others.
ALIAS_SENTENCES = ("Also called {alias}.", "Known as {alias}.")
#: In worlds with outdated pages: when a page was written, in front of everything, so that no snippet loses it.
DATE_SENTENCES = ("As of {date}.", "Written in {date}.")

_RELATIONS = (
    Relation(
        "person", "birth_city", "city", "birth city",
        ("In which city was {x} born?", "Where was {x} born?", "What is the birth city of {x}?"),
        ("the birth city of {x}", "the city where {x} was born"),
    ),
    Relation(
        "person", "death_city", "city", "death city",
        ("In which city did {x} die?", "Where did {x} die?", "What is the death city of {x}?"),
        ("the death city of {x}", "the city where {x} died"),
    ),
    Relation(
        "person", "school", "university", "university",
        ("At which university did {x} study?", "Where did {x} study?"),
        ("the university of {x}", "the university where {x} studied"),
    ),
    Relation(
        "person", "spouse", "person", "spouse",
        ("Who married {x}?", "Who is the spouse of {x}?"),
        ("the spouse of {x}", "the person who married {x}"),
    ),
    Relation(
        "person", "birth_year", "year", "birth year",
        ("In which year was {x} born?", "When was {x} born?"),
        ("the birth of {x}",), 1840, 1930,
    ),
    Relation(
        "person", "death_year", "year", "death year",
        ("In which year did {x} die?", "When did {x} die?"),
        ("the death of {x}",), 45, 85, "self.birth_year",
    ),
    Relation(
        "city", "river", "river", "river",
        ("Which river flows through {x}?", "On which river is {x}?"),
        ("the river of {x}", "the river that flows through {x}"),
    ),
    Relation(
        "city", "mayor", "person", "mayor",
        ("Who is the mayor of {x}?", "Who is mayor in {x}?"),
        ("the mayor of {x}", "the person who is mayor of {x}"),
    ),
    Relation(
        "city", "twin", "city", "twin city",
        ("What is the twin city of {x}?", "Which city is the twin of {x}?"),
        ("the twin city of {x}", "the city twinned with {x}"),
    ),
    Relation(
        "city", "founded", "year", "founding year",
        ("In which year was {x} founded?", "When was {x} founded?"),
        ("the founding of {x}",), 1100, 1830,
    ),
    Relation(
        "city", "population", "number", "population",
        ("What is the population of {x}?", "How many people live in {x}?"),
        ("population of {x}",), 100, 9999,
    ),
    Relation(
        "company", "founder", "person", "founder",
        ("Who founded {x}?", "Who is the founder of {x}?"),
        ("the founder of {x}", "the person who founded {x}"),
    ),
    Relation(
        "company", "head", "person", "head",
        ("Who leads {x}?", "Who is the head of {x}?"),
        ("the head of {x}", "the person who leads {x}"),
    ),
    Relation(
        "company", "seat", "city", "seat",
        ("In which city is the seat of {x}?", "Where does {x} have its seat?"),
        ("the seat of {x}", "the city where {x} has its seat"),
    ),
    Relation(
        "company", "factory", "city", "factory city",
        ("In which city is the factory of {x}?", "Where does {x} have its factory?"),
        ("the factory city of {x}", "the city where {x} has its factory"),
    ),
    Relation(
        "company", "founded", "year", "founding year",
        ("In which year was {x} founded?", "When was {x} founded?"),
        ("the founding of {x}",), 20, 40, "founder.birth_year",
    ),
    Relation(
        "company", "staff", "number", "staff",
        ("How many people work for {x}?", "What is the staff of {x}?"),
        ("staff of {x}",), 100, 9999,
    ),
    Relation(
        "book", "author", "person", "author",
        ("Who wrote {x}?", "Who is the author of {x}?"),
        ("the author of {x}", "the person who wrote {x}"),
    ),
    Relation(
        "book", "translator", "person", "translator",
        ("Who translated {x}?", "Who is the translator of {x}?"),
        ("the translator of {x}", "the person who translated {x}"),
    ),
    Relation(
        "book", "setting", "city", "setting",
        ("In which city is {x} set?", "Where does {x} play?"),
        ("the setting of {x}", "the city where {x} is set"),
    ),
    Relation(
        "book", "award", "award", "award",
        ("Which award did {x} win?", "What did {x} win?"),
        ("the award of {x}", "the award that {x} won"),
    ),
    Relation(
        "book", "published", "year", "year",
        ("In which year was {x} published?", "When was {x} published?"),
        ("the publication of {x}",), 22, 44, "author.birth_year",
    ),
    Relation(
        "film", "director", "person", "director",
        ("Who directed {x}?", "Who is the director of {x}?"),
        ("the director of {x}", "the person who directed {x}"),
    ),
    Relation(
        "film", "star", "person", "star",
        ("Who stars in {x}?", "Who is the star of {x}?"),
        ("the star of {x}", "the person who stars in {x}"),
    ),
    Relation(
        "film", "source", "book", "novel",
        ("On which novel is {x} based?", "Which novel is {x} based on?"),
        ("the novel behind {x}", "the novel that {x} is based on"),
    ),
    Relation(
        "film", "location", "city", "location",
        ("In which city was {x} shot?", "Where was {x} shot?"),
        ("the location of {x}", "the city where {x} was shot"),
    ),
    Relation(
        "film", "released", "year", "year",
        ("In which year was {x} released?", "When was {x} released?"),
        ("the release of {x}",), 22, 44, "director.birth_year",
    ),
    Relation(
        "university", "founder", "person", "founder",
        ("Who founded {x}?", "Who is the founder of {x}?"),
        ("the founder of {x}", "the person who founded {x}"),
    ),
    Relation(
        "university", "rector", "person", "rector",
        ("Who is the rector of {x}?", "Who is rector at {x}?"),
        ("the rector of {x}", "the person who is rector of {x}"),
    ),
    Relation(
        "university", "campus", "city", "campus city",
        ("In which city is the campus of {x}?", "Where does {x} have its campus?"),
        ("the campus city of {x}", "the city where {x} has its campus"),
    ),
    Relation(
        "university", "hospital", "city", "hospital city",
        ("In which city is the hospital of {x}?", "Where does {x} have its hospital?"),
        ("the hospital city of {x}", "the city where {x} has its hospital"),
    ),
    Relation(
        "university", "founded", "year", "founding year",
        ("In which year was {x} founded?", "When was {x} founded?"),
        ("the founding of {x}",), 25, 44, "founder.birth_year",
    ),
    Relation(
        "university", "students", "number", "students",
        ("How many students does {x} have?", "How many students are at {x}?"),
        ("number of students of {x}",), 200, 9999,
    ),
    Relation(
        "river", "source", "city", "source",
        ("Near which city does {x} rise?", "Where does {x} begin?"),
        ("the source of {x}", "the city where {x} rises"),
    ),
    Relation(
        "river", "mouth", "city", "mouth",
        ("In which city does {x} end?", "Where does {x} end?"),
        ("the mouth of {x}", "the city where {x} ends"),
    ),
    Relation(
        "river", "engineer", "person", "engineer",
        ("Who built the dam on {x}?", "Who is the engineer of the dam on {x}?"),
        ("the engineer of {x}", "the person who built the dam on {x}"),
    ),
    Relation(
        "river", "length", "number", "length",
        ("How many km long is {x}?", "What is the length of {x} in km?"),
        ("length of {x}",), 20, 990,
    ),
    Relation(
        "river", "dam_year", "year", "dam year",
        ("In which year was the dam on {x} built?", "When was the dam on {x} built?"),
        ("the building of the dam on {x}",), 24, 44, "engineer.birth_year",
    ),
    Relation(
        "award", "founder", "person", "founder",
        ("Who created {x}?", "Who is the founder of {x}?"),
        ("the founder of {x}", "the person who created {x}"),
    ),
    Relation(
        "award", "holder", "person", "holder",
        ("Who holds {x}?", "Who is the holder of {x}?"),
        ("the holder of {x}", "the person who holds {x}"),
    ),
    Relation(
        "award", "place", "city", "place",
        ("In which city is {x} handed over?", "Where is {x} handed over?"),
        ("the place of {x}", "the city where {x} is handed over"),
    ),
    Relation(
        "award", "created", "year", "year",
        ("In which year was {x} created?", "When was {x} created?"),
        ("the creation of {x}",), 23, 44, "founder.birth_year",
    ),
)  # fmt: skip

#: id -> relation, in page order: a table whose order decides every draw, so append only.
RELATIONS: Mapping[str, Relation] = {relation.id: relation for relation in _RELATIONS}
#: kind -> its relations.
RELATIONS_OF: Mapping[str, tuple[Relation, ...]] = {
    kind: tuple(r for r in _RELATIONS if r.kind == kind) for kind in KINDS
}

#: What an older version of a page states differently: the relations whose values change in the course of time.
CHANGING: frozenset[str] = frozenset(
    f"{kind}.{name}"
    for kind, names in {
        "person": ("spouse",),
        "city": ("population", "mayor", "twin"),
        "company": ("head", "seat", "factory", "staff"),
        "book": ("translator",),
        "university": ("students", "campus", "hospital", "rector"),
        "river": ("engineer", "dam_year"),
        "award": ("holder", "place"),
    }.items()
    for name in names
)


def _pattern(kind: str, sentence: str) -> re.Pattern[str]:
    """The sentence with its slots turned into groups: names are words, numbers digits."""
    out = ""
    for part in re.split(r"(\{\w+\})", sentence):
        if part.startswith("{"):
            slot = part[1:-1]
            relation = RELATIONS.get(f"{kind}.{slot}")
            value = r"\d+" if relation is not None and relation.numeric else r"[^.,;:]+?"
            out += f"(?P<{slot}>{value})"
        else:
            out += re.escape(part)
    return re.compile(rf"(?:^|(?<=\. )){out}(?= |$)")


_READERS: Mapping[str, tuple[re.Pattern[str], ...]] = {
    name: tuple(_pattern(name, wording) for sentence in kind.sentences for wording in sentence)
    for name, kind in KINDS.items()
}
_ALIAS_READERS = tuple(_pattern("", wording) for wording in ALIAS_SENTENCES)
_DATE_READERS = tuple(re.compile("^" + wording.replace("{date}", r"(\d+)")) for wording in DATE_SENTENCES)


def read_facts(text: str) -> dict[str, str]:
    """The facts a page's text states: relation id -> value, as written. Empty for a page that states none."""
    found: dict[str, dict[str, str]] = {}
    for kind, patterns in _READERS.items():
        for pattern in patterns:
            if match := pattern.search(text):
                found.setdefault(kind, {}).update(
                    {f"{kind}.{slot}": value for slot, value in match.groupdict().items()}
                )
    # A sentence may fit two kinds ("Founded in 1900 ..."); the page's own kind is the one it states most of.
    return max(found.values(), key=len, default={})


def read_alias(text: str) -> str | None:
    """The alias a page's text states, if any."""
    return next((m["alias"] for pattern in _ALIAS_READERS if (m := pattern.search(text))), None)


def read_date(text: str) -> int:
    """The year a page's text says it was written in; 0 if it does not say."""
    return next((int(m[1]) for pattern in _DATE_READERS if (m := pattern.match(text))), 0)
