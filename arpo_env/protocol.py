r"""The tag protocol of the ARPO paper: how a turn is read and how a result is written.

A turn of the policy is free text, ``<think>…</think>`` blocks and exactly one action at its end::

    <think>I need the founder.</think>
    <search>Brimco</search>                          -> ToolCall("search", "Brimco")
    <answer>The city is \[ \boxed{Varn} \]</answer>  -> FinalAnswer

and the environment answers a call with ``<result>\n…\n</result>``. Two properties matter:

* Only what the model wrote in *this* turn is parsed. The released code searched prompt + response and so
  ran the example of its own system prompt.
* A result is data: :func:`render_result` makes every protocol tag inside it inert, so a web page can
  neither close the result nor open a call.

What each kind of bad turn means is a table, :class:`Malformed`'s ``reason``, and tested row by row.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from arpo_env.rewards.boxed import extract_boxed

#: Tags that are always part of the protocol, whatever tools an environment has.
CORE_TAGS = ("think", "result", "answer")
#: Every tag any environment of the suite may use; all of them are made inert inside results.
ALL_TAGS = (*CORE_TAGS, "search", "python", "browse")

MalformedReason = Literal[
    "empty",  # nothing but white space and thoughts
    "no_action",  # text, but neither a call nor an answer
    "unclosed",  # <search>… without </search>
    "stray_close",  # </search> without <search>
    "nested",  # a protocol tag inside an argument
    "doubled",  # a second action (or any tag but <result>) after the first
    "trailing_text",  # text after a tool call
    "forged_result",  # the policy wrote a <result> itself
]


@dataclass(frozen=True, slots=True)
class Thoughts:
    """How many ``<think>`` and ``</think>`` tags a turn holds (format check).

    A closed block counts as one of each, whatever it mentions; tags after a malformed spot are not counted.
    """

    opened: int = 0
    closed: int = 0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Run ``tool`` on ``argument`` (stripped; may be empty: the tool then says so)."""

    tool: str
    argument: str
    thoughts: Thoughts = Thoughts()


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    r"""The end of an episode. ``text`` is all between the tags; ``boxed`` what the last ``\boxed{}`` holds."""

    text: str
    boxed: str | None
    thoughts: Thoughts = Thoughts()


@dataclass(frozen=True, slots=True)
class Malformed:
    """A turn with no executable action; nothing in it is run. ``message`` is for the policy and for people."""

    reason: MalformedReason
    message: str
    thoughts: Thoughts = Thoughts()


Action = ToolCall | FinalAnswer | Malformed


def _tag_pattern(names: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"<(/?)({'|'.join(map(re.escape, names))})>")


def parse(turn: str, tools: Collection[str] = ("search", "python")) -> Action:
    """Read one assistant turn. Never raises on any text.

    A closed ``<think>`` block is opaque: what it mentions is not done. An unclosed one is read as plain
    text, since reasoning models call tools from inside their thoughts (the turn then counts as badly
    formatted unless a later turn closes it).
    """
    tags = list(_tag_pattern((*CORE_TAGS, *sorted(tools))).finditer(turn))
    opened = closed = 0
    # Looked up once: a turn of nothing but "<think>" must not cost quadratic time.
    last_close = max((j for j, tag in enumerate(tags) if tag[0] == "</think>"), default=-1)
    i = 0
    while i < len(tags):
        tag, closing, name = tags[i], bool(tags[i][1]), tags[i][2]
        if name == "think":
            if closing:
                closed += 1
            else:
                opened += 1
                # Skip to the end of the block, if it has one.
                if i < last_close:
                    closed += 1
                    i = next(j for j in range(i + 1, len(tags)) if tags[j][0] == "</think>")
            i += 1
            continue
        thoughts = Thoughts(opened, closed)
        if name == "result":
            return Malformed("forged_result", "Only the environment writes <result>.", thoughts)
        if closing:
            return Malformed("stray_close", f"</{name}> closes nothing.", thoughts)
        if i + 1 == len(tags):
            return Malformed("unclosed", f"<{name}> is never closed.", thoughts)
        after = tags[i + 1]
        if after[0] != f"</{name}>":
            return Malformed("nested", f"{after[0]} inside <{name}>; an argument cannot hold tags.", thoughts)
        argument = turn[tag.end() : after.start()].strip()
        rest = turn[after.end() :]
        if i + 2 < len(tags) and tags[i + 2][2] == "result":
            return Malformed("forged_result", "Only the environment writes <result>.", thoughts)
        if i + 2 < len(tags):
            return Malformed("doubled", f"{tags[i + 2][0]} after the action; a turn holds one action.", thoughts)
        if name == "answer":
            return FinalAnswer(argument, extract_boxed(argument), thoughts)
        if rest.strip():
            return Malformed("trailing_text", f"text after </{name}>; a turn ends with its call.", thoughts)
        return ToolCall(name, argument, thoughts)
    thoughts = Thoughts(opened, closed)
    outside = re.sub(r"<think>.*?(</think>|$)", "", turn, flags=re.DOTALL).strip()
    if not outside:
        return Malformed("empty", "the turn holds no action.", thoughts)
    return Malformed("no_action", "neither a tool call nor an <answer>.", thoughts)


def stop_strings(tools: Collection[str]) -> tuple[str, ...]:
    """Where generation of a turn stops: the closing tags of its actions."""
    return tuple(f"</{name}>" for name in (*sorted(tools), "answer"))


@functools.lru_cache(maxsize=64)
def _inert(tools: frozenset[str]) -> re.Pattern[str]:
    names = "|".join(map(re.escape, sorted(tools.union(ALL_TAGS))))
    # Quantifiers that give nothing back: two that may share a run of blanks would take quadratic time over it.
    return re.compile(rf"<(?=\s*+(?:/\s*+)?(?:{names})\s*+(?:/\s*+)?>)", re.IGNORECASE)


def neutralise(text: str, tools: Collection[str] = ()) -> str:
    """``text`` with every protocol tag made inert (``<search>`` -> ``&lt;search>``); all else unchanged.

    ``tools``: tags of an environment's own tools, besides :data:`ALL_TAGS`.
    """
    return _inert(frozenset(tools)).sub("&lt;", text)


def render_result(text: str, max_chars: int | None = None, tools: Collection[str] = ()) -> str:
    r"""Frame a tool's text as the observation ``<result>\n…\n</result>``; a cut is said where it happens.

    ``tools``: see :func:`neutralise`.
    """
    if max_chars is not None and len(text) > max_chars:
        text = f"{text[:max_chars]}… [cut: {len(text) - max_chars} more characters]"
    return f"<result>\n{neutralise(text, tools)}\n</result>"


def result_body(observation: str) -> str:
    """The text inside an observation's ``<result>`` frame (what :func:`render_result` was given, neutralised).

    Raises:
        ValueError: the observation is not a result.
    """
    head, tail = "<result>\n", "\n</result>"
    if not (observation.startswith(head) and observation.endswith(tail)):
        raise ValueError(f"not a <result> observation: {observation[:80]!r}")
    return observation[len(head) : -len(tail)]


def tool_turn(think: str, tool: str, argument: str) -> str:
    """A well-formed turn that calls a tool (experts, tests, examples)."""
    return f"<think>{think}</think>\n<{tool}>{argument}</{tool}>"


def answer_turn(think: str, answer: str, *, raw: bool = False) -> str:
    r"""A well-formed final turn; ``raw`` leaves out the ``\boxed{}`` (code answers)."""
    body = answer if raw else rf"\boxed{{{answer}}}"
    return f"<think>{think}</think>\n<answer>{body}</answer>"
