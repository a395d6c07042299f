r"""The fast path of the mathematics verifier: number literals, read exactly and compared exactly.

No floating point, no SymPy, no clock: a literal is a rational coefficient times the root of a rational
times a power of π, with an optional percent sign, unit or base. Anything with an operator in it
("5+5", "2 \times 3", "x") is *not* a literal, and :func:`parse_number` says None: so a generated
arithmetic question can use this module alone and never takes the question for its own answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from arpo_env.rewards.latex import clean, flatten
from arpo_env.rewards.units import SCALES, UNITS, Unit, parse_unit

#: Longer digit strings and exponents are not read here (their arithmetic would not be cheap).
MAX_CHARS = 1000
MAX_EXPONENT = 400
#: 50 digits of π: enough for any tolerance below.
_PI = Fraction(31415926535897932384626433832795028841971693993751, 10**49)

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+"
_SIGNED = rf"[+-]?\s*(?:{_DECIMAL})"
_RATIO = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<whole>\d+(?:\s+(?=\d+\s*/)|\s*(?=\\frac)))?"
    rf"(?:\\frac\{{\s*(?P<top>{_SIGNED})\s*\}}\{{\s*(?P<bottom>{_SIGNED})\s*\}}"
    rf"|\(?\s*(?P<top2>{_SIGNED})\s*\)?\s*/\s*\(?\s*(?P<bottom2>{_SIGNED})\s*\)?)"
)
_SCIENTIFIC = re.compile(
    rf"(?P<mantissa>{_SIGNED})\s*(?:[eE]|(?:\\times|\\cdot|\*|x)\s*10\s*\^)\s*\{{?\s*(?P<exponent>[+-]?\d{{1,4}})\s*\}}?"
    rf"|(?P<sign>[+-]?)\s*10\s*\^\s*\{{?\s*(?P<power>[+-]?\d{{1,4}})\s*\}}?"
)
_PLAIN = re.compile(_SIGNED)
_IRRATIONAL = re.compile(r"\\sqrt\s*\{\s*(?P<radicand>[^{}]*)\s*\}|(?P<pi>\\pi|pi(?![a-z]))")
_ASSIGNMENT = re.compile(r"^([a-zA-Z](?:_\{?\w\}?)?|\\(?!pi\b)[a-z]+|[a-zA-Z]\([a-zA-Z]\))\s*(?:=|\\approx)\s*(?=\S)")
_BASE = re.compile(r"^(?P<sign>[+-]?)(?P<digits>[0-9A-Fa-f]+)\s*_\s*\{?\s*(?P<base>\d{1,2})\s*\}?$")
_CURRENCY = re.compile(r"^(?P<sign>[+-]?)\s*(?:\\?(?P<symbol>[$€£¥]))\s*(?P<rest>.+)$", re.DOTALL)
_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {word: value for value, word in enumerate(_TO_TWENTY.split())}
NUMBER_WORDS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_COMPOUND = re.compile(rf"({'|'.join(_TENS.split())})[- ]({'|'.join(_TO_TWENTY.split()[1:10])})")


@dataclass(frozen=True, slots=True)
class Number:
    """``coefficient · √radicand · π^pi``, as written.

    ``places`` are the digits after the decimal point (None: not written as a decimal), ``digits`` the
    significant ones, and ``scale`` what the number was multiplied by since (a percentage read as a part of 1, a unit
    converted), so that its last place counts ``scale / 10**places``. ``base`` and ``literal`` only for numbers
    written with a base ("52_8"); ``name`` is what stood before an equals sign ("x" of "x = 5").
    """

    coefficient: Fraction
    radicand: Fraction = Fraction(1)
    pi: int = 0
    places: int | None = None
    digits: int = 0
    scale: Fraction = Fraction(1)
    percent: bool = False
    unit: Unit | None = None
    base: int | None = None
    literal: str = ""
    name: str = ""

    @property
    def rational(self) -> bool:
        return self.radicand == 1 and self.pi == 0

    def times(self, factor: Fraction) -> Number:
        """The number in another unit: its value and its last place scaled alike."""
        return replace(self, coefficient=self.coefficient * factor, scale=self.scale * factor)

    def step(self) -> Fraction:
        """What one in the last decimal place counts; for numbers written with ``places`` only."""
        return self.scale * Fraction(1, 10 ** (self.places or 0))

    def approximate(self) -> Fraction:
        """The value to about 40 significant digits (exact when rational)."""
        if self.radicand == 1:
            root = Fraction(1)
        else:
            scaled = self.radicand.numerator * self.radicand.denominator * 10**80
            root = Fraction(math.isqrt(scaled), self.radicand.denominator * 10**40)
        return self.coefficient * root * _PI**self.pi


def _plain(text: str) -> Number | None:
    text = text.strip()
    if not _PLAIN.fullmatch(text):
        return None
    bare = re.sub(r"[,\s]", "", text)
    whole, point, fraction = bare.lstrip("+-").partition(".")
    places = len(fraction) if point else None
    return Number(Fraction(bare), places=places, digits=len((whole + fraction).lstrip("0")))


def _ratio(text: str) -> Number | None:
    match = _RATIO.fullmatch(text)
    if match is None:
        return None
    top = _plain(match["top"] or match["top2"])
    bottom = _plain(match["bottom"] or match["bottom2"])
    if top is None or bottom is None or bottom.coefficient == 0:
        return None
    value = top.coefficient / bottom.coefficient
    if match["whole"]:
        if value < 0:
            return None
        value += int(match["whole"])
    return Number(-value if match["sign"] == "-" else value)


def _scientific(text: str) -> Number | None:
    match = _SCIENTIFIC.fullmatch(text)
    if match is None:
        return None
    exponent = int(match["exponent"] or match["power"])
    if abs(exponent) > MAX_EXPONENT:
        return None
    mantissa = _plain(match["mantissa"]) if match["mantissa"] else Number(Fraction(-1 if match["sign"] == "-" else 1))
    if mantissa is None:
        return None
    places = None if mantissa.places is None else max(0, mantissa.places - exponent)
    return replace(mantissa, coefficient=mantissa.coefficient * Fraction(10) ** exponent, places=places)


def _irrational(text: str) -> Number | None:
    r"""``c\sqrt{n}``, ``c\pi``, ``\frac{c\sqrt{n}}{d}``, ``c\sqrt{n}/d``; one root and one π at most."""
    divisor = Fraction(1)
    sign = 1
    frac = re.fullmatch(r"([+-]?)\s*\\frac\{(.*\\(?:sqrt|pi).*)\}\{\s*(\d+)\s*\}", text)
    if frac:
        sign, text, divisor = (-1 if frac[1] == "-" else 1), frac[2].strip(), Fraction(int(frac[3]))
    else:
        slash = re.fullmatch(r"(.*)/\s*(\d+)", text)
        if slash:
            text, divisor = slash[1].strip(), Fraction(int(slash[2]))
    found = list(_IRRATIONAL.finditer(text))
    if not found or len(found) > 2 or divisor == 0:
        return None
    radicand, pi = Fraction(1), 0
    for match in found:
        if match["pi"]:
            pi += 1
        else:
            inner = parse_rational(match["radicand"])
            if inner is None or inner < 0 or radicand != 1:
                return None
            radicand = inner
    if pi > 1 or "".join(text[found[0].start() :].split()) != "".join("".join(m[0].split()) for m in found):
        return None
    head = text[: found[0].start()].strip().removesuffix(r"\cdot").removesuffix("*").strip()
    coefficient = Fraction({"": 1, "+": 1, "-": -1}[head]) if head in ("", "+", "-") else parse_rational(head)
    if coefficient is None:
        return None
    return Number(sign * coefficient / divisor, radicand, pi)


def parse_rational(text: str) -> Fraction | None:
    """An integer, decimal or fraction literal; None for anything else."""
    text = text.strip()
    number = _plain(text) or _ratio(text)
    return None if number is None else number.coefficient


def _bare(text: str) -> Number | None:
    """A literal without percent sign, unit or base."""
    text = text.strip()
    while len(text) > 2 and text[0] == "(" and text[-1] == ")" and "(" not in text[1:] and "," not in text:
        text = text[1:-1].strip()
    if re.fullmatch(r"\{[^{}]*\}", text):
        text = text[1:-1].strip()
    if not text:
        return None
    if text.lower() in NUMBER_WORDS:
        return Number(Fraction(NUMBER_WORDS[text.lower()]))
    compound = _COMPOUND.fullmatch(text.lower())
    if compound:
        return Number(Fraction(NUMBER_WORDS[compound[1]] + NUMBER_WORDS[compound[2]]))
    return _plain(text) or _ratio(text) or _scientific(text) or _irrational(text)


def _measured(text: str) -> Number | None:
    """A literal followed by a unit, a percent sign or a scale ("5 million dollars")."""
    degrees = text.removesuffix(r"^\circ")
    if degrees != text:
        number = _bare(degrees)
        return None if number is None else replace(number, unit=UNITS["degree"])
    percent = re.fullmatch(r"(.*?)\s*(?:%|percent)", text, re.DOTALL)
    if percent:
        number = _bare(percent[1])
        return None if number is None else replace(number, percent=True)
    split = re.match(r"^(.*?[\d.})%]|[a-z]+|.*\\pi)(\s*)([a-zA-Z€£¥$¢][\w\s./^{}\-]*)$", text, re.DOTALL)
    if split is None:
        return None
    head, blank, tail = split[1], split[2], split[3].strip()
    if not blank and len(tail) == 1 and tail.isalpha():
        return None  # "5m" is as likely five times m
    number = _bare(head)
    if number is None:
        return None
    first, _, rest = tail.partition(" ")
    if first.lower() in SCALES:
        scaled = Number(number.coefficient * SCALES[first.lower()], number.radicand, number.pi)
        if not rest:
            return scaled
        unit = parse_unit(rest)
        return None if unit is None else replace(scaled, unit=unit)
    unit = None if tail.lower() in NUMBER_WORDS else parse_unit(tail)  # "5 six" is no five of a thing
    return None if unit is None else replace(number, unit=unit)


def parse_number(text: str) -> Number | None:
    r"""The number literal that ``text`` is, or None. Bounded work for any text.

    >>> parse_number(r"\frac{3}{4}").coefficient, parse_number("1,250.50").places, parse_number("2+3")
    (Fraction(3, 4), 2, None)
    """
    if len(text) > MAX_CHARS:
        return None
    text = flatten(clean(text)).replace(r"\$", "$")
    assigned = _ASSIGNMENT.match(text)
    if assigned:
        number = _literal(text[assigned.end() :])
        return None if number is None else replace(number, name=assigned[1])
    return _literal(text)


def _literal(text: str) -> Number | None:
    """A literal with its percent sign, unit, currency or base."""
    based = _BASE.match(text)
    if based:
        base = int(based["base"])
        try:
            value = int(based["digits"], base) if 2 <= base <= 16 else None
        except ValueError:
            return None
        if value is None:
            return None
        literal = based["sign"].replace("+", "") + (based["digits"].lstrip("0").lower() or "0")
        return Number(Fraction(-value if based["sign"] == "-" else value), base=base, literal=literal)
    money = _CURRENCY.match(text)
    if money:
        number = _bare(money["rest"])
        if number is None:
            inner = _measured(money["rest"])
            # "$5 million" and "$5 dollars", not "$5 cm".
            if inner is None or (inner.unit is not None and inner.unit != UNITS[money["symbol"]]):
                return None
            number = inner
        sign = -1 if money["sign"] == "-" else 1
        return replace(number, coefficient=sign * number.coefficient, unit=UNITS[money["symbol"]])
    return _bare(text) or _measured(text)


def _same_value(a: Number, b: Number) -> bool:
    if a.rational and b.rational:
        return a.coefficient == b.coefficient
    if a.pi != b.pi and a.coefficient and b.coefficient and a.radicand and b.radicand:
        return False
    if (a.coefficient > 0) - (a.coefficient < 0) != (b.coefficient > 0) - (b.coefficient < 0):
        return a.coefficient * a.radicand == b.coefficient * b.radicand == 0
    return a.coefficient**2 * a.radicand == b.coefficient**2 * b.radicand


def _close(answer: Number, gold: Number) -> bool:
    """Whether a decimal answer or gold agrees to the precision it is written with. See ``docs/rewards.md``."""
    error = abs(answer.approximate() - gold.approximate())
    size = abs(gold.approximate())
    # A gold such as 51.32 stands for what rounds to it, if it says at least three digits.
    if gold.places and gold.digits >= 3 and error <= gold.step() / 2:
        return True
    if not answer.places:
        return False
    # An exact gold that is no integer (1/3, \sqrt{2}) is met by a decimal of six digits or more.
    exact = gold.places is None and not (gold.rational and gold.coefficient.denominator == 1)
    if exact and answer.digits >= 6 and error < max(answer.step(), size / 10**9):
        return True
    # Binary floating point leaves noise in the last digits of 16: 0.30000000000000004.
    return answer.digits >= 12 and error <= min(Fraction(1, 10**6), max(size, Fraction(1)) / 10**12)


def _rounds(value: Number, rounded: Number) -> bool:
    """Whether ``rounded`` is ``value`` to as many decimal places as it is written with; a tie may go either way."""
    return abs(value.approximate() - rounded.approximate()) <= rounded.step() / 2


def rounds_to(value: Number, rounded: Number) -> bool:
    """Whether ``value`` rounds to the decimal ``rounded``; percent and units as in :func:`numbers_equal`."""
    return _agree(value, rounded, _rounds)[0]


def numbers_equal(answer: Number, gold: Number, *, exact: bool = False) -> tuple[bool, str]:
    """Whether two literals mean the same answer, and why.

    A unit or degree sign on one side only is dropped; on both sides it must agree (and converts).
    ``p%`` equals ``p`` and ``p/100``. ``exact=True`` allows no rounding at all.
    """
    return _agree(answer, gold, lambda a, b: _same_value(a, b) or (not exact and _close(a, b)))


def _agree(answer: Number, gold: Number, same: Callable[[Number, Number], bool]) -> tuple[bool, str]:
    """Whether two literals are the ``same`` once their names, bases, units and percent signs allow it, and why."""
    if answer.name and gold.name and answer.name != gold.name:
        return False, f"names differ: {answer.name} and {gold.name}"
    if gold.base is not None and answer.base is None:
        # "Write 42 in base eight": 52 is meant as 52_8, and 42 does not answer.
        plain = answer.rational and str(answer.coefficient) == gold.literal
        return plain, f"digits in base {gold.base}"
    if gold.base is not None and answer.base is not None:
        return answer.base == gold.base and answer.literal == gold.literal, "digits and base"

    a_unit, g_unit = answer.unit, gold.unit
    if a_unit is not None and g_unit is not None:
        if a_unit.dimension != g_unit.dimension:
            return False, f"units differ: {a_unit.dimension} and {g_unit.dimension}"
        if a_unit.factor != g_unit.factor:
            answer = answer.times(a_unit.factor / g_unit.factor)
        return same(answer, gold), "value after conversion"
    # Degrees against radians: 90° is π/2, and 90 as well (the sign dropped).
    for one, other in ((answer, gold), (gold, answer)):
        if one.unit == UNITS["degree"] and other.unit is None and other.pi == 1:
            turned = Number(one.coefficient / 180, one.radicand, one.pi + 1)
            return (same(turned, other) if one is answer else same(other, turned)), "degrees as radians"
    if answer.percent != gold.percent:
        # "What percent …?" is answered by 50, 50% and 0.5 alike.
        part = Fraction(1, 100)
        parts = (answer.times(part) if answer.percent else answer, gold.times(part) if gold.percent else gold)
        return same(answer, gold) or same(*parts), "percent"
    return same(answer, gold), "value"
