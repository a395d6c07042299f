"""Templates of functions over single numbers; see ``problem.py``."""

from __future__ import annotations

from arpo_env.tasks.code.problem import Draw, Problem, code, wrong


def digit_sum(d: Draw) -> Problem:
    base, k = d.between(3, 16), d.between(2, 9)
    source = code(f"""
        def digit_sum(n):
            total = 0
            while n > 0:
                total += n % {base}
                n //= {base}
            return total * {k}
    """)
    return Problem(
        "digit_sum",
        "digit_sum(n)",
        f"returns {k} times the sum of the digits of the non-negative integer n written in base {base}",
        source,
        wrong(source, (f" * {k}", ""), (f"//= {base}", f"//= {base + 1}"), ("n > 0", f"n >= {base}")),
        (*((d.between(10**3, 10**7),) for _ in range(6)), (0,), (base,)),
    )


def to_base(d: Draw) -> Problem:
    base, width = d.between(3, 9), d.between(4, 12)
    source = code(f"""
        def to_base(n):
            digits = ""
            while n > 0:
                digits = str(n % {base}) + digits
                n //= {base}
            return digits.rjust({width}, "0")
    """)
    return Problem(
        "to_base",
        "to_base(n)",
        f"returns the non-negative integer n written in base {base} as a string, with zeros in "
        f"front up to at least {width} characters",
        source,
        wrong(
            source,
            (f"rjust({width}", f"rjust({width - 1}"),
            ("rjust", "ljust"),
            (f"str(n % {base}) + digits", f"digits + str(n % {base})"),
        ),
        (*((d.between(1, base ** (width - 1)),) for _ in range(6)), (0,), (base**width,)),
    )


def sequence(d: Draw) -> Problem:
    p, q, u, v, m = d.between(0, 9), d.between(1, 9), d.between(1, 9), d.between(1, 9), d.between(50, 999)
    source = code(f"""
        def sequence(n):
            a, b = {p}, {q}
            for _ in range(n):
                a, b = b, ({u} * b + {v} * a) % {m}
            return a
    """)
    return Problem(
        "sequence",
        "sequence(n)",
        f"returns the term s(n) of the sequence with s(0) = {p}, s(1) = {q} and s(n) = ({u} * "
        f"s(n-1) + {v} * s(n-2)) mod {m}",
        source,
        wrong(source, ("range(n)", "range(n - 1)"), (f" % {m}", ""), (f"{u} * b + {v} * a", f"{u} * a + {v} * b + 1")),
        (*((d.between(6, 40),) for _ in range(6)), (0,), (1,)),
    )
