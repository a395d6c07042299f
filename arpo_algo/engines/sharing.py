"""Which running sequences read their common prefix together.

Branches of a tree hold the same keys and values for all that they share, and a decoding step spends most of its
attention on reading them. Read once for all branches, one slot's prefix is one product instead of many small ones.
In float32 nothing else changes. In bfloat16 attention is then a sum of two rounded products, and log-probs differ from
the learner's by the noise of the format, where they otherwise agree bit by bit most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from arpo_algo.cacheattention import Shared

#: What reading a group on its own costs, in tokens read: ten more operations a layer. Measured on a CPU, where eight
#: sequences with a prompt of 256 tokens break even.
OVERHEAD = 2048


def shared_prefixes(sequences: Sequence[list[int]], overhead: int = OVERHEAD) -> list[Shared]:
    """Groups with a common prefix that save reading.

    A group of r sequences whose common prefix is P saves (r − 1)·P tokens for ``overhead``. Sequences are sorted, and
    of all ways to cut that order into groups the one that saves most is found by dynamic programming over the cuts,
    quadratic in the number of sequences at worst.

    Args:
        sequences: token ids, each with at least one; the last token of each is never shared, as it is being computed.

    Returns:
        The groups of two or more.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    common = [common_prefix(sequences[a], sequences[b]) for a, b in pairwise(order)]
    saved = [0] * (len(order) + 1)  # by the best partition of the first n
    first = list(range(-1, len(order)))  # where the last group of that partition begins
    lengths = [0] * (len(order) + 1)  # its prefix
    for end in range(1, len(order) + 1):
        saved[end], first[end] = saved[end - 1], end - 1
        prefix = len(sequences[order[end - 1]]) - 1
        for begin in range(end - 2, -1, -1):
            prefix = min(prefix, common[begin], len(sequences[order[begin]]) - 1)
            if prefix == 0:
                break
            gain = saved[begin] + (end - begin - 1) * prefix - overhead
            if gain > saved[end]:
                saved[end], first[end], lengths[end] = gain, begin, prefix
    groups: list[Shared] = []
    end = len(order)
    while end > 0:
        begin = first[end]
        if end - begin > 1:
            groups.append(Shared(tuple(sorted(order[begin:end])), lengths[end]))
        end = begin
    return groups


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens two lists begin with alike; bisection over slices compares at C speed."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
