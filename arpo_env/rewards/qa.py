r"""Question answering: exact match and word F1 over ONE normaliser, for training and evaluation alike.

The usual normaliser (SQuAD's) deletes punctuation and articles wherever they stand. That makes 15 of 1.5,
nothing of "A", one long word of a Chinese sentence, and two different answers of "E.H. Shepard" and
"E. H. Shepard". What is done instead, in this order:

1. LaTeX wrappers (``\text{…}``, ``$…$``) are opened; NFKC; case folded.
2. Thousands separators go; what carries meaning stays: a decimal point between digits, a minus before a number, ``%``
   (read as "percent"), the ``#`` of "C#", the ``+``/``-`` that end a short word ("O-", "A+", "C++", "18+"), the
   ``<``, ``>``, ``≤``, ``≥``, ``√`` beside a letter or digit ("<5", "x>y") and the ``!`` of "5!" and "n!".
3. Apostrophes vanish (O'Brien = OBrien); all other punctuation and symbols part words.
4. Runs of single Latin letters join: "e h" -> "eh", "u s a" -> "usa". So initials match however they are dotted.
5. An article goes only in front of another word: "The Who" -> "who", but "A", "Hepatitis A" and "The" stay.
6. Chinese and Japanese are compared by characters: each is a token of its own and blanks between them do not count.
   In other scripts combining marks (the vowels of Devanagari or Thai) belong to their word.

A text of nothing but punctuation is compared as it stands after step 1.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from arpo_env.errors import ConfigError
from arpo_env.rewards.base import Verdict

_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox|emph)\s*\{([^{}]*)\}")
_LATEX_NOISE = re.compile(r"\\[()\[\],;:! ]|(?<!\\)\$|\\(?=[%$&#_])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_APOSTROPHE = re.compile(r"['’‘`´ʼ′]")
_CJK = "\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"


def _combining_marks() -> str:
    """Ranges of the combining marks for a character class; not the variation selectors that dress emoji."""
    marks = [code for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    marks = [code for code in marks if not (0xFE00 <= code <= 0xFE0F or 0x302A <= code <= 0x309F)]
    starts = [code for before, code in zip([0, *marks], marks, strict=False) if code != before + 1]
    ends = [code for code, after in zip(marks, [*marks[1:], 0], strict=True) if after != code + 1]
    return "".join(f"\\u{start:04x}-\\u{end:04x}" for start, end in zip(starts, ends, strict=True))


_MARKS = _combining_marks()
_WORD = rf"[^\W_{_CJK}]"
_TOKEN = re.compile(
    rf"(?<!\w)(?:{_WORD}{{1,3}}|\d+)[-+](?![\w+])"  # O-, A+, 18+; see _CHARGE
    rf"|-?(?<!\w)\d+(?:\.\d+)+"  # 1.5, -0.25, 1.2.3, the 1.5 of 1.5m
    rf"|-?(?<![\w.])\.\d+"  # .5
    rf"|[{_CJK}]"
    rf"|-?\d+(?![\w{_CJK}])"
    rf"|{_WORD}(?:{_WORD}|[{_MARKS}])*(?:\+\+|[#♯](?!\w))?"
    r"|[<>≤≥≠±√](?= ?[\w.√-])|(?<=\w)[<>≤≥≠]|(?<=\w )[<>≤≥≠]"
    r"|(?:(?<=\d)|(?<![^\W\d_][^\W\d_])(?<=[^\W\d_]))!"
)
# The minus of "O-": after one to three characters, the first a letter, and before a blank or punctuation.
_CHARGE = re.compile(r"(?<!\w)([^\W\d_][^\W_]{0,2})[-−](?=$|[\s,.;:)\]}/?!])")
_MINUS = re.compile(r"(?<![\w)\]])[-−–](?=\.?\d)")
_DASH = re.compile(r"[-‐‑‒–—―−]")
# The "a" of "a K-pop star" is an article, not an initial of "AK".
_ARTICLE_BEFORE_LETTER = re.compile(r"\ba\s+(?=[a-z]-)")
_ARTICLES = frozenset(("a", "an", "the"))
_CLOSED = (["yes"], ["no"], ["noanswer"])


def _unwrap(text: str) -> str:
    # A fixed number of passes: \text{\text{…}} nests two deep at most in practice, and hostile text may not cost more.
    for _ in range(3):
        text, found = _WRAPPER.subn(r"\1", text)
        if not found:
            break
    return _LATEX_NOISE.sub(" ", text) if "\\" in text or "$" in text else text


def _join_initials(tokens: list[str]) -> list[str]:
    """``["e", "h", "shepard"]`` -> ``["eh", "shepard"]``; a lone letter stays as it is."""
    out: list[str] = []
    run: list[str] = []
    for token in tokens:
        if len(token) == 1 and "a" <= token <= "z":
            run.append(token)
            continue
        out += ["".join(run)] * bool(run) + [token]
        run = []
    return out + ["".join(run)] * bool(run)


def tokens(text: str) -> list[str]:
    """``text`` as the list of tokens that answers are compared by; empty only for blank text. Pure, linear time."""
    opened = _unwrap(text)
    # A text of nothing but LaTeX delimiters ("\\)") stays as it is.
    text = unicodedata.normalize("NFKC", opened if opened.strip() else text).casefold()
    # Casefolding can undo the normal form ("ǰ"), so a second pass makes the whole idempotent.
    text = unicodedata.normalize("NFKC", text).strip()
    bare = text
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), _APOSTROPHE.sub("", text))
    text = re.sub(r"(?<=\d)\s*%", " percent ", text)
    text = _ARTICLE_BEFORE_LETTER.sub("", text)
    # A hyphen is a minus only where a number can begin; elsewhere it parts words.
    text = _DASH.sub(" ", _CHARGE.sub("\\1\0", _MINUS.sub("\0", text))).replace("\0", "-")
    words = _join_initials(_TOKEN.findall(text))
    kept = [word for word in words[:-1] if word not in _ARTICLES] + words[-1:]
    return kept or [part for part in bare.split() if part]


def normalise(text: str) -> str:
    """:func:`tokens` joined by blanks: a canonical form for look-ups and duplicate detection.

    >>> normalise("E.H. Shepard") == normalise("E. H. Shepard") == "eh shepard"
    True
    >>> normalise("A"), normalise("The 1,000 men"), normalise("北京市")
    ('a', '1000 men', '北 京 市')
    """
    return " ".join(tokens(text))


def check_golds(golds: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: no golds, or a bare string in their place.
    """
    if isinstance(golds, str):
        raise ConfigError(f"golds must be a sequence of answers, got the string {golds[:60]!r}; pass [gold]")
    if not golds:
        raise ConfigError("golds is empty; a question needs at least one accepted answer")


def exact_match(answer: str, golds: Sequence[str]) -> bool:
    """Whether ``answer`` equals any gold after normalising. A blank answer never does.

    Raises:
        ConfigError: no golds, or a bare string in their place.
    """
    check_golds(golds)
    got = tokens(answer)
    return bool(got) and any(got == tokens(gold) for gold in golds)


def _f1(got: list[str], want: list[str]) -> float:
    # HotpotQA's rule: yes and no are right or wrong, never partly right.
    if got != want and (got in _CLOSED or want in _CLOSED):
        return 0.0
    common = sum((Counter(got) & Counter(want)).values())
    if common == 0:
        return 0.0
    if got == want:
        return 1.0
    precision, recall = common / len(got), common / len(want)
    return 2 * precision * recall / (precision + recall)


def f1(answer: str, golds: Sequence[str]) -> float:
    """The best token F1 of ``answer`` against any gold, in [0, 1] (Rajpurkar et al. 2016, over :func:`tokens`).

    Raises:
        ConfigError: no golds, or a bare string in their place.
    """
    check_golds(golds)
    got = tokens(answer)
    return max(_f1(got, tokens(gold)) for gold in golds)


def qa_equal(answer: str, golds: Sequence[str]) -> Verdict:
    """Exact match as a verdict: 1 or 0."""
    if exact_match(answer, golds):
        return Verdict(1.0, "exact match")
    return Verdict(0.0, "no accepted answer matches" if answer.strip() else "empty answer")


def qa_f1(answer: str, golds: Sequence[str]) -> Verdict:
    """Token F1 as a verdict: a partial score in [0, 1]."""
    return Verdict(min(1.0, f1(answer, golds)), "token F1")
