r"""Mathematical equality of a final answer and the gold, as a verdict.

Two ways, in this order, because nearly all answers are plain numbers and a symbolic comparison costs a
thousand times more:

* the fast path, pure and exact: number literals (``literals.py``), equal strings after cleaning
  (``latex.py``), and words ("Evelyn");
* Math-Verify for the rest (expressions, tuples, sets, intervals, matrices, equations), in a killable
  worker with a bound on CPU time (``math_verify_pool.py``). Running into the bound scores 0, and says so.

The rules (units, percent, rounding, degrees …) are listed with examples in ``docs/rewards.md``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from arpo_env.errors import ConfigError
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.inequalities import as_interval, is_interval
from arpo_env.rewards.joined import TEXT_NUMBER, is_list, joins, split_sides, without_range
from arpo_env.rewards.latex import balanced, clean, flatten
from arpo_env.rewards.literals import Number, numbers_equal, parse_number, rounds_to
from arpo_env.rewards.math_verify_pool import MathVerifyPool
from arpo_env.rewards.qa import tokens

#: An answer longer than this and than four times the gold is refused unread.
MAX_CHARS = 1500
#: Deeper nesting is no final answer, and Math-Verify's parser is exponential in it.
MAX_DEPTH = 40
#: More words (of three letters or more, LaTeX commands apart) than this are prose, and slow to parse as mathematics.
MAX_WORDS = 8

#: A power of powers with more digits than this is refused unread.
MAX_POWER_DIGITS = 10**6

_pool = MathVerifyPool()
_WORDS = re.compile(r"[^\W\d_][^\W\d_'’. -]*(?:[ '’.-]+[^\W\d_]+)*\.?")
_NAME = re.compile(r"[a-zA-Z](?:_\{?\w\}?)?|[a-zA-Z]\([a-zA-Z]\)")
#: A name with a digit in it: a_{10}, P_1P_2, f(2), f'(2), C(5,1), \tan 30^\circ.
_LABEL = re.compile(
    r"(?=.*[_(])(?:[a-zA-Z]'*(?:_(?:\d+|[a-zA-Z]|\{[\w+-]+\}))?)+(?:\([^()]*\))?"
    r"|\\(?:sin|cos|tan|cot|sec|csc)\s*\(?\d+\^\\circ\s*\)?"
)
_PROSE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_TOWER = re.compile(r"\d+(?:\^\d+){2,}")
_NAMED = re.compile(r"\s*([a-zA-Z](?:_\{?\w\}?)?)\s*=")
_NOTHING = frozenset(("emptyset", "varnothing", "{}", "empty set", "no solution", "no solutions", "none"))
_REASONS = {
    "equal": "equal by Math-Verify",
    "different": "different by Math-Verify",
    "unreadable": "Math-Verify cannot read it",
    "time": "comparison stopped at its CPU-time bound",
    "memory": "comparison stopped at its memory bound",
    "crash": "comparison crashed its worker",
}


def number_equal(answer: str, gold: str, *, exact: bool = True) -> Verdict:
    """Equality of number literals only: pure, fast, and without the extra ``tasks``.

    What is not a literal (an expression such as "2+3") scores 0, so that a question never answers itself.

    Raises:
        ConfigError: the gold is not a number literal.
    """
    want = parse_number(gold)
    if want is None:
        raise ConfigError(f"gold {gold[:60]!r} is not a number literal; use math_equal for expressions")
    got = parse_number(answer)
    if got is None:
        return Verdict(0.0, f"{answer[:60]!r} is not a number")
    same, reason = numbers_equal(got, want, exact=exact)
    return Verdict(float(same), reason)


def math_equal(answer: str, gold: str) -> Verdict:
    r"""1 when ``answer`` equals ``gold`` as mathematics, else 0; ``reason`` says how it was decided.

    >>> math_equal("0.5", r"\frac{1}{2}").score, math_equal("5", "-5").score, math_equal("15", "1.5").score
    (1.0, 0.0, 0.0)

    Raises:
        ConfigError: the gold is blank.
        ToolUnavailable: the fast path cannot decide and Math-Verify is not installed.
        InfraError: the worker process cannot be kept alive, for reasons that are not this input's.
    """
    if not gold.strip():
        raise ConfigError("the gold answer is blank; nothing can equal it")
    if not answer.strip():
        return Verdict(0.0, "empty answer")
    if len(answer) > max(MAX_CHARS, 4 * len(gold)):
        return Verdict(0.0, f"answer of {len(answer)} characters is too long for a gold of {len(gold)}")
    return _math_equal(answer, gold)


def math_equal_any(answer: str, golds: Sequence[str]) -> Verdict:
    """The first 1 over several accepted golds, else the last verdict.

    Raises:
        ConfigError: no golds, or a bare string in their place.
    """
    if isinstance(golds, str) or not golds:
        raise ConfigError(f"golds must be a non-empty sequence of answers, got {golds!r}")
    verdict = Verdict(0.0)
    for gold in golds:
        verdict = math_equal(answer, gold)
        if verdict.score == 1.0:
            break
    return verdict


# All rollouts of one question tend to give the same few answers; the verdict is a pure function of the two.
@lru_cache(maxsize=8192)
def _math_equal(answer: str, gold: str) -> Verdict:
    got, want = parse_number(answer), parse_number(gold)
    if got is not None and want is not None:
        same, reason = numbers_equal(got, want)
        return Verdict(float(same), reason)
    answer_latex, gold_latex = clean(answer), clean(gold)
    answer_flat, gold_flat = flatten(answer_latex), flatten(gold_latex)
    if not answer_flat:
        return Verdict(0.0, "empty answer")
    if "".join(answer_flat.split()) == "".join(gold_flat.split()):
        return Verdict(1.0, "same text")
    decided = _words(answer_flat, gold_flat, got, want)
    if decided is not None:
        return decided
    if not balanced(answer_latex):
        return Verdict(0.0, "unbalanced braces")
    if len(_PROSE.findall(answer_latex)) > MAX_WORDS >= len(_PROSE.findall(gold_latex)):
        return Verdict(0.0, "prose, not a final answer")
    if "boxed" in answer_latex:
        return Verdict(0.0, "more than one final answer")
    if TEXT_NUMBER.search(answer_latex) and not TEXT_NUMBER.search(gold_latex):
        return Verdict(0.0, "numbers inside prose")
    if _depth(answer_latex) > MAX_DEPTH:
        return Verdict(0.0, f"brackets nested deeper than {MAX_DEPTH}")
    if _too_high(answer_latex):
        return Verdict(0.0, "a tower of powers too high to compute")
    for one, other in ((answer_latex, gold_latex), (gold_latex, answer_latex)):
        if is_interval(other) and (meant := as_interval(one)) is not None:
            answer_latex, gold_latex = (meant, other) if one is answer_latex else (other, meant)
            break
    if "=" not in gold_latex:
        answer_latex = _values_of_one_name(answer_latex)
    if without_range(gold_latex) == gold_latex:
        answer_latex = without_range(answer_latex)
    allowed = joins(gold_latex) | ({"list"} if want is None and is_list(gold_latex) else set())
    if joins(answer_latex) - allowed:
        return Verdict(0.0, "more than one answer, or one under conditions")
    decided = _chain(answer_latex, gold)
    if decided is not None:
        return decided
    rounding = Fraction(0)
    if want is not None and want.places and want.digits >= 3 and not want.percent and want.unit is None:
        rounding = want.step() / 2  # a gold such as 2.41 stands for what rounds to it, as among literals
    outcome = _pool.compare(_for_math_verify(gold_latex), _for_math_verify(answer_latex), rounding)
    return Verdict(float(outcome == "equal"), _REASONS[outcome])


def _depth(latex: str) -> int:
    deepest = depth = 0
    for char in latex:
        depth += (char in "{([") - (char in "})]")
        deepest = max(deepest, depth)
    return deepest


def _too_high(latex: str) -> bool:
    """Whether a power of powers of numbers has more than a million digits: no answer, and no end for SymPy."""
    for tower in _TOWER.findall(re.sub(r"[{}()\s]", "", latex)):
        *bases, height = (int(level[:10]) for level in tower.split("^"))
        for base in reversed(bases):
            if height.bit_length() > 64 or height * math.log10(max(base, 1)) > MAX_POWER_DIGITS:
                return True
            height = base**height
    return False


def _values_of_one_name(latex: str) -> str:
    """From "x = 1, x = 3" to "1, 3"; anything else unchanged."""
    parts = re.split(r",|\\text\{\s*(?:or|and)\s*\}|\b(?:or|and)\b", latex)
    named = [_NAMED.match(part) for part in parts]
    if len(parts) < 2 or len({match and match[1] for match in named}) != 1 or named[0] is None:
        return latex
    return ", ".join(_NAMED.sub("", part).strip() for part in parts)


def _chain(answer: str, gold: str) -> Verdict | None:
    r"""Decide a chain of sides ("x = v", "2+4 = 6", "\frac{10}{3} \approx 3.33"); None where Math-Verify has to.

    It takes one side for the answer, so that "5 = 6" would pass for 6, and "5 \approx 8" for 5. Here every side has to
    equal the gold, but for a name in front, and for what the gold rounds to behind a side that equals it.
    """
    (first, *rest), signs = split_sides(answer)
    gold_latex = clean(gold)
    gold_signs = split_sides(gold_latex)[1]
    about, gold_about = ([sign != "=" for sign in found] for found in (signs, gold_signs))
    if not signs:
        return None
    if gold_signs and any(about) <= any(gold_about) and (len(signs) <= len(gold_signs) or is_list(gold_latex)):
        return None  # equations beside equations
    if len(gold_signs) > 1 or (gold_signs and is_list(gold_latex)):
        return Verdict(0.0, "more sides than the gold")
    if gold_signs and (signs[0] == "=" or _NAME.fullmatch(first)):
        sides = [f"{first}={side}" for side in rest]
    elif not gold_signs and _is_label(first):
        sides = rest
    else:
        sides, about = [first, *rest], [False, *about]
    for number, (side, rounded) in enumerate(zip(sides, about, strict=True)):
        verdict = math_equal(side, gold)
        if verdict.score < 1.0 and not (number and rounded and _rounds_to(gold_latex, side)):
            return Verdict(0.0, f"{side[:60]!r}: {verdict.reason}")
    return Verdict(1.0, "every side is equal")


def _rounds_to(gold: str, side: str) -> bool:
    """Whether ``side`` is a decimal that ``gold`` rounds to, however few its digits ("0.67" for 2/3)."""
    rounded = parse_number(side)
    if rounded is None or not rounded.digits:  # a fraction, or zero, is no rounding
        return False
    value = split_sides(gold)[0][-1]
    want = parse_number(value)
    if want is not None:
        return rounds_to(want, rounded)
    forms = (rounded, rounded.times(Fraction(1, 100))) if rounded.percent else (rounded,)
    value = _for_math_verify(value)
    return any(_pool.compare(str(form.coefficient), value, form.step() / 2) == "equal" for form in forms)


def _is_label(side: str) -> bool:
    """Whether what stands before a sign only names the answer ("x", "f(2)", "Area")."""
    if _NAME.fullmatch(side) or _LABEL.fullmatch(side):
        return True
    return not (any(map(str.isnumeric, side)) or parse_number(side))


def _for_math_verify(latex: str) -> str:
    # Dollar signs would end the math environment the expression is read in.
    return latex.replace(r"\$", "").replace("$", "")


def _is_words(flat: str) -> bool:
    """Whether a text is prose: a word of four letters or more, or several words; "x", "ab", "pq" are algebra."""
    return bool(_WORDS.fullmatch(flat)) and (len(flat) >= 4 or not flat.isascii())


def _words(answer: str, gold: str, got: Number | None, want: Number | None) -> Verdict | None:
    """Decide answers that are words or option letters; None where mathematics has to decide."""
    bare = [text.removeprefix("\\").replace("\\{", "{").replace("\\}", "}").replace(" }", "}").lower().strip()
            for text in (answer, gold)]  # fmt: skip
    if all(text in _NOTHING for text in bare):
        return Verdict(1.0, "both empty")
    letters = [re.fullmatch(r"\(?\s*([A-Za-z])\s*\)?", text) for text in (answer, gold)]
    if letters[0] and letters[1]:
        return Verdict(float(letters[0][1] == letters[1][1]), "single letters")
    answer_words, gold_words = _is_words(answer), _is_words(gold)
    if answer_words and gold_words:
        same = tokens(answer) == tokens(gold)
        return Verdict(float(same), "same words" if same else "different words")
    if (answer_words and want is not None) or (gold_words and got is not None):
        return Verdict(0.0, "words against a number")
    return None
