"""Families from reasoning-gym (extra ``tasks``), with our seeding, our splits and a guarded scorer.

Three things are not taken over, for reasons that were measured:

* its seeding: ``Random(seed + idx)`` makes neighbouring seeds share all items but one. Here every
  (seed, split, index) gets one fresh 63-bit integer from ``SeedSequence`` and the single item it gives;
* its partial scores: several scorers pay a wrong or empty answer 0.01 to 0.5. Only its 1 counts as right, and where
  they give 1 to the right answer with more behind it, or to ``nan``, the answer is read here (:data:`_READ`);
* its whole list: of its 105 data sets some draw from the global ``random`` or NumPy generator, set the
  decimal context, read today's date, score the echoed question 1, take a wrong list for right
  (``number_sorting`` allows an error of 1 a number), or ``eval`` the policy's answer on the host
  (``spiral_matrix``). :data:`DATASETS` holds those that were checked; the tests check them again.

An item depends on reasoning-gym's version as well; pin it where scores are compared.
"""

from __future__ import annotations

import copy
import json
import math
import random
import re
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from arpo_env.errors import ConfigError, unknown
from arpo_env.protocol import answer_turn, result_body, tool_turn
from arpo_env.rewards.base import Verdict
from arpo_env.tasks.base import Expert, Task, TaskFamily, task_rng
from arpo_env.tasks.math.partition import draw_in_split

#: Longer answers are refused unread.
MAX_ANSWER_CHARS = 4000

Item = Mapping[str, Any]
#: A Python program from what stands in the question; None: no scripted expert.
Program = Callable[[Item], str]


def _prime_factors(item: Item) -> str:
    return (
        f"n, p, out = {item['number']}, 2, []\nwhile n > 1:\n    if n % p == 0:\n        out.append(str(p))\n"
        '        n //= p\n    else:\n        p += 1\nprint(" × ".join(out))'
    )


def _base_conversion(item: Item) -> str:
    return (
        f"n, out = int({item['source_repr']!r}, {item['source_base']}), ''\nwhile n:\n"
        f"    n, d = divmod(n, {item['target_base']})\n"
        "    out = '0123456789abcdefghijklmnopqrstuvwxyz'[d] + out\nprint(out or '0')"
    )


def _count_primes(item: Item) -> str:
    return (
        f"print(sum(all(n % p for p in range(2, int(n ** 0.5) + 1)) for n in range({max(2, item['start'])}, "
        f"{item['end'] + 1})))"
    )


def _linear_equation(item: Item) -> str:
    left, right = item["equation"].split("=")
    return f"f = lambda {item['variable']}: ({left.strip()}) - ({right.strip()})\nprint(-f(0) // (f(1) - f(0)))"


def _decimals(item: Item) -> str:
    terms = [part if part in "+-" else f"D({part!r})" for part in item["expression"].split()]
    return f"from decimal import Decimal as D\nprint({' '.join(terms)})"


def _fraction(item: Item) -> str:
    return (
        f"from fractions import Fraction\nf = Fraction({item['numerator']}, {item['denominator']})\n"
        'print(f"{f.numerator}/{f.denominator}")'
    )


def _filtered_numbers(item: Item) -> str:
    keeps_larger = item["operation"] in ("keep_larger", "remove_smaller")
    # "keep larger than" drops an equal number, "remove smaller than" keeps it.
    sign = (">" if keeps_larger else "<") + ("" if item["operation"].startswith("keep") else "=")
    return f"print([x for x in {item['original_numbers']!r} if float(x) {sign} {item['filter_value']}])"


def _sorted_words(item: Item) -> str:
    return f"print(', '.join(sorted({item['original_words']!r}, reverse={item['direction'] == 'descending'})))"


def _letters(item: Item) -> str:
    return f"print({' '.join(item['span'])!r}.lower().count({item['target_letter']!r}))"


#: reasoning-gym's name -> the program that solves an item, or None.
DATASETS: Mapping[str, Program | None] = {
    "base_conversion": _base_conversion,
    "basic_arithmetic": lambda item: f"print({item['expression'].replace('/', '//')})",
    "bitwise_arithmetic": lambda item: f"print(hex({item['problem']}))",
    "caesar_cipher": None,
    "chain_sum": lambda item: f"print({item['expression']})",
    "complex_arithmetic": None,
    "count_bits": lambda item: f"print(bin({item['number']}).count('1'))",
    "count_primes": _count_primes,
    "decimal_chain_sum": _decimals,
    "family_relationships": None,
    "fraction_simplification": _fraction,
    "gcd": lambda item: f"import math\nprint(math.gcd({', '.join(map(str, item['numbers']))}))",
    "lcm": lambda item: f"import math\nprint(math.lcm({', '.join(map(str, item['numbers']))}))",
    "letter_counting": _letters,
    "number_filtering": _filtered_numbers,
    "number_sequence": None,
    "prime_factorization": _prime_factors,
    "products": lambda item: f"print({item['expression']})",
    "simple_equations": _linear_equation,
    "simple_geometry": lambda item: (
        f"print(round(({item['n_sides']} - 2) * 180 - ({' + '.join(str(a) for a in item['known_angles'])})))"
    ),
    "spell_backward": lambda item: f"print({item['word']!r}[::-1])",
    "word_sequence_reversal": lambda item: f"print(', '.join({item['words']!r}[::-1]))",
    "word_sorting": _sorted_words,
}

_COMPLEX = re.compile(r"[-+()\d.eij\s]+", re.IGNORECASE)
_FRACTION = re.compile(r"\$?\s*(?:\\d?frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}|\d+\s*/\s*\d+)\s*\$?", re.IGNORECASE)
#: Data sets whose scorers take for right what is not: whether an answer may be right, given the gold. The scorer of
#: complex numbers gives exp(-distance), and ``min(1, nan)`` is 1; the others read the right beginning and stop there.
_READ: Mapping[str, Callable[[str, str], bool]] = {
    "complex_arithmetic": lambda answer, gold: _COMPLEX.fullmatch(answer) is not None,
    "fraction_simplification": lambda answer, gold: _FRACTION.fullmatch(answer.strip()) is not None,
    "spell_backward": lambda answer, gold: answer.strip().casefold() == gold.casefold(),
    "word_sorting": lambda answer, gold: (
        [word.strip() for word in answer.split(",")] == [word.strip() for word in gold.split(",")]
    ),
}


class ReasoningGymFamily(TaskFamily):
    """One reasoning-gym data set as a task family.

    Args:
        dataset: a name of :data:`DATASETS`.
        config: options of that data set (``min_value=…``), as reasoning-gym documents them; not its seed and size.

    Raises:
        ConfigError: an unknown data set, an option it does not take, or reasoning-gym is not installed.
    """

    tools = ("python",)
    answer_format = "boxed"

    def __init__(self, dataset: str = "basic_arithmetic", **config: Any) -> None:
        if dataset not in DATASETS:
            raise unknown("reasoning-gym data set", dataset, DATASETS)
        for name in ("seed", "size"):
            if name in config:
                raise ConfigError(f"{name} is not an option here: seeds come from reset(seed=…), and items never end")
        self.dataset = dataset
        self.name = f"gym-{dataset}"
        if config:  # options are part of a task's identity
            self.name += f"-{zlib.crc32(json.dumps(config, sort_keys=True, default=str).encode()):08x}"
        self._source = _create(dataset, config)
        self._entry = lru_cache(maxsize=1024)(self._make_entry)

    def task(self, seed: int, split: str, index: int) -> Task:
        rng = task_rng(self.name, seed, split, index)

        def draw(rng: np.random.Generator) -> tuple[int, str]:
            item_seed = int(rng.integers(2**63 - 1))
            return item_seed, str(self._make_entry(item_seed)["question"]).strip()

        item_seed, question = draw_in_split(rng, split, draw, lambda drawn: drawn[1])
        meta = {"dataset": self.dataset, "item_seed": item_seed}
        return Task(f"{self.name}/{split}/{seed}/{index}", question, str(self._entry(item_seed)["answer"]), meta)

    def verify(self, task: Task, answer: str) -> Verdict:
        """reasoning-gym's own scorer; anything below its 1 is 0, and what is no finite number."""
        if not answer.strip():
            return Verdict(0.0, "empty answer")
        if len(answer) > MAX_ANSWER_CHARS:
            return Verdict(0.0, f"answer longer than {MAX_ANSWER_CHARS} characters")
        if self.dataset in _READ and not _READ[self.dataset](answer, task.answer):
            return Verdict(0.0, "not the answer, or not it alone")
        try:
            score = float(self._source.score_answer(answer, self._entry(task.meta["item_seed"])))
        except (ValueError, TypeError, ArithmeticError, RecursionError, LookupError) as error:
            # The scorers parse free text; what they choke on is a wrong answer.
            return Verdict(0.0, f"the scorer cannot read it: {type(error).__name__}")
        return Verdict(float(1.0 <= score < math.inf), f"reasoning-gym score {score:g}")

    def expert(self, task: Task) -> Expert:
        """One Python call.

        Raises:
            ConfigError: the data set has no scripted expert; the message lists those that have one.
        """
        # Not a generator function itself, so that the error comes now and not at the first turn.
        program = DATASETS[self.dataset]
        if program is None:
            solved = ", ".join(name for name, known in DATASETS.items() if known is not None)
            raise ConfigError(f"reasoning-gym's {self.dataset!r} has no scripted expert; these have one: {solved}")
        return self._demonstrate(program(self._entry(task.meta["item_seed"])["metadata"]), None)

    def flawed_expert(self, task: Task, rng: np.random.Generator) -> Expert:
        """The expert's call, its result misread."""
        program = DATASETS[self.dataset]
        if program is None:
            return self.expert(task)
        return self._demonstrate(program(self._entry(task.meta["item_seed"])["metadata"]), rng)

    @staticmethod
    def _demonstrate(code: str, rng: np.random.Generator | None) -> Expert:
        observation = yield tool_turn("A short program solves this.", "python", code)
        lines = result_body(observation).strip().splitlines()
        value = lines[-1].strip() if lines else ""
        yield answer_turn("Python gave the result.", value if rng is None else _misread(value, rng))

    def _make_entry(self, item_seed: int) -> dict[str, Any]:
        # A shallow copy with its own seed: word lists are loaded once, and threads do not meet.
        source = copy.copy(self._source)
        source.seed = item_seed
        entry: dict[str, Any] = source[0]
        return entry


def _create(dataset: str, config: Mapping[str, Any]) -> Any:
    # Importing it draws from the global generators (measured); a task family must leave no trace there.
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        import reasoning_gym
    except ImportError as error:
        raise ConfigError("reasoning-gym is not installed: pip install 'arpo[tasks]'") from error
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
    try:
        return reasoning_gym.create_dataset(dataset, seed=0, size=1, **config)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"reasoning-gym's {dataset!r} refuses the options {dict(config)!r}: {error}") from error


def _misread(value: str, rng: np.random.Generator) -> str:
    """``value`` with one letter or digit changed."""
    places = [i for i, char in enumerate(value) if char.isalnum()]
    if not places:
        return f"{value}1"
    at = places[int(rng.integers(len(places)))]
    alphabet = "123456789" if value[at].isdigit() else "abcdefghijklmnopqrstuvwxyz"
    others = [char for char in alphabet if char != value[at].lower()]
    return value[:at] + others[int(rng.integers(len(others)))] + value[at + 1 :]
