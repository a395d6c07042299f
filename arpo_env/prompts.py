r"""System prompts: what a policy is told about the protocol.

``compact`` is ours and names only the tools an environment has. ``paper`` is the wording the published
checkpoints were trained on (search and python always named), so that they run here unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from arpo_env.errors import unknown
from arpo_env.tools.base import Tool


def compact(tools: Sequence[Tool], raw_answer: bool) -> str:
    """A short prompt (about a hundred tokens): small models pay for every word of it."""
    lines = ["Answer the question step by step. Think inside <think> </think>."]
    if tools:
        lines.append("You can use these tools, one call a turn; the reply comes inside <result> </result>:")
        lines += [f"<{tool.name}>{tool.description}</{tool.name}>" for tool in tools]
    answer = "code" if raw_answer else r"\boxed{answer}"
    lines.append(f"End with <answer>{answer}</answer>.")
    return "\n".join(lines)


def paper(tools: Sequence[Tool], raw_answer: bool) -> str:
    """The prompt of the authors' released training data (both tools named whatever is on).

    A tool that they did not have is named in a sentence of its own, and so is an answer that is code: all of
    ``<answer>`` is then run.
    """
    code = r" Here the final answer is Python code: write only the code inside <answer> </answer>, without \boxed{}."
    more = "".join(
        f" You can also use the {tool.name} tool: <{tool.name}> {tool.description} </{tool.name}>."
        for tool in tools
        if tool.name not in ("search", "python")
    )
    published = (
        "You are a helpful assistant that can solve the given question step by step with the help of the wikipedia "
        "search tool and python interpreter tool. Given a question, you need to first think about the reasoning "
        "process in the mind and then provide the answer. During thinking, you can invoke the wikipedia search tool "
        "to search and python interpreter tool to calculate the math problem for fact information about specific "
        "topics if needed. The reasoning process and answer are enclosed within <think> </think> and <answer> "
        "</answer> tags respectively, and the search query and result are enclosed within <search> </search> and "
        "<result> </result> tags respectively. For example, <think> This is the reasoning process. </think> <search> "
        "search query here </search> <result> search result here </result> <think> This is the reasoning process. "
        "</think> <python> python code here </python> <result> python interpreter result here </result> <think> This "
        r"is the reasoning process. </think> <answer> The final answer is \[ \boxed{answer here} \] </answer>. In the "
        r"last part of the answer, the final exact answer is enclosed within \boxed{} with latex format."
    )
    return published + more + (code if raw_answer else "")


PROMPTS: Mapping[str, Callable[[Sequence[Tool], bool], str]] = {"compact": compact, "paper": paper}


def system_prompt(name: str, tools: Sequence[Tool], raw_answer: bool) -> str:
    """The text of prompt ``name``.

    Raises:
        ConfigError: no prompt has that name.
    """
    if name not in PROMPTS:
        raise unknown("prompt", name, PROMPTS)
    return PROMPTS[name](tools, raw_answer)
