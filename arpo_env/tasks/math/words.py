"""Word problems over the same expressions: a text template and the tree it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from arpo_env.tasks.math.expression import Expression, Op

Problem = tuple[str, Expression]
_Numbers = Callable[[int, int], int]

_PEOPLE = (
    "Ada",
    "Bo",
    "Chen",
    "Dina",
    "Emil",
    "Fatou",
    "Goran",
    "Hana",
    "Ines",
    "Jomo",
    "Kira",
    "Luis",
    "Mila",
    "Noor",
)
_THINGS = ("pens", "stamps", "apples", "bolts", "cards", "shells", "tickets", "candles", "coins", "seeds", "marbles")


def _boxes(n: _Numbers, who: str, thing: str) -> Problem:
    a, b = n(12, 99), n(12, 99)
    c = n(2, a * b - 1)
    text = f"{who} has {a} boxes with {b} {thing} each and sells {c} {thing}. How many {thing} are left?"
    return text, Op("-", Op("*", a, b), c)


def _shopping(n: _Numbers, who: str, thing: str) -> Problem:
    a, b, c, d = n(3, 60), n(11, 99), n(3, 60), n(11, 99)
    text = (
        f"{who} buys {a} books at {b} dollars each and {c} bags of {thing} at {d} dollars each. "
        "How many dollars does that cost?"
    )
    return text, Op("+", Op("*", a, b), Op("*", c, d))


def _journey(n: _Numbers, who: str, thing: str) -> Problem:
    a, b, c, d = n(31, 130), n(2, 12), n(31, 130), n(2, 12)
    text = (
        f"{who} drives {thing} to market, {b} hours at {a} km an hour and then {d} hours at {c} km an hour. "
        "How many kilometres is that?"
    )
    return text, Op("+", Op("*", b, a), Op("*", d, c))


def _classes(n: _Numbers, who: str, thing: str) -> Problem:
    a, b, c = n(12, 99), n(12, 199), n(12, 199)
    text = f"In each of {a} rooms {who} puts {b} red and {c} blue {thing}. How many {thing} is that in all?"
    return text, Op("*", a, Op("+", b, c))


def _garden(n: _Numbers, who: str, thing: str) -> Problem:
    a, b, c, d = n(40, 199), n(40, 199), n(3, 39), n(3, 39)
    text = (
        f"{who} has a field of {a} by {b} metres with a pond of {c} by {d} metres in it and sells {thing}. "
        "How many square metres of land are there?"
    )
    return text, Op("-", Op("*", a, b), Op("*", c, d))


def _tank(n: _Numbers, who: str, thing: str) -> Problem:
    a, c, d = n(100, 999), n(3, 40), n(11, 90)
    b = c + n(2, 40)
    text = (
        f"{who} has {a} {thing}, gets {b} more every day and gives away {c} every day. "
        f"How many {thing} are there after {d} days?"
    )
    return text, Op("+", a, Op("*", Op("-", b, c), d))


def _layers(n: _Numbers, who: str, thing: str) -> Problem:
    a, b, c, d = n(11, 60), n(3, 20), n(11, 60), n(11, 300)
    text = (
        f"{who} packs {a} boxes, each with {b} layers of {c} {thing}, and then loses {d} {thing}. "
        f"How many {thing} are left?"
    )
    return text, Op("-", Op("*", Op("*", a, b), c), d)


def _shares(n: _Numbers, who: str, thing: str) -> Problem:
    a, b, d = n(12, 60), n(12, 60), n(7, 45)
    c = n(2, a * b // 2)
    text = (
        f"{who} has {a} bags of {b} kg of {thing}, gives away {c} kg and shares the rest equally among {d} people. "
        "How many kg does each get?"
    )
    return text, Op("/", Op("-", Op("*", a, b), c), d)


def _average(n: _Numbers, who: str, thing: str) -> Problem:
    a, b, c, d = n(11, 999), n(11, 999), n(11, 999), n(11, 999)
    text = f"On four days {who} sold {a}, {b}, {c} and {d} {thing}. How many is that a day on average?"
    return text, Op("/", Op("+", Op("+", Op("+", a, b), c), d), 4)


_Template = Callable[[_Numbers, str, str], Problem]
#: Level -> its templates; level 5 has none (its expressions hold powers).
TEMPLATES: Mapping[int, tuple[_Template, ...]] = {
    1: (_boxes,),
    2: (_shopping, _journey, _classes, _garden),
    3: (_tank, _layers),
    4: (_shares, _average),
}


def random_problem(rng: np.random.Generator, level: int) -> Problem:
    """A word problem of ``level`` (a key of :data:`TEMPLATES`) and its expression."""
    templates = TEMPLATES[level]
    template = templates[int(rng.integers(len(templates)))]
    who, thing = _PEOPLE[int(rng.integers(len(_PEOPLE)))], _THINGS[int(rng.integers(len(_THINGS)))]
    return template(lambda low, high: int(rng.integers(low, high + 1)), who, thing)
