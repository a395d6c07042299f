"""Invented names, disjoint between splits by construction.

A name is built from parts of fixed length (``Bal`` + ``or`` + ``wick``), so it is a number written in a mixed
base, and two different numbers never give one name. A split uses only the numbers with its own remainder
modulo three: whatever the world seed, no name of a training world can stand in a test world, while every
part stands in all of them (the counts of endings and middles are no multiples of three).

The parts were chosen so that SmolLM2's tokenizer spends about two tokens on a word: small models copy such
names reliably, and results stay short. A coincidence with a real name gives nothing away, since every fact
about it is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Number of splits, the modulus of the name classes (``arpo_env.tasks.base.SPLITS``).
CLASSES = 3


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


STEMS = _words(
    """
    Bal Bas Bav Bel Ber Bes Bir Bol Bom Bor Bos Bur Cal Cam Cas Cav Cel Cer Cob Col Cor Cos Cov Cul Dag Dal Dar
    Dav Del Dem Dor Dos Dul Dun Dur Fal Fan Fel Fen Fer Fol Fon Gal Gam Gar Gav Gel Ger Gol Gom Gor Gul Hab Hal Har
    Hav Hel Her Hil Hob Hol Hom Hor Hub Hud Jag Jal Jar Jem Jon Kad Kal Kar Kas Kel Ker Kil Kim Kir Kol Kor Kos Kub
    Kul Lad Lan Lar Lav Lem Lev Lim Lin Lor Lub Lud Luk Mag Mal Mar Mas Mel Mer Mik Mil Mod Mol Mor Mos Mul Nab Nad
    Nar Nav Ner Nik Nor Nov Pal Par Pel Per Pol Por Rad Ram Ras Rav Rel Ren Rod Rol Ros Rud Rum Sal Sar Sav Sel Ser
    Sil Sol Sor Tal Tam Tar Tel Tol Tor Tul Tur Val Var Ved Vel Ver Vik Vol Wal Wes Wil Zak Zel Zur"""
)
MIDDLES = _words("an or im en ar is on al er in")

GIVEN_NAMES = _words(
    """
    Anna Adam Alan Alice Amy Andrew Anne Arthur Ben Betty Brian Bruce Carl Carol Charles Chris Clara Daniel David
    Diana Donald Edith Edward Emily Emma Eric Eva Frank Fred Gary George Grace Greg Hannah Harold Harry Helen Henry
    Howard Hugh Ian Ivan Jack James Jane Jean Jenny Jim Joan John Joseph Joyce Julia Karen Karl Kate Keith Laura Leo
    Leon Linda Lisa Louis Lucy Maria Mark Martin Mary Max Maya Michael Nancy Nina Oliver Oscar Otto Paul Peter Philip
    Ralph Ray Robert Roger Rosa Ruth Sam Sara Sarah Simon Sofia Stephen Susan Thomas Tom Vera Victor Walter
    William"""
)

_ADJECTIVES = _words(
    """
    Silent Golden Broken Hidden Distant Frozen Burning Empty Ancient Crimson Silver Narrow Gentle Bitter Hollow
    Wild Lonely Bright Secret Endless Quiet Sacred Velvet Fallen Northern Southern Stolen Painted Wooden Shining
    Forgotten Last Blue Green White Black Dark Heavy Early Late Winter Summer"""
)
_BOOK_NOUNS = _words(
    """
    Harbor Garden Mirror Bridge Tower Window Forest Island Valley Orchard Mountain Ladder Library Kingdom Letter
    Compass Meadow Desert Village Castle"""
)
_FILM_NOUNS = _words(
    """
    Train Shadow Signal Storm Highway Circus Hunter Dancer Stranger Echo Planet Promise Witness Carnival Pilot
    Empire"""
)


@dataclass(frozen=True)
class NameSpace:
    """All names of one kind: ``stem`` + middles + ``ending``, set into one of ``forms``.

    ``level`` 0 has no middle part; each level adds one, so that a space never runs out. ``forms`` are
    ``str.format`` patterns; entity names use the first ``base_forms`` of them and a near-duplicate of an entity
    has the same number under another form (same surname, other given name; ``New`` before a city).
    """

    stems: tuple[str, ...]
    middles: tuple[str, ...]
    endings: tuple[str, ...]
    forms: tuple[str, ...] = ("{}",)
    base_forms: int = 1
    separator: str = ""

    def __post_init__(self) -> None:
        if len(self.middles) % CLASSES == 0 or len(self.endings) % CLASSES == 0:
            raise ValueError("the counts of middles and endings must not be multiples of 3 (see the module docstring)")

    def capacity(self, level: int) -> int:
        """How many names every class has at least on ``level``."""
        total: int = len(self.stems) * len(self.middles) ** level * len(self.endings)
        return total // CLASSES

    def level(self, count: int) -> int:
        """The lowest level with ``count`` names a class."""
        level = 0
        while self.capacity(level) < count:
            level += 1
        return level

    def draw(self, rng: np.random.Generator, count: int, name_class: int) -> NDArray[np.int64]:
        """``count`` different numbers of class ``name_class``, for :meth:`name` on ``level(count)``."""
        picks = rng.choice(self.capacity(self.level(count)), size=count, replace=False)
        return picks.astype(np.int64) * CLASSES + name_class

    def name(self, level: int, number: int, form: int = 0) -> str:
        """The name with ``number``; different (number, form) never share a name on one level."""
        number, ending = divmod(number, len(self.endings))
        parts = [self.endings[ending]]
        for _ in range(level):
            number, middle = divmod(number, len(self.middles))
            parts.append(self.middles[middle])
        parts.append(self.stems[number])
        return self.forms[form].format(self.separator.join(reversed(parts)))


def _invented(endings: str, forms: tuple[str, ...] = ("{}",), base_forms: int = 1) -> NameSpace:
    return NameSpace(STEMS, MIDDLES, _words(endings), forms, base_forms)


#: One space for each kind of page, with endings no other kind has; ``alias`` serves all kinds.
SPACES: dict[str, NameSpace] = {
    "person": _invented(
        "ov ard win ini ers ane orn berg stein ick ach ley mann",
        tuple(f"{given} {{}}" for given in GIVEN_NAMES),
        len(GIVEN_NAMES),
    ),
    "city": _invented("ford port stad holm wick by haven burg stead ton ville", ("{}", "New {}", "East {}")),
    "company": _invented("co tech soft line ware plex lab works gen star", ("{}", "{} Group", "{} Foods")),
    "book": NameSpace(
        _ADJECTIVES, _BOOK_NOUNS, _BOOK_NOUNS, ("The {}", "Beyond the {}", "The {} Returns"), separator=" "
    ),
    "film": NameSpace(_ADJECTIVES, _FILM_NOUNS, _FILM_NOUNS, ("{}", "{} Two", "Return of the {}"), separator=" "),
    "university": _invented("an or im is us ax on", ("{} University", "{} College")),
    "river": _invented("ova ira une ula ava ano aro", ("{} River", "Little {} River")),
    "award": _invented("ius ium ory ant ent", ("{} Prize", "{} Medal")),
    "other": _invented("ap up oo ot", ("{} Festival", "{} Club", "{} Street", "{} Museum"), 4),
    "alias": _invented("ito ika ix ok ie"),
}
