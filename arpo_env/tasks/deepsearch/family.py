"""Deep search as a task family: questions over a generated encyclopaedia, answerable only by searching it.

Training, validation and test questions are asked about different worlds whose names have nothing in common, so
held-out success measures how well a policy searches and reads, never what it remembers.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import threading
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from arpo_env.errors import ConfigError, unknown
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.qa import qa_equal
from arpo_env.search.base import SearchBackend
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.storage import MANIFEST
from arpo_env.tasks.base import SPLITS, Expert, Task, TaskFamily, task_rng
from arpo_env.tasks.deepsearch.expert import SLIPS, demonstrate, draw_slip
from arpo_env.tasks.deepsearch.questions import KIND_NAMES, compute, look_up
from arpo_env.tasks.deepsearch.world import World, WorldSpec

MAX_HOPS = 4
#: A whole number as people write it, with the unit a question may have asked for.
_NUMBER = re.compile(
    r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\s*(?:years?|km|kilomet(?:er|re)s?|people|students?))?\.?"
)

_lock = threading.RLock()
_worlds: dict[WorldSpec, World] = {}
_indexes: dict[tuple[WorldSpec, Path | None], BM25Index] = {}


def world_of(spec: WorldSpec) -> World:
    """The world of ``spec``, made once a process and shared (worlds are read-only)."""
    with _lock:
        if spec not in _worlds:
            _worlds[spec] = World(spec)
        return _worlds[spec]


def index_of(spec: WorldSpec, folder: Path | None = None) -> BM25Index:
    """The search index of ``spec``'s world, built once a process (with a ``folder``: once) and shared."""
    with _lock:
        key = (spec, folder)
        if key not in _indexes:
            world = world_of(spec)
            _indexes[key] = BM25Index.build(world) if folder is None else _stored_index(world, folder)
        return _indexes[key]


def _stored_index(world: World, folder: Path) -> BM25Index:
    """The index of ``world`` in ``folder``, which may hold those of other worlds; one process builds, others wait."""
    name = f"{world.spec.split}-{hashlib.sha256(repr(world.spec).encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / name / MANIFEST).is_file():
            index = BM25Index.load(folder / name)
            # Another release may draw another world for the same spec.
            some = range(0, len(world), max(1, len(world) // 16))
            if len(index) == len(world) and all(index.pages[i] == world[i] for i in some):
                return index
        return BM25Index.build(iter(world), folder / name)


#: The family's name with its default options; also names the random stream that questions are drawn from.
_STREAM = "deepsearch"


class DeepSearchFamily(TaskFamily):
    """Generated multi-hop questions (see ``docs/deepsearch.md`` for measured figures).

    Args:
        pages: pages of each split's world, at least 100.
        world_seed: which worlds; splits of one seed, and of different seeds, never share a name across splits.
        hops: the numbers of look-ups that occur (1..4), drawn with equal odds.
        kinds: the kinds of pages that questions lead through (``person``, ``city`` …), these two among
            them; default all. The world keeps its other pages.
        arithmetic: 0..1, the share of questions that compute with two numbers found on different pages.
        distractors: 0..1, near-duplicate names and pages that mention an entity without its facts.
        aliases: 0..1, the share of entities with a second name, which questions may use.
        paraphrase: 0..1, the share of wordings (questions and pages) that may differ from the first one.
        stale: 0..1, the share of entities with an outdated version of their page beside the current one; questions
            then say that the newest page counts.
        slips: the mistakes that flawed demonstrators make (:data:`~.expert.SLIPS`), ``attribute`` among them.
        index_dir: keep search indexes in this folder, built once and mapped by all processes (for large worlds);
            default: in memory.

    Raises:
        ConfigError: a value out of range, or options that contradict each other.
    """

    tools = ("search", "python")

    def __init__(
        self,
        *,
        pages: int = 1000,
        world_seed: int = 0,
        hops: Sequence[int] = (1, 2, 3, 4),
        kinds: Sequence[str] = KIND_NAMES,
        arithmetic: float = 0.2,
        distractors: float = 0.5,
        aliases: float = 0.1,
        paraphrase: float = 1.0,
        stale: float = 0.0,
        slips: Sequence[str] = SLIPS,
        index_dir: str | Path | None = None,
    ) -> None:
        if not isinstance(hops, Sequence) or not hops or not all(h in range(1, MAX_HOPS + 1) for h in hops):
            raise ConfigError(f"hops must name numbers from 1 to {MAX_HOPS}, e.g. (1, 2); got {hops!r}")
        self.hops = tuple(sorted(set(hops)))
        for kind in kinds:
            if kind not in KIND_NAMES:
                raise unknown("kind of page", str(kind), KIND_NAMES)
        if not {"person", "city"} <= set(kinds):
            # These two link to each other, and so carry chains of any length.
            raise ConfigError(f"kinds must hold 'person' and 'city', got {kinds!r}")
        self.kinds = tuple(kind for kind in KIND_NAMES if kind in kinds)
        for slip in slips:
            if slip not in SLIPS:
                raise unknown("slip", str(slip), SLIPS)
        if "attribute" not in slips:
            raise ConfigError(f"slips must hold 'attribute', the one that every question has room for; got {slips!r}")
        self.slips = tuple(slips)
        if not 0.0 <= arithmetic <= 1.0:
            raise ConfigError(f"arithmetic must lie in 0..1, got {arithmetic}")
        if arithmetic > 0 and self.hops == (1,):
            raise ConfigError(
                f"arithmetic={arithmetic} needs two look-ups: add 2 to hops {self.hops}, or set arithmetic=0"
            )
        if arithmetic == 1.0 and 1 in self.hops:
            raise ConfigError(f"arithmetic=1 leaves no question with one look-up: take 1 out of hops {self.hops}")
        self.arithmetic = arithmetic
        # The spec checks the rest; the other splits differ in nothing but their name.
        self._spec = WorldSpec(world_seed, pages, "train", distractors, aliases, paraphrase, stale)
        self._index_dir = None if index_dir is None else Path(index_dir)
        # Other options, other questions: an id must not name two of them.
        drawn_from = (self._spec, self.hops, self.kinds, arithmetic)
        plain = (WorldSpec(0, 1000, "train", 0.5, 0.1, 1.0, 0.0), (1, 2, 3, 4), KIND_NAMES, 0.2)
        self.name = _STREAM if drawn_from == plain else f"{_STREAM}-{zlib.crc32(repr(drawn_from).encode()):08x}"

    @classmethod
    def easy(cls, **options: Any) -> Self:
        """The preset a 135M-parameter model can learn on a laptop: one or two look-ups, plain wording.

        ``options`` override single settings.
        """
        preset = {"hops": (1, 2), "arithmetic": 0.0, "distractors": 0.3, "aliases": 0.0, "paraphrase": 0.0}
        return cls(**{**preset, **options})

    def spec(self, split: str) -> WorldSpec:
        """What decides the world of ``split``."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return replace(self._spec, split=split)

    def world(self, split: str) -> World:
        """The world that ``split``'s questions are about."""
        return world_of(self.spec(split))

    def backend(self, split: str) -> SearchBackend:
        """The search backend over ``split``'s world; built on first use, shared by the whole process."""
        return index_of(self.spec(split), self._index_dir)

    @property
    def snippet_chars(self) -> int:
        """How many characters of a page a search result should show, so that none is cut."""
        return 160 if self._spec.pages <= 20_000 and not self._spec.stale else 200

    def task(self, seed: int, split: str, index: int) -> Task:
        rng = task_rng(_STREAM, seed, split, index)
        world = self.world(split)
        arithmetic = bool(rng.random() < self.arithmetic)
        allowed = [h for h in self.hops if h > 1] if arithmetic else self.hops
        hops = allowed[int(rng.integers(len(allowed)))]
        question = (compute if arithmetic else look_up)(world, rng, hops, self.kinds)
        return Task(
            id=f"{self.name}/{split}/{seed}/{index}",
            question=question.text,
            answer=question.answer,
            meta={
                "hops": question.hops,
                "arithmetic": arithmetic,
                "operator": question.operator,
                "numeric": question.answer.isdigit(),
                "aliases": list(question.aliases),
                "chains": question.chains,
                **({"contested": question.contested} if self._spec.stale else {}),
            },
        )

    def verify(self, task: Task, answer: str) -> Verdict:
        """Numbers must be equal as integers; names must match exactly after normalising (aliases count)."""
        if task.meta["numeric"]:
            return _verify_number(task.answer, answer)
        return qa_equal(answer, [task.answer, *task.meta["aliases"]])

    def expert(self, task: Task) -> Expert:
        return demonstrate(task)

    def flawed_expert(self, task: Task, rng: np.random.Generator) -> Expert:
        return demonstrate(task, draw_slip(task, rng, self.slips))


def _verify_number(gold: str, answer: str) -> Verdict:
    text = answer.strip()
    if _NUMBER.fullmatch(text) is None:
        return Verdict(0.0, "not one whole number")
    digits = re.match(r"[+-]?[\d,]+", text)
    assert digits is not None
    if int(digits[0].replace(",", "")) == int(gold):
        return Verdict(1.0, "equal")
    return Verdict(0.0, "another number")
