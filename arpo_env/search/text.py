"""Text -> search terms, for indexing and for queries alike.

Unicode-aware and without a language model: letters and digits of any script, compatibility forms folded
(``Ｂｒｉｍ`` = ``brim``), Latin, Greek and Cyrillic accents dropped (``Łódź`` keeps its Ł but ``José`` = ``jose``).
Scripts written without blanks (Han, kana, Hangul runs) become overlapping character bigrams, the usual choice
of search engines where no segmenter is at hand; a run of one character stays as it is. No stemming and no stop
words: BM25's idf already discounts common words, and a stemmer would bind the index to one language.
"""

from __future__ import annotations

import re
import unicodedata

_ASCII = re.compile(r"[a-z0-9]+")
#: Accents on Latin, Greek and Cyrillic letters after decomposition (block "Combining Diacritical Marks").
_ACCENTS = re.compile("[\u0300-\u036f]")
#: Han, Hiragana, Katakana, Hangul syllables and the iteration marks that stand among them.
_UNSPACED = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]+"
)


def _fold(text: str) -> str:
    """Caseless, compatibility-folded, accent-free text (idempotent)."""
    folded = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    # NFKC_Casefold takes two rounds: folding can leave a decomposable character ("ǰ" style expansions).
    for _ in range(2):
        folded = _ACCENTS.sub("", unicodedata.normalize("NFKD", folded.casefold()))
    return unicodedata.normalize("NFKC", folded)


def _words(text: str) -> list[str]:
    """Maximal runs of letters, digits and the marks that belong to them (``re`` has no such class)."""
    chars = [char if unicodedata.category(char)[0] in "LNM" else " " for char in text]
    return "".join(chars).split()


def terms(text: str) -> list[str]:
    """The search terms of ``text`` in order; linear time, never raises.

    >>> terms("The founder of Brim-Co, José (1932)")
    ['the', 'founder', 'of', 'brim', 'co', 'jose', '1932']
    >>> terms("北京市 Beijing")
    ['北京', '京市', 'beijing']
    """
    if text.isascii():
        return _ASCII.findall(text.lower())
    out: list[str] = []
    for word in _words(_fold(text)):
        end = 0
        for run in _UNSPACED.finditer(word):
            if run.start() > end:
                out.append(word[end : run.start()])
            chars = run[0]
            out += [chars] if len(chars) == 1 else [chars[i : i + 2] for i in range(len(chars) - 1)]
            end = run.end()
        if end < len(word):
            out.append(word[end:])
    return out
