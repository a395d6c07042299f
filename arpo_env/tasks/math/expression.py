"""Arithmetic expressions: random trees, their exact value, how they are written, and how one gets them wrong.

An expression is ``int`` or :class:`Op`. Values are ``Fraction``: no floating point anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 3}
#: Larger intermediate values are drawn again: the numbers are to be copied, not to be a memory test.
_MAX_VALUE = 10**7


@dataclass(frozen=True, slots=True)
class Op:
    """``left symbol right`` with symbol one of ``+ - * / ^``; ``^`` only with a small integer on its right."""

    symbol: str
    left: Expression
    right: Expression


Expression = int | Op


def evaluate(expression: Expression) -> Fraction:
    """The exact value.

    Raises:
        ZeroDivisionError: the expression divides by zero.
    """
    if isinstance(expression, int):
        return Fraction(expression)
    left, right = evaluate(expression.left), evaluate(expression.right)
    match expression.symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
        case _:
            return left ** int(right)


def operators(expression: Expression) -> int:
    """How many operators an expression holds."""
    return 0 if isinstance(expression, int) else 1 + operators(expression.left) + operators(expression.right)


def write(expression: Expression, *, python: bool = False, parentheses: bool = True) -> str:
    """The expression with the parentheses it needs, in ordinary notation or as Python.

    As Python, division is exact: every number under a ``/`` or ``^`` tree becomes ``F(n)``.
    ``parentheses=False`` leaves them out, which generally changes the value.
    """
    exact = python and _divides(expression)

    def go(node: Expression) -> str:
        if isinstance(node, int):
            return f"F({node})" if exact else str(node)
        left, right = go(node.left), go(node.right)
        mine = _PRECEDENCE[node.symbol]
        if parentheses:
            if isinstance(node.left, Op) and (_PRECEDENCE[node.left.symbol] < mine or node.symbol == "^"):
                left = f"({left})"
            # Right operands of equal precedence keep theirs: a - (b + c), a / (b * c), and a * (b * c) too.
            if isinstance(node.right, Op) and _PRECEDENCE[node.right.symbol] <= mine:
                right = f"({right})"
        if node.symbol == "^":
            exponent = str(node.right)
            return f"{left} ** {exponent}" if python else f"{left}^{exponent}"
        return f"{left} {node.symbol} {right}"

    return go(expression)


def _divides(expression: Expression) -> bool:
    return isinstance(expression, Op) and (
        expression.symbol == "/" or _divides(expression.left) or _divides(expression.right)
    )


def program(expression: Expression, *, parentheses: bool = True) -> str:
    """A short Python program that prints the value, exactly."""
    body = f"print({write(expression, python=True, parentheses=parentheses)})"
    return f"from fractions import Fraction as F\n{body}" if _divides(expression) else body


def _written(expression: Expression) -> tuple[list[int], list[str]]:
    """Its numbers and its operators, each in the order in which they are written."""
    if isinstance(expression, int):
        return [expression], []
    (numbers, symbols), (more, others) = _written(expression.left), _written(expression.right)
    return numbers + more, [*symbols, expression.symbol, *others]


def left_to_right(expression: Expression) -> Fraction | None:
    """What one gets who ignores precedence and parentheses; None where that divides by zero."""
    numbers, symbols = _written(expression)
    total = Fraction(numbers[0])
    for symbol, number in zip(symbols, numbers[1:], strict=True):
        if symbol == "/" and number == 0:
            return None
        # The accumulated value is no tree, so apply the operator here rather than through evaluate().
        total = {
            "+": lambda a, b: a + b,
            "-": lambda a, b: a - b,
            "*": lambda a, b: a * b,
            "/": lambda a, b: a / b,
            "^": lambda a, b: a ** int(b) if abs(a) < 10**6 else a * b,
        }[symbol](total, Fraction(number))
    return total


def without_parentheses(expression: Expression) -> Fraction | None:
    """The value of the expression written without parentheses; None where that divides by zero."""
    found, symbols = _written(expression)
    numbers: list[Expression] = [*found]
    try:
        for level in (3, 2, 1):
            i = 0
            while i < len(symbols):
                if _PRECEDENCE[symbols[i]] == level:
                    numbers[i : i + 2] = [Op(symbols.pop(i), numbers[i], numbers[i + 1])]
                else:
                    i += 1
        return evaluate(numbers[0])
    except ZeroDivisionError:
        return None


def change_operator(expression: Expression, rng: np.random.Generator) -> Expression:
    """The expression with one of its operators changed (``+`` for ``*`` and the like)."""
    return _change(expression, int(rng.integers(operators(expression))), rng)[0]


def _change(node: Expression, at: int, rng: np.random.Generator) -> tuple[Expression, int]:
    """In-order walk; ``at`` counts operators still to pass."""
    if isinstance(node, int):
        return node, at
    left, at = _change(node.left, at, rng)
    symbol = node.symbol
    if at == 0:
        symbol = str(rng.choice([other for other in ("+", "-", "*") if other != symbol]))
    right, at = _change(node.right, at - 1, rng)
    return Op(symbol, left, right), at


def change_number(expression: Expression, rng: np.random.Generator) -> Expression:
    """The expression with one number miscopied by a small amount."""
    target = int(rng.integers(operators(expression) + 1))
    delta = int(rng.choice([-10, -2, -1, 1, 2, 10]))
    count = -1

    def walk(node: Expression) -> Expression:
        nonlocal count
        if isinstance(node, int):
            count += 1
            return max(1, node + delta) if count == target else node
        if node.symbol == "^":  # the exponent is not touched: 7^12 is another kind of mistake
            return Op("^", walk(node.left), node.right)
        left = walk(node.left)
        return Op(node.symbol, left, walk(node.right))

    return walk(expression)


def random_expression(rng: np.random.Generator, level: int) -> Expression:
    """A random expression of a level from 1 to 5.

    1: three numbers, ``+ - *``, precedence matters. 2: four numbers and parentheses. 3: five or six numbers,
    nested. 4: division, so that the value is a fraction. 5: division and powers.
    """
    while True:
        expression = _draw(rng, level)
        try:
            value = evaluate(expression)
        except ZeroDivisionError:
            continue
        text = write(expression)
        if _fits(expression) and _is_of_level(level, text, value) and left_to_right(expression) != value:
            return expression


def _is_of_level(level: int, text: str, value: Fraction) -> bool:
    if level == 1:
        return "(" not in text
    if level in (2, 3):
        return text.count("(") >= level - 1
    return value.denominator != 1 and value.denominator <= 10**4 and (level == 4 or "^" in text)


def _draw(rng: np.random.Generator, level: int) -> Expression:
    leaves = {1: 3, 2: 4, 3: int(rng.integers(5, 7)), 4: 4, 5: 4}[level]
    symbols = "+-*" if level < 4 else "+-*/"
    return _tree(rng, leaves, symbols, powers=level == 5)


def _tree(rng: np.random.Generator, leaves: int, symbols: str, powers: bool) -> Expression:
    if leaves == 1:
        number = int(rng.integers(2, 1000)) if rng.random() < 0.5 else int(rng.integers(2, 100))
        if powers and rng.random() < 0.3:
            return Op("^", int(rng.integers(2, 20)), int(rng.integers(2, 4)))
        return number
    left = int(rng.integers(1, leaves))
    symbol = symbols[int(rng.integers(len(symbols)))]
    return Op(symbol, _tree(rng, left, symbols, powers), _tree(rng, leaves - left, symbols, powers))


def _fits(node: Expression) -> bool:
    """Whether no intermediate value is too long to copy."""
    if isinstance(node, int):
        return True
    value = evaluate(node)
    return abs(value) <= _MAX_VALUE and value.denominator <= 10**6 and _fits(node.left) and _fits(node.right)
