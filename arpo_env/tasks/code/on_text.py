"""Templates of functions over text; see ``problem.py``."""

from __future__ import annotations

from arpo_env.tasks.code.problem import Draw, Problem, code, ordinal, wrong


def count_letters(d: Draw) -> Problem:
    letters = d.letters(d.between(3, 6))
    source = code(f"""
        def count_letters(text):
            return sum(1 for c in text.lower() if c in {letters!r})
    """)
    mixed = [d.text() + " " + d.word(3, 9, letters + letters.upper()) for _ in range(6)]
    return Problem(
        "count_letters",
        "count_letters(text)",
        f"returns how many characters of text are one of the letters {', '.join(letters)}, in lower or upper case",
        source,
        wrong(
            source,
            (".lower()", ""),
            (repr(letters), repr(letters[:-1])),
            ("1 for c in text.lower()", "1 for c in set(text.lower())"),
        ),
        (*((text,) for text in mixed), ("",), (letters.upper() * 2,)),
    )


def shift_letters(d: Draw) -> Problem:
    k, kept = d.between(2, 24), d.pick("abcdefghijklmnopqrstuvwxyz")
    source = code(f"""
        def shift_letters(text):
            out = ""
            for c in text:
                if "a" <= c <= "z" and c != {kept!r}:
                    c = chr((ord(c) - 97 + {k}) % 26 + 97)
                out += c
            return out
    """)
    return Problem(
        "shift_letters",
        "shift_letters(text)",
        f"moves every lower-case letter a-z of text but {kept} {k} places on in the alphabet (after z comes a) "
        f"and leaves {kept} and all other characters alone",
        source,
        wrong(
            source,
            (f"97 + {k}", f"97 + {k - 1}"),
            (" % 26", ""),
            (f"97 + {k}", f"97 - {k}"),
            (f" and c != {kept!r}", ""),
        ),
        (*((d.text(2, 4) + kept + d.pick("!?.9A"),) for _ in range(6)), ("",), ("xyz ABC",)),
    )


def long_words(d: Draw) -> Problem:
    k, letter = d.between(2, 7), d.pick("abcdefghilmnoprstuvy")
    source = code(f"""
        def long_words(text):
            return [w for w in text.split() if len(w) > {k} and {letter!r} not in w]
    """)
    return Problem(
        "long_words",
        "long_words(text)",
        f"returns the list of the words of text (separated by blanks) that have more than {k} "
        f"letters and do not contain the letter {letter}",
        source,
        wrong(source, (f"> {k}", f">= {k}"), ("not in w", "in w"), (f" and {letter!r} not in w", "")),
        (
            *(
                (f"{d.text(4, 7)} {d.word(k, k, 'bcdfgh')} {letter * (k + 1)} {d.word(k + 1, k + 3, 'bcdfgh')}",)
                for _ in range(6)
            ),
            ("",),
            (letter * 9,),
        ),
    )


def mask(d: Draw) -> Problem:
    k, char = d.between(2, 8), d.pick("*#_-+=@%&$~!?^")
    source = code(f"""
        def mask(text):
            return "".join({char!r} if (i + 1) % {k} == 0 else c for i, c in enumerate(text))
    """)
    return Problem(
        "mask",
        "mask(text)",
        f"replaces every {ordinal(k)} character of text (the {ordinal(k)}, the {ordinal(2 * k)} "
        f"and so on, counted from 1) by {char}",
        source,
        wrong(source, ("(i + 1) %", "i %"), (f"% {k}", f"% {k + 1}"), (f"{char!r} if", "'' if")),
        (*((d.text(2, 5) + d.word(6, 9),) for _ in range(6)), ("",), ("z" * (k - 1),)),
    )


def top_letter(d: Draw) -> Problem:
    skip = d.letters(d.between(2, 4))
    source = code(f"""
        def top_letter(text):
            counts = {{}}
            for c in text:
                if c.isalpha() and c not in {skip!r}:
                    counts[c] = counts.get(c, 0) + 1
            return min(counts, key=lambda c: (-counts[c], c), default="")
    """)
    return Problem(
        "top_letter",
        "top_letter(text)",
        f"returns the letter that is most frequent in the lower-case text, leaving out the letters {', '.join(skip)}; "
        "of equally frequent letters the first in the alphabet, and an empty string when there is none",
        source,
        wrong(source, ("-counts[c], c", "-counts[c]"), (f" and c not in {skip!r}", ""), ("-counts[c]", "counts[c]")),
        (*((skip[0] * 9 + " " + d.text(2, 4) + " zyzyxwxw",) for _ in range(6)), ("",), (skip * 3 + "zyyz",)),
    )


def group_words(d: Draw) -> Problem:
    k = d.between(2, 6)
    prefix = d.word(1, 3)
    source = code(f"""
        def group_words(words):
            groups = {{}}
            for w in words:
                groups.setdefault({prefix!r} + str(len(w) % {k}), []).append(w)
            return groups
    """)
    return Problem(
        "group_words",
        "group_words(words)",
        f"returns a dict that maps the key '{prefix}' + str(r) to the list of those words of the list words, in order, "
        f"whose length leaves remainder r when divided by {k}; keys without words are left out",
        source,
        wrong(source, (f"{prefix!r} + ", ""), (f"% {k}", f"% {k + 1}"), (".append(w)", ".insert(0, w)")),
        (*(([d.word(1, 9) for _ in range(d.between(6, 9))],) for _ in range(6)), ([],), ([""],)),
    )
