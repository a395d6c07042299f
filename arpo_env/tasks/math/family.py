"""``MathFamily``: endless arithmetic with exact answers, from one line of precedence to fractions and powers.

It is the smallest family in which a language model must use a tool well: the answers are out of reach of
mental arithmetic, one Python call gives them, and there are several honest ways to get it wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from arpo_env.errors import ConfigError
from arpo_env.protocol import answer_turn, result_body, tool_turn
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.math import number_equal
from arpo_env.tasks.base import Expert, Task, TaskFamily, task_rng
from arpo_env.tasks.math import expression as ex
from arpo_env.tasks.math.partition import draw_in_split
from arpo_env.tasks.math.words import TEMPLATES, random_problem

LEVELS = (1, 2, 3, 4, 5)
#: What a demonstrator that errs may do wrong.
Flaw = Literal["operator", "parentheses", "number", "ignores_result", "no_tool"]
_ASKS = ("Compute {}.", "What is {}?", "Evaluate {}.", "Find the value of {}.")


class MathFamily(TaskFamily):
    """Arithmetic expressions and word problems.

    Args:
        level: difficulty, one of 1-5 or several (each task then draws one); see
            :func:`arpo_env.tasks.math.expression.random_expression`.
        words: share of word problems, in [0, 1]; level 5 has none.

    Raises:
        ConfigError: a level that does not exist, or a share outside [0, 1].
    """

    tools = ("python",)
    answer_format = "boxed"

    def __init__(self, level: int | Sequence[int] = LEVELS, words: float = 0.25) -> None:
        levels = (level,) if isinstance(level, int) else tuple(level)
        if not levels or any(one not in LEVELS for one in levels):
            raise ConfigError(f"level must be one or more of {LEVELS}, got {level!r}")
        if not 0.0 <= words <= 1.0:
            raise ConfigError(f"words is a share in [0, 1], got {words!r}")
        self.levels = tuple(sorted(set(levels)))
        self.words = float(words)
        # Options are part of a task's identity: the same id never names two questions.
        self.name = "math"
        if self.levels != LEVELS or self.words != 0.25:
            self.name += f"-L{''.join(map(str, self.levels))}-w{self.words:g}"

    def task(self, seed: int, split: str, index: int) -> Task:
        rng = task_rng(self.name, seed, split, index)
        level = self.levels[int(rng.integers(len(self.levels)))]
        use_words = level in TEMPLATES and rng.random() < self.words

        def draw(rng: np.random.Generator) -> tuple[str, ex.Expression]:
            if use_words:
                return random_problem(rng, level)
            expression = ex.random_expression(rng, level)
            return _ASKS[int(rng.integers(len(_ASKS)))].format(ex.write(expression)), expression

        # The expression decides, not the wording: "Compute 2 + 3 * 4." and "What is 2 + 3 * 4?" are one task.
        question, expression = draw_in_split(rng, split, draw, lambda drawn: ex.write(drawn[1]))
        if level >= 4:
            question += " Give an integer or a reduced fraction."
        meta: dict[str, Any] = {"level": level, "words": use_words, "expression": _pack(expression)}
        return Task(f"{self.name}/{split}/{seed}/{index}", question, str(ex.evaluate(expression)), meta)

    def verify(self, task: Task, answer: str) -> Verdict:
        """Exact equality of number literals: "3*(4+5)" is no answer, 5/2 and 2.5 are the same one."""
        return number_equal(answer, task.answer, exact=True)

    def expert(self, task: Task) -> Expert:
        code = ex.program(_unpack(task.meta["expression"]))
        observation = yield tool_turn("Let Python compute it.", "python", code)
        yield answer_turn("Python gave the value.", _last_line(observation))

    def flawed_expert(self, task: Task, rng: np.random.Generator) -> Expert:
        """One mistake: a wrong operator, lost parentheses, a miscopied number, a result misread, or no tool at all."""
        expression = _unpack(task.meta["expression"])
        right = ex.evaluate(expression)
        flaws: list[Flaw] = ["operator", "number", "ignores_result", "no_tool"]
        if ex.without_parentheses(expression) not in (right, None):
            flaws.append("parentheses")
        flaw = flaws[int(rng.integers(len(flaws)))]
        if flaw == "no_tool":
            guess = ex.left_to_right(expression)
            if guess is None or guess == right:
                guess = right + 1
            yield answer_turn("I can do this in my head.", str(guess))
            return
        code = _flawed_program(expression, right, flaw, rng)
        observation = yield tool_turn("Let Python compute it.", "python", code)
        value = _last_line(observation)
        if flaw == "ignores_result":
            value = _misread(value, rng)
        yield answer_turn("Python gave the value.", value)


def _flawed_program(expression: ex.Expression, right: Fraction, flaw: Flaw, rng: np.random.Generator) -> str:
    if flaw == "ignores_result":
        return ex.program(expression)
    if flaw == "parentheses":
        return ex.program(expression, parentheses=False)
    change = ex.change_operator if flaw == "operator" else ex.change_number
    for _ in range(20):
        changed = change(expression, rng)
        try:
            if ex.evaluate(changed) != right:
                return ex.program(changed)
        except ZeroDivisionError:
            continue
    return ex.program(ex.Op("+", expression, 1))


def _misread(value: str, rng: np.random.Generator) -> str:
    """``value`` with one digit changed; a value without digits is kept."""
    digits = [i for i, char in enumerate(value) if char.isdigit()]
    if not digits:
        return value
    at = digits[int(rng.integers(len(digits)))]
    # A denominator must not become 0, so 1-9 only.
    digit = str((int(value[at]) - 1 + int(rng.integers(1, 9))) % 9 + 1)
    return value[:at] + digit + value[at + 1 :]


def _last_line(observation: str) -> str:
    lines = result_body(observation).strip().splitlines()
    return lines[-1].strip() if lines else ""


def _pack(expression: ex.Expression) -> Any:
    """The tree as JSON: a number, or ``[symbol, left, right]``."""
    if isinstance(expression, int):
        return expression
    return [expression.symbol, _pack(expression.left), _pack(expression.right)]


def _unpack(packed: Any) -> ex.Expression:
    return packed if isinstance(packed, int) else ex.Op(packed[0], _unpack(packed[1]), _unpack(packed[2]))
