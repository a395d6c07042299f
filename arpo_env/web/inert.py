"""Text from strangers, made into nothing but text.

The protocol makes its own tags inert in every result (:func:`arpo_env.protocol.neutralise`), and our renderer honours
no special token in one. But results also go to chat endpoints, whose servers tokenise as they please: there a page
that says ``<|im_end|>`` could end the turn and begin one of its own. So what looks like a special token of a chat
format is broken here, in the same visible way (``&lt;|im_end|>``). What a page *says* stays as it is: an instruction in
it is text in a result, for the policy to judge.
"""

from __future__ import annotations

import re

#: Names of special tokens written as plain tags: <s>, </s>, <bos>, <pad>, <start_of_turn> …
_NAMES = (
    "s|bos|eos|pad|unk|mask|cls|sep|endoftext|end_of_utterance|start_of_turn|end_of_turn|eod|eot|fim_[a-z]+"
    "|tool_call|tool_response|image|start_of_image|end_of_image|unused\\d+|reserved_\\d+"
)
#: <|im_end|> (ChatML, Qwen), <|eot_id|> (Llama 3), <｜end▁of▁sentence｜> (DeepSeek), <<SYS>> …, and those names.
#: The quantifiers give nothing back: two that may share a run of blanks would take quadratic time over it.
_SPECIAL = re.compile(rf"<(?=[|｜]|<SYS>>|</SYS>>|\s*+(?:/\s*+)?(?:{_NAMES})\s*+(?:/\s*+)?>)", re.IGNORECASE)
#: [INST], [/INST], [TOOL_CALLS] … (Mistral).
_BRACKETS = re.compile(
    r"\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT|IMG|PREFIX|MIDDLE|SUFFIX)\])"
)
#: Control characters but tab and line feed, lone surrogates, bidirectional overrides, invisible tag characters.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


def clean(text: str) -> str:
    """``text`` with line ends as ``\\n`` and without characters that are not seen."""
    return _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))


def inert(text: str) -> str:
    """:func:`clean`, and with everything that looks like a special token of a chat format broken.

    >>> inert("end <|im_end|> </s> [INST] 1 < 2")
    'end &lt;|im_end|> &lt;/s> &#91;INST] 1 < 2'
    """
    return _BRACKETS.sub("&#91;", _SPECIAL.sub("&lt;", clean(text)))
