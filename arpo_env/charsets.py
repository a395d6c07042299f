"""From the bytes that a server sent to text: which of the charsets that are named, or likely, it is written in."""

from __future__ import annotations

import codecs
import re

_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
#: Charsets of web pages. Python knows others that are no charsets (``idna``, ``punycode``: quadratic time).
_CHARSETS = re.compile(
    r"ascii|utf-(?:8|16(?:-[bl]e)?)|iso8859-\d+|cp\d+|koi8-[rtu]|mac-\w+|big5(?:hkscs)?|gb(?:2312|k|18030)|hz"
    r"|euc_\w+|shift_jis\w*|iso2022_\w+|johab|tis-620"
)
#: A charset is believed when this many characters beyond ASCII decode for each one that does not.
_RIGHT_PER_WRONG = 10


def decode(body: bytes, declared: str) -> str:
    """``body`` as text: by its byte order mark, the header's charset, the page's own, UTF-8, Windows-1252.

    The first that fits is taken; where none does, the one that fits best, with U+FFFD for what is undecodable.
    """
    candidates = [name for mark, name in _BOMS if body.startswith(mark)]
    meta = _META.search(body[:4096])
    for label in (declared, meta[1].decode("ascii", "replace") if meta else "", "utf-8", "cp1252"):
        # The web says Latin-1 and means Windows-1252.
        name = _charset(label)
        candidates.append("cp1252" if name in ("iso8859-1", "ascii") else name)
    best, least = "", len(body) + 1
    for name in dict.fromkeys(filter(None, candidates)):
        text = body.decode(name, "replace")
        wrong = text.count("\ufffd")
        if not wrong or len(text) - len(text.encode("ascii", "ignore")) - wrong >= _RIGHT_PER_WRONG * wrong:
            return text
        if wrong < least:
            best, least = text, wrong
    return best


def _charset(label: str) -> str:
    try:
        name = codecs.lookup(label.strip()).name if label.isascii() and label else ""
    except (LookupError, ValueError):
        return ""
    return name if _CHARSETS.fullmatch(name) else ""
