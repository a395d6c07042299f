"""Training sets, held against the evaluation suites before anything is trained on them.

The published validation file holds test items of AIME24, MATH500 and Bamboogle; such a row is refused unless the user
says otherwise, and counted either way.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from arpo_env.errors import ConfigError
from arpo_env.suites.suite import Generated, Suite
from arpo_env.suites.table import SUITES
from arpo_env.tasks.dataset import DatasetFamily
from arpo_env.tasks.files import FileFamily
from arpo_env.tasks.overlap import OverlapIndex


def evaluation_index(suites: Sequence[Suite] | None = None, data_dir: str | Path | None = None) -> OverlapIndex:
    """The questions of ``suites``, ready to be asked about; default all finite ones that are on this machine.

    Generated suites are left out: their families part training from test by themselves.

    Raises:
        ConfigError: a suite that was named is not here.
    """
    finite = [one for one in (SUITES if suites is None else suites) if not isinstance(one.source, Generated)]
    if suites is None:
        finite = [one for one in finite if one.missing(data_dir) is None]
    return OverlapIndex(_questions(finite, data_dir))


def _questions(suites: Iterable[Suite], data_dir: str | Path | None) -> Iterator[tuple[str, str]]:
    for suite in suites:
        family = suite.family(data_dir, on_broken="skip")
        assert isinstance(family, FileFamily)
        yield from ((suite.name, question) for question in family.questions("test"))


def training_set(
    path: str | Path,
    *,
    name: str,
    against: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    on_broken: Literal["error", "skip"] = "skip",
    on_overlap: Literal["error", "drop", "keep"] = "error",
) -> DatasetFamily:
    """The authors' training Parquet layout: faults repaired or dropped, overlap with evaluation refused; all counted.

    Args:
        path: the Parquet file.
        name: first part of the task ids.
        against: names of suites that must not be met in training; default every finite suite on this machine (the
            family's ``report`` says which those were).
        data_dir: where the suites lie, see :meth:`arpo_env.suites.suite.Suite.family`.
        on_broken: what cannot be repaired is dropped (default), or stops.
        on_overlap: ``error`` refuses the file, ``drop`` leaves such rows out, ``keep`` only counts them.

    Raises:
        ConfigError: overlap under ``on_overlap="error"``, a suite that is not here, or an unreadable file.
    """
    from arpo_env.suites import suite

    if isinstance(against, str):
        raise ConfigError(
            f"against must be a sequence of suite names, got the string {against!r}: write ({against!r},)"
        )
    index = evaluation_index(None if against is None else [suite(one) for one in against], data_dir)
    if against is None and not index.suites:
        warnings.warn(
            f"{path}: no evaluation suite is on this machine, so its questions were held against nothing; "
            "give data_dir (docs/suites.md), or against=() if that is meant",
            stacklevel=2,
        )
    return DatasetFamily.published_training(
        path, name=name, on_broken=on_broken, evaluation=index, on_overlap=on_overlap
    )
