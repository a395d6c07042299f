"""The data card of deep search: who can answer its questions, and with how much searching.

    python -m benchmarks.deepsearch_card                       # the table of docs/deepsearch.md
    python -m benchmarks.deepsearch_card --pages 100000 --questions 200

Four answerers, on the same test questions:

* *memory*: has seen every question of as many training tasks, and gives the answer that was most often right for the
  same last relation. It cannot search.
* *one search*: the answer stands somewhere in the result of one search, for the first name in the question or for the
  whole question. An upper bound of what anybody can do with one look.
* *expert*, *flawed expert*: the scripted demonstrators, through the real search tool (and plain arithmetic where they
  call Python).
* *stale reader*: the expert that takes the outdated page, on the questions where there is one.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from arpo_env.protocol import FinalAnswer, ToolCall, parse, render_result
from arpo_env.search.base import SearchBackend
from arpo_env.tasks.base import Expert, Task
from arpo_env.tasks.deepsearch import DeepSearchFamily
from arpo_env.tasks.deepsearch.expert import Slip, demonstrate
from arpo_env.tools.search import SearchTool, format_hits

K = 3
_SPLIT = "test"


def play(demo: Expert, tool: SearchTool) -> str:
    """The demonstrator's final answer."""
    session, turn = tool.open(0), next(demo)
    while True:
        action = parse(turn)
        if isinstance(action, FinalAnswer):
            return action.boxed or ""
        assert isinstance(action, ToolCall)
        if action.tool == "python":  # print(A + B) and print(A - B) are all they compute
            left, sign, right = action.argument.removeprefix("print(").removesuffix(")").split()
            turn = demo.send(render_result(str(int(left) + int(right) * (1 if sign == "+" else -1))))
        else:
            turn = demo.send(render_result(session.call(action.argument).text))


def last_relation(task: Task) -> str:
    """What a question asks for, and how it computes."""
    operator: str = task.meta["operator"]
    return operator + "/".join(chain["steps"][-1][1] for chain in task.meta["chains"])


def memory(family: DeepSearchFamily, count: int) -> Callable[[Task], str]:
    """The closed-book answerer, trained on ``count`` training tasks."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(count):
        task = family.task(0, "train", index)
        seen[last_relation(task)][task.answer] += 1
    return lambda task: seen[last_relation(task)].most_common(1)[0][0] if seen[last_relation(task)] else ""


def shown(backend: SearchBackend, query: str, chars: int, task: Task) -> bool:
    """Whether the answer stands in the result of one search."""
    text = format_hits(backend.search(query, K), chars)
    answers = "|".join(map(re.escape, (task.answer, *task.meta["aliases"])))
    return re.search(rf"(?<!\w)(?:{answers})(?!\w)", text, re.IGNORECASE) is not None


def card(label: str, family: DeepSearchFamily, count: int) -> list[dict[str, str]]:
    """A row for each number of hops, and one for arithmetic."""
    groups: dict[str, list[Task]] = defaultdict(list)
    for index in range(count):
        task = family.task(0, _SPLIT, index)
        groups[
            "arithmetic" if task.meta["arithmetic"] else f"{task.meta['hops']} hop{'s' * (task.meta['hops'] > 1)}"
        ].append(task)
    backend = family.backend(_SPLIT)
    chars = family.snippet_chars
    tool = SearchTool(backend, k=K, chars=chars)
    recall = memory(family, count)

    def score(answer: Callable[[Task], str], some: Sequence[Task]) -> str:
        return percent([family.verify(task, answer(task)).score for task in some])

    rows = []
    for group, tasks in sorted(groups.items(), key=lambda item: (item[0] == "arithmetic", item[0])):
        contested = [task for task in tasks if task.meta.get("contested")]
        rows.append(
            {
                "questions": f"{label}, {group}",
                "n": str(len(tasks)),
                "memory": score(recall, tasks),
                "one search (name)": percent(
                    [shown(backend, task.meta["chains"][0]["start"], chars, task) for task in tasks]
                ),
                "one search (question)": percent([shown(backend, task.question, chars, task) for task in tasks]),
                "expert": score(lambda task: play(family.expert(task), tool), tasks),
                "flawed expert": score(
                    lambda task: play(family.flawed_expert(task, np.random.default_rng(0)), tool), tasks
                ),
                "stale reader (n)": f"{score(lambda task: stale(task, tool), contested)} ({len(contested)})"
                if contested
                else "",
            }
        )
    return rows


def stale(task: Task, tool: SearchTool) -> str:
    """What the expert answers who takes the first outdated page for true."""
    return play(demonstrate(task, Slip("stale", 0, np.random.default_rng(0))), tool)


def percent(scores: Sequence[float]) -> str:
    return f"{100 * float(np.mean(scores)):.1f} %"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=1000, help="pages of each world (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=600, help="of each family (default: %(default)s)")
    options = parser.parse_args(arguments)
    families = {
        "default": DeepSearchFamily(pages=options.pages),
        "easy": DeepSearchFamily.easy(pages=options.pages),
        "stale=0.5": DeepSearchFamily(pages=options.pages, stale=0.5),
    }
    header: list[str] = []
    for label, family in families.items():
        pages = [{page.title for page in family.world(split)} for split in ("train", _SPLIT)]
        if len(pages[0] & pages[1]):
            raise SystemExit(f"{label}: training and test worlds share names")
        for row in card(label, family, options.questions):
            if not header:
                header = list(row)
                print("| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
            print("| " + " | ".join(row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
