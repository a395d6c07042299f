"""The few units that answers to mathematical questions carry, and how they convert.

A unit is a dimension and a factor to the dimension's base. Only what school mathematics uses; an unknown
single word after a number ("18 bolts") is kept as a dimension of its own by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Unit:
    """``dimension`` such as ``length``, ``length^2``, ``length/time``; ``factor`` to the dimension's base unit."""

    dimension: str
    factor: Fraction = Fraction(1)


_TABLE: Mapping[str, Mapping[str, str | int]] = {
    "length": {
        "m meter meters metre metres": 1,
        "cm centimeter centimeters centimetre centimetres": "1/100",
        "mm millimeter millimeters millimetre millimetres": "1/1000",
        "km kilometer kilometers kilometre kilometres": 1000,
        "in inch inches": "127/5000",
        "ft foot feet": "381/1250",
        "yd yard yards": "1143/1250",
        "mi mile miles": "201168/125",
    },
    "time": {
        "s sec secs second seconds": 1,
        "min mins minute minutes": 60,
        "h hr hrs hour hours": 3600,
        "day days": 86400,
        "week weeks": 604800,
    },
    # Months and years have no fixed number of days, so they stand apart.
    "months": {"month months": 1, "yr yrs year years": 12},
    "mass": {
        "g gram grams": 1,
        "mg milligram milligrams": "1/1000",
        "kg kilogram kilograms": 1000,
        "lb lbs pound pounds": "45359237/100000",
        "oz ounce ounces": "45359237/1600000",
    },
    "volume": {
        "l liter liters litre litres": 1,
        "ml milliliter milliliters millilitre millilitres": "1/1000",
        "gal gallon gallons": "473176473/125000000",
        "cup cups": "473176473/2000000000",
    },
    "dollar": {"$ dollar dollars usd": 1, "cent cents ¢": "1/100"},
    "euro": {"€ euro euros eur": 1},
    "sterling": {"£ gbp": 1},
    "yen": {"¥ yen": 1},
    "angle": {"degree degrees deg": 1},
    "radian": {"rad radian radians": 1},
    "unit": {"unit units": 1},
    "temperature-c": {"°c celsius": 1},
    "temperature-f": {"°f fahrenheit": 1},
}
UNITS: Mapping[str, Unit] = {
    name: Unit(dimension, Fraction(factor))
    for dimension, rows in _TABLE.items()
    for names, factor in rows.items()
    for name in names.split()
}
_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
#: Number words that scale, singular and plural: "5 million" and "5 dozens" are not five of a unit.
SCALES: Mapping[str, int] = _SCALES | {f"{word}s": value for word, value in _SCALES.items()}
#: "3 tenths" is a fraction, and no three things. (Seconds are a unit.)
_ORDINALS = (
    "third quarter fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth twentieth thirtieth hundredth thousandth millionth billionth trillionth"
)
FRACTIONS = frozenset(f"{word}{s}" for word in _ORDINALS.split() for s in ("", "s")) | {"half", "halves"}
#: Words that are mathematics or logic, never the name of a thing counted.
_NOT_THINGS = (
    "pi sqrt sin cos tan sec csc cot log ln exp mod and or plus minus times over divided squared cubed factorial "
    "choose infty infinity not than less more about percent approximately "
    "in to from if when for is are equals degrees but either maybe perhaps possibly where while unless otherwise else"
)
_MATHS = FRACTIONS.union(_NOT_THINGS.split())
_SHORT = {"mph": "miles/hour", "kph": "km/h", "kmh": "km/h"}
_POWER = re.compile(r"^(?P<word>[^\s^/]+)\s*\^\s*\{?\s*(?P<power>[23])\s*\}?$")


def _simple(text: str) -> Unit | None:
    power = 1
    match = _POWER.match(text)
    if match:
        text, power = match["word"], int(match["power"])
    else:
        for prefix, value in (("square ", 2), ("sq ", 2), ("sq. ", 2), ("cubic ", 3)):
            if text.startswith(prefix):
                text, power = text[len(prefix) :].strip(), value
    unit = UNITS.get(text.rstrip(".") if len(text) > 1 else text)
    if unit is None:
        return None
    return unit if power == 1 else Unit(f"{unit.dimension}^{power}", unit.factor**power)


def parse_unit(text: str) -> Unit | None:
    """The unit that ``text`` (what follows a number) names; None when it is none.

    >>> parse_unit("cm^2")
    Unit(dimension='length^2', factor=Fraction(1, 10000))
    >>> parse_unit("bolts").dimension, parse_unit("or 6")
    ('thing:bolt', None)
    """
    text = " ".join(text.lower().split())
    text = _SHORT.get(text, text)
    unit = _simple(text)
    if unit is not None:
        return unit
    over, slash, under = text.replace(" per ", "/").partition("/")
    if slash:
        top, bottom = _simple(over.strip()), _simple(under.strip())
        if top is None or bottom is None:
            return None
        return Unit(f"{top.dimension}/{bottom.dimension}", top.factor / bottom.factor)
    if re.fullmatch(r"[a-z]{3,30}", text) and text not in _MATHS and text not in SCALES:
        return Unit(f"thing:{text.removesuffix('s')}")
    return None
