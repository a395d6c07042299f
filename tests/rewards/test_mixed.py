"""Short answers of any kind: the gold says which rule applies."""

from __future__ import annotations

import pytest

from arpo_env.errors import ConfigError
from arpo_env.rewards.mixed import MAX_CHARS, mixed_equal

pytest.importorskip("math_verify")

EQUAL = [
    ("Right", "right"), ("St. Petersburg", "St Petersburg"), ("1991年", "1991 年"), ("17,056", "17056"),
    ("$0.50", "0.5"), ("89,706.00", "89706"), ("50%", "50"), ("34689", "34,689"), ("3.14", "3.140"),
    ("a, b, c", "a,b, c"), ("3; 17", "3, 17"), ("b, e", "B, E"), ("红色、蓝色", "红色，蓝色"), ("1.50, 2", "1.5,2"),
    (r"\frac{1}{2}", "0.5"), ("x^2+2x+1", "(x+1)^2"), ("$\\sqrt{8}$", r"2\sqrt2"), ("O(n^2)", "O(n^2)"),
    ("n(n+1)/2", "n (n + 1) / 2"), ("n(n-1)/2", "(n^2-n)/2"), ("x<5", "x < 5"), ("x>5", "5 < x"), ("2^{10}", "1024"),
    ("3+2i", "2i + 3"), ("log 2", r"\log(2)"), ("(¬A → B) ↔ (A ∨ ¬B)", "(¬A→B) ↔ (A∨¬B)"), ("3:4", "3 : 4"),
    ("F-16", "f-16"), ("1998-2003", "1998–2003"), ("X-ray", "x ray"), ("Wi-Fi", "wi fi"), ("Yahoo!", "Yahoo"),
    ("AC/DC", "AC DC"), ("C++", "c++"), ("3:45 pm", "3:45 p.m."), ("no", r"\text{no}"), ("7 Samurai", "the 7 Samurai"),
    ("Washington, D.C.", "Washington DC"), ("-1, 2", "-1,2"), ("(1, 2)", r"\left(1, 2\right)"), ("O-", "o-"),
    ("True", "true"), ("04/15/18", "04/15/18"), ("The C-3PO droid", "C-3PO droid"),
]  # fmt: skip
UNEQUAL = [
    ("Right", "left"), ("17", "17 or 18"), ("17", "seventeenth"), ("3, 17", "17, 3"), ("a, b", "a, b, c"),
    ("a, b", "a"),
    ("-5", "5"), ("1.5", "15"), ("A", "a an"), ("1991年", "1992年"), (r"\frac{1}{2}", r"\frac{1}{3}"), ("x^2", "x^3"),
    ("Paris", "Paris, France"), ("42", ""), ("42", "  "), ("42", "x" * (MAX_CHARS + 1)),
    ("n(n+1)/2", "n(n-1)/2"), ("n-1", "n+1"), ("n-1", "n 1"), ("x^2+1", "x^2-1"), ("x>5", "x<5"), ("2^{10}", "2/10"),
    ("3+2i", "3-2i"), (r"\frac{1}{2}", r"-\frac12"), (r"-\frac12", r"\frac{1}{2}"), ("e^{x}", "e^{-x}"), ("5", "5!"),
    ("5!", "5"), ("2", "√2"), (r"√2", "2"), ("3:4", "3/4"), ("3/4", "3:4"), ("a/b", "a*b"), ("x", "-x"), ("-x", "x"),
    ("x", "|x|"), ("|x|", "x"), ("xy", "x/y"), (r"-\infty", r"\infty"), ("-∞", "∞"), (r"\binom{a}{b}", r"\frac{a}{b}"),
    ("E=mc/2", "E = mc^2"), ("q→p", "p→q"), ("(¬A → B) ↔ (A ∨ ¬B)", "¬(A ∧ B) ↔ (¬A ∨ ¬B)"), ("(1, 2)", "[1, 2]"),
    ("1998-2003", "-5"), ("04/15/18", "1/67.5"), ("3, 17", "- 3, 17"), ("O+", "O-"), ("A+", "A"),
    ("5 apples", "- 5 apples"), ("F-16", "F+16"), ("log 2", "log 3"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold: str, answer: str) -> None:
    assert mixed_equal(answer, ["nothing of the kind", gold]).score == 1


@pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
def test_unequal(gold: str, answer: str) -> None:
    assert mixed_equal(answer, [gold]).score == 0


def test_golds_must_be_a_list() -> None:
    for golds in ("42", []):
        with pytest.raises(ConfigError):
            mixed_equal("42", golds)
