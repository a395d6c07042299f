"""The table of templates; adding one is writing a function ``(Draw) -> Problem`` and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from arpo_env.tasks.code import on_lists, on_numbers, on_text
from arpo_env.tasks.code.problem import Draw, Problem

_ALL: tuple[Callable[[Draw], Problem], ...] = (
    on_lists.sum_multiples,
    on_lists.every_nth,
    on_lists.clamp,
    on_lists.transform,
    on_lists.rotate,
    on_lists.chunk_sums,
    on_lists.longest_run,
    on_lists.count_pairs,
    on_lists.grid_sum,
    on_text.count_letters,
    on_text.shift_letters,
    on_text.long_words,
    on_text.mask,
    on_text.top_letter,
    on_text.group_words,
    on_numbers.digit_sum,
    on_numbers.to_base,
    on_numbers.sequence,
)

#: Name -> template. The name is also that of the function to write.
TEMPLATES: Mapping[str, Callable[[Draw], Problem]] = {template.__name__: template for template in _ALL}
