"""Templates of functions over lists of numbers; see ``problem.py``."""

from __future__ import annotations

from arpo_env.tasks.code.problem import Draw, Problem, code, ordinal, wrong


def sum_multiples(d: Draw) -> Problem:
    k, m = d.between(2, 12), d.between(13, 40)
    source = code(f"""
        def sum_multiples(nums):
            return sum(x for x in nums if x % {k} == 0 and x % {m} != 0)
    """)
    return Problem(
        "sum_multiples",
        "sum_multiples(nums)",
        f"returns the sum of the integers in the list nums that are divisible by {k} but not by {m}",
        source,
        wrong(source, (f" and x % {m} != 0", ""), (f"% {k} ==", f"% {k + 1} =="), ("and", "or")),
        (
            *((([k * d.between(-9, 9) for _ in range(4)] + d.ints(-90, 90, 2, 5) + [k * m]),) for _ in range(6)),
            ([],),
            ([k * m, k, 1],),
        ),
    )


def every_nth(d: Draw) -> Problem:
    n, start = d.between(2, 9), d.between(0, 19)
    source = code(f"""
        def every_nth(items):
            return items[{start}::{n}]
    """)
    return Problem(
        "every_nth",
        "every_nth(items)",
        f"returns a list of every {ordinal(n)} element of the list items, beginning with the one "
        f"at index {start} (counted from 0)",
        source,
        wrong(
            source, (f"[{start}::", f"[{start + 1}::"), (f"::{n}", f"::{n + 1}"), (f"[{start}::{n}]", f"[{start}:{n}]")
        ),
        (*((d.ints(-99, 99, start + n + 4, start + n + 12),) for _ in range(6)), ([],), ([1],)),
    )


def clamp(d: Draw) -> Problem:
    low = d.between(-40, 0)
    high = low + d.between(5, 60)
    source = code(f"""
        def clamp(nums):
            return [min(max(x, {low}), {high}) for x in nums]
    """)
    return Problem(
        "clamp",
        "clamp(nums)",
        f"returns the list nums with every number below {low} replaced by {low} and every number "
        f"above {high} replaced by {high}",
        source,
        wrong(
            source,
            (f"min(max(x, {low}), {high})", f"max(x, {low})"),
            (f", {high})", f", {high - 1})"),
            (" for x in nums", f" for x in nums if {low} <= x <= {high}"),
        ),
        (*(([*d.ints(low - 50, high + 50, 4, 10), low - 1, high + 1],) for _ in range(6)), ([],), ([low, high],)),
    )


def transform(d: Draw) -> Problem:
    a, b, t = d.between(2, 9), d.between(1, 30), d.between(-10, 20)
    source = code(f"""
        def transform(nums):
            return [{a} * x + {b} for x in nums if x > {t}]
    """)
    return Problem(
        "transform",
        "transform(nums)",
        f"drops all numbers of the list nums that are not greater than {t} and maps each other x "
        f"to {a} * x + {b}, keeping the order",
        source,
        wrong(source, (f"x > {t}", f"x >= {t}"), (f"x + {b}", f"x - {b}"), (f"{a} * x + {b}", f"{a} * (x + {b})")),
        (*(([*d.ints(t - 25, t + 25, 4, 9), t, t + 1],) for _ in range(6)), ([],), ([t - 1],)),
    )


def rotate(d: Draw) -> Problem:
    k = d.between(2, 99)
    source = code(f"""
        def rotate(items):
            if not items:
                return []
            k = {k} % len(items)
            return items[k:] + items[:k]
    """)
    return Problem(
        "rotate",
        "rotate(items)",
        f"returns the list items rotated {k} places to the left (the first element goes to the end, {k} times)",
        source,
        wrong(
            source,
            ("items[k:] + items[:k]", "items[-k:] + items[:-k]"),
            (f"k = {k} % len(items)", f"k = {k}"),
            (f"{k} % len", f"{k - 1} % len"),
        ),
        (*((d.ints(-99, 99, 5, 11),) for _ in range(6)), ([],), ([7],)),
    )


def chunk_sums(d: Draw) -> Problem:
    k, c = d.between(2, 5), d.between(1, 50)
    source = code(f"""
        def chunk_sums(nums):
            return [sum(nums[i:i + {k}]) + {c} for i in range(0, len(nums), {k})]
    """)
    return Problem(
        "chunk_sums",
        "chunk_sums(nums)",
        f"cuts the list nums into pieces of {k} (the last may be shorter) and returns the list of "
        f"the sums of the pieces, each plus {c}",
        source,
        wrong(source, ("len(nums)", f"len(nums) - {k} + 1"), (f"i + {k}]", f"i + {k - 1}]"), (f") + {c}", ")")),
        (*(([*d.ints(-40, 40, k + 1, 3 * k + 1), d.between(1, 9)],) for _ in range(6)), ([],), ([5],)),
    )


def longest_run(d: Draw) -> Problem:
    t, k = d.between(-10, 20), d.between(2, 9)
    source = code(f"""
        def longest_run(nums):
            best = run = 0
            for x in nums:
                run = run + 1 if x >= {t} else 0
                best = max(best, run)
            return best * {k}
    """)
    return Problem(
        "longest_run",
        "longest_run(nums)",
        f"returns {k} times the length of the longest run of consecutive elements of the list "
        f"nums that are all at least {t}",
        source,
        wrong(source, (f">= {t}", f"> {t}"), ("best = max(best, run)", "best = run"), ("else 0", "else run")),
        (
            *(([*d.ints(t - 9, t + 15, 3, 7), t, t, t + 3, t - 1, *d.ints(t - 9, t + 15, 1, 4)],) for _ in range(6)),
            ([],),
            ([t, t, t, t - 1],),
        ),
    )


def count_pairs(d: Draw) -> Problem:
    k = d.between(3, 13)
    r = d.between(0, k - 1)
    source = code(f"""
        def count_pairs(nums):
            return sum(
                1
                for i in range(len(nums))
                for j in range(i + 1, len(nums))
                if (nums[i] + nums[j]) % {k} == {r}
            )
    """)
    return Problem(
        "count_pairs",
        "count_pairs(nums)",
        f"returns the number of pairs i < j for which nums[i] + nums[j] leaves remainder {r} when divided by {k}",
        source,
        wrong(source, ("range(i + 1,", "range(i,"), ("range(i + 1,", "range("), (f"== {r}", f"== {(r + 1) % k}")),
        (*((d.ints(0, 60, 6, 11),) for _ in range(6)), ([],), ([r, 0, k, r, r],)),
    )


def grid_sum(d: Draw) -> Problem:
    p, q, m = d.between(1, 5), d.between(1, 5), d.between(2, 5)
    source = code(f"""
        def grid_sum(grid):
            return sum(
                value
                for i, row in enumerate(grid)
                for j, value in enumerate(row)
                if ({p} * i + {q} * j) % {m} == 0
            )
    """)
    return Problem(
        "grid_sum",
        "grid_sum(grid)",
        f"returns the sum of those entries grid[i][j] of a list of rows for which {p} * i + {q} * "
        f"j is divisible by {m} (i and j from 0)",
        source,
        wrong(
            source,
            ("enumerate(grid)", "enumerate(grid, 1)"),
            ("== 0", "== 1"),
            ("enumerate(row)", "enumerate(row[1:])"),
        ),
        (
            *(([[d.between(-20, 20) for _ in range(4)] for _ in range(d.between(2, 4))],) for _ in range(6)),
            ([],),
            ([[1, 2, 3, 4], [5, 6, 7, 8]],),
        ),
    )
