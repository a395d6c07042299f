"""``CodeFamily``: write a small Python function; hidden tests decide.

The final answer *is* the code (``answer_format = "raw"``: all text inside ``<answer>``), with or without a
Markdown fence. One example is shown; the other inputs and all expected values stay in ``task.meta``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from arpo_env.errors import ConfigError, unknown
from arpo_env.protocol import answer_turn, result_body, tool_turn
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.code import extract_code, run_tests
from arpo_env.tasks.base import Expert, Task, TaskFamily, task_rng
from arpo_env.tasks.code.problem import Draw, Problem
from arpo_env.tasks.code.templates import TEMPLATES
from arpo_env.tasks.math.partition import draw_in_split


class CodeFamily(TaskFamily):
    """Functions over lists, strings and numbers, from templates with random parameters.

    Args:
        sandbox: name of the isolation tier that runs hidden tests, as ``arpo_env.sandbox.shared_sandbox`` takes it.
        templates: names of :data:`TEMPLATES`; default all.
        seconds: wall time of one verdict's test run.

    Raises:
        ConfigError: an unknown template, none at all, or a time that is not positive.
    """

    tools = ("python",)
    answer_format = "raw"

    def __init__(self, sandbox: str = "auto", templates: Sequence[str] | None = None, seconds: float = 5.0) -> None:
        chosen = sorted(TEMPLATES) if templates is None else sorted(set(templates))
        for name in chosen:
            if name not in TEMPLATES:
                raise unknown("code template", name, TEMPLATES)
        if not chosen:
            raise ConfigError("templates is empty; leave it out for all of them")
        if not seconds > 0:
            raise ConfigError(f"seconds must be positive, got {seconds!r}")
        self.sandbox = sandbox
        self.templates = tuple(chosen)
        self.seconds = seconds
        self.name = "code" if len(chosen) == len(TEMPLATES) else f"code-{'+'.join(chosen)}"

    def task(self, seed: int, split: str, index: int) -> Task:
        rng = task_rng(self.name, seed, split, index)
        template = TEMPLATES[self.templates[int(rng.integers(len(self.templates)))]]
        # The function decides, not the question: two questions with other examples are one task.
        problem = draw_in_split(
            rng, split, lambda rng: template(Draw(rng)), lambda drawn: f"{drawn.task}\n{drawn.solution}"
        )
        question = _pose(problem)
        outputs = _run(problem.solution, problem.function, problem.inputs)
        tests = [[list(args), value] for args, value in zip(problem.inputs, outputs, strict=True)]
        flaws = [
            flaw for flaw in problem.flaws if _run(flaw, problem.function, problem.inputs, tolerate=True) != outputs
        ]
        meta: dict[str, Any] = {"function": problem.function, "example": tests[0], "tests": tests[1:], "flaws": flaws}
        return Task(f"{self.name}/{split}/{seed}/{index}", question, problem.solution, meta)

    def verify(self, task: Task, answer: str) -> Verdict:
        """1 when the code passes every hidden test and the shown example.

        Raises:
            ToolUnavailable, InfraError: the sandbox cannot run.
        """
        from arpo_env.sandbox import shared_sandbox

        tests = [(args, value) for args, value in (task.meta["example"], *task.meta["tests"])]
        sandbox = shared_sandbox(self.sandbox)
        function = task.meta["function"]
        return run_tests(sandbox, extract_code(answer, function), function, tests, seconds=self.seconds)

    def expert(self, task: Task) -> Expert:
        args, expected = task.meta["example"]
        call = f"print({task.meta['function']}({', '.join(map(repr, args))}))"
        observation = yield tool_turn("Write it and try the example.", "python", f"{task.answer}\n{call}")
        matches = result_body(observation).strip().splitlines()[-1:] == [str(expected)]
        yield answer_turn("The example is right." if matches else "The example differs.", task.answer, raw=True)

    def flawed_expert(self, task: Task, rng: np.random.Generator) -> Expert:
        """A plausible wrong function (off by one, a lost condition), tried on the example or not at all."""
        flaws: list[str] = task.meta["flaws"]
        if not flaws:
            yield from self.expert(task)
            return
        code = flaws[int(rng.integers(len(flaws)))]
        if rng.random() < 0.5:
            args, _ = task.meta["example"]
            call = f"print({task.meta['function']}({', '.join(map(repr, args))}))"
            yield tool_turn("Write it and try the example.", "python", f"{code}\n{call}")
        yield answer_turn("That should do.", code, raw=True)


def _pose(problem: Problem) -> str:
    """The question, the first input worked as an example."""
    args = problem.inputs[0]
    value = _run(problem.solution, problem.function, (args,))[0]
    return (
        f"Write a Python function {problem.signature} that {problem.task}.\n"
        f"Example: {problem.function}({', '.join(map(repr, args))}) returns {value!r}.\n"
        "Answer with the code of the function."
    )


@lru_cache(maxsize=512)
def _compiled(source: str) -> Any:
    return compile(source, "<template>", "exec")


def _run(source: str, function: str, inputs: Sequence[Sequence[Any]], *, tolerate: bool = False) -> list[Any]:
    """The values of one of *our* functions on fresh copies of the inputs; with ``tolerate`` an error's name."""
    namespace: dict[str, Any] = {}
    exec(_compiled(source), namespace)  # a template's own text, no policy's
    values: list[Any] = []
    for args in inputs:
        try:
            values.append(json.loads(json.dumps(namespace[function](*json.loads(json.dumps(list(args)))))))
        except Exception as error:
            if not tolerate:
                raise
            values.append(f"raised {type(error).__name__}")
    return values
