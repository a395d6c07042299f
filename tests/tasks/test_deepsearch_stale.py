"""Outdated pages: two versions under one title that contradict each other, told apart by their date alone."""

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import arpo_env  # noqa: F401 (registers the environments)
from arpo_env.errors import ConfigError
from arpo_env.protocol import FinalAnswer, parse, render_result
from arpo_env.search.storage import MANIFEST
from arpo_env.tasks.base import Expert, Task
from arpo_env.tasks.deepsearch import DeepSearchFamily, World, WorldSpec
from arpo_env.tasks.deepsearch.expert import Slip, demonstrate, draw_slip
from arpo_env.tasks.deepsearch.schema import CHANGING, KINDS, RELATIONS, RELATIONS_OF, read_alias, read_date, read_facts
from arpo_env.tasks.deepsearch.world import OLD, Entity
from arpo_env.tools.search import SearchTool

FAMILY = DeepSearchFamily(stale=0.6, aliases=0.3, arithmetic=0.0)
WORLD = FAMILY.world("test")


def answer_of(family: DeepSearchFamily, task: Task, demo: Expert) -> str:
    session = SearchTool(family.backend("test"), chars=family.snippet_chars).open(0)
    turn = next(demo)
    while not isinstance(action := parse(turn), FinalAnswer):
        turn = demo.send(render_result(session.call(action.argument).text))  # type: ignore[union-attr]
    return str(action.boxed)


@pytest.mark.parametrize("stale", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("pages", [100, 101, 999, 5000])
def test_counts_add_up_and_nobody_has_two_outdated_pages(pages: int, stale: float) -> None:
    world = World(WorldSpec(pages=pages, stale=stale, distractors=1.0))
    assert sum(world.counts.values()) == len(world) == pages
    changing = [Entity(kind, n) for kind in KINDS if kind != "film" for n in range(world.counts[kind])]
    assert world.counts[OLD] == pytest.approx(stale * len(changing), abs=stale * 8 + 2)
    subjects = [world.subject(Entity(OLD, n)) for n in range(world.counts[OLD])]
    assert len(set(subjects)) == len(subjects)
    assert {s for s in changing if world.outdated(s) is not None} == set(subjects)
    assert all(world.outdated(s) == Entity(OLD, n) for n, s in enumerate(subjects))
    assert sorted(page.id for page in world) == sorted(
        f"{kind}:{n}" for kind, count in world.counts.items() for n in range(count)
    )


def test_an_outdated_page_contradicts_the_current_one_on_all_that_changes() -> None:
    for number in range(WORLD.counts[OLD]):
        old = Entity(OLD, number)
        now = WORLD.subject(old)
        before, after = WORLD.page(old), WORLD.page(now)
        assert before.title == after.title
        assert before.url != after.url
        assert read_alias(before.text) == read_alias(after.text) == WORLD.alias(now)
        assert 1 <= read_date(after.text) - read_date(before.text) <= 40
        assert (read_date(before.text), read_date(after.text)) == (WORLD.date(old), WORLD.date(now))
        was, states = read_facts(before.text), read_facts(after.text)
        assert {key for key in states if was[key] != states[key]} == {
            relation.id for relation in RELATIONS_OF[now.kind] if relation.id in CHANGING
        }
        assert after.title not in (was.get("person.spouse"), was.get("city.twin"))
        assert max(len(before.text), len(after.text)) <= FAMILY.snippet_chars


def test_neither_place_nor_rank_gives_the_outdated_page_away() -> None:
    places = {page.id: place for place, page in enumerate(WORLD)}
    pairs = [(f"{OLD}:{n}", WORLD.subject(Entity(OLD, n)).id) for n in range(WORLD.counts[OLD])]
    assert np.mean([places[old] < places[now] for old, now in pairs]) == pytest.approx(0.5, abs=0.1)
    backend, first = FAMILY.backend("test"), []
    for old, _ in pairs:
        page = WORLD[places[old]]
        hits = backend.search(page.title, 3)
        assert sum(hit.title == page.title for hit in hits) == 2
        first.append(hits[0].url == page.url)
    assert np.mean(first) == pytest.approx(0.5, abs=0.1)


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="stale must lie in"):
        DeepSearchFamily(stale=1.5)


def test_questions_ask_for_the_current_value_and_say_so() -> None:
    tasks = [FAMILY.task(0, "test", i) for i in range(200)]
    assert all(re.search(r"newest page|Outdated pages", task.question) for task in tasks)
    for task in tasks:
        steps = [step for chain in task.meta["chains"] for step in chain["steps"]]
        entities = [Entity(e.split(":")[0], int(e.split(":")[1])) for e, _ in steps]
        contested = [
            relation in CHANGING and WORLD.outdated(entity) is not None
            for entity, (_, relation) in zip(entities, steps, strict=True)
        ]
        assert task.meta["contested"] == sum(contested)
        value = WORLD.value(entities[-1], RELATIONS[steps[-1][1]])
        assert task.answer == (WORLD.name(value) if isinstance(value, Entity) else str(value))
    assert np.mean([task.meta["contested"] > 0 for task in tasks]) > 0.3


def test_the_expert_goes_by_the_date_and_who_does_not_is_wrong() -> None:
    wrong = []
    for index in range(150):
        task = FAMILY.task(0, "test", index)
        assert FAMILY.verify(task, answer_of(FAMILY, task, FAMILY.expert(task))).score == 1.0, task
        if task.meta["contested"]:
            slip = Slip("stale", 0, np.random.default_rng(index))
            wrong.append(FAMILY.verify(task, answer_of(FAMILY, task, demonstrate(task, slip))).score)
            assert slip.made
    assert len(wrong) > 40
    assert np.mean(wrong) <= 0.05
    drawn = {draw_slip(FAMILY.task(1, "train", i), np.random.default_rng(i)).kind for i in range(100)}
    assert "stale" in drawn


def test_dates_are_read_only_where_they_stand_in_front() -> None:
    assert [read_date(text) for text in ("As of 1987. City.", "Written in 2003.", "City. As of 1987.", "")] == [
        1987,
        2003,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("family", "pages", "tasks"),
    [
        (DeepSearchFamily(), "bd362817b92dd6f9", "0f1c9e90f61dd892"),
        # Its options are part of its name since they make other tasks, and the name seeds the stream of tasks.
        (DeepSearchFamily.easy(pages=300), "b3de362c9669aff5", "764153e8d743b13b"),
    ],
    ids=["default", "easy"],
)
def test_without_the_option_nothing_changed(family: DeepSearchFamily, pages: str, tasks: str) -> None:
    """Pages and tasks, byte for byte: recorded runs and the demo rest on them."""
    splits = ("train", "validation", "test")
    written = "".join(repr(page) for split in splits for page in family.world(split))
    asked = "".join(json.dumps(asdict(family.task(3, split, index))) for split in splits for index in range(60))
    assert [hashlib.sha256(text.encode()).hexdigest()[:16] for text in (written, asked)] == [pages, tasks]


# ---------------------------------------------------------------------- indexes on disk, environments


def test_an_index_folder_is_built_once_and_mapped(tmp_path: Path) -> None:
    family = DeepSearchFamily(pages=150, world_seed=5, index_dir=tmp_path)
    index = family.backend("train")
    plain = DeepSearchFamily(pages=150, world_seed=5)
    assert index is family.backend("train") is not plain.backend("train")
    question = family.task(0, "train", 0).question
    assert index.search(question, 3) == plain.backend("train").search(question, 3)
    (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())
    before = (folder / MANIFEST).stat().st_mtime_ns
    from arpo_env.tasks.deepsearch import family as module

    module._indexes.clear()
    assert family.backend("train") is not index
    assert (folder / MANIFEST).stat().st_mtime_ns == before
    # What is there is another world's: built again.
    other = DeepSearchFamily(pages=150, world_seed=6).backend("train")
    other.save(folder)  # type: ignore[attr-defined]
    module._indexes.clear()
    assert family.backend("train").fingerprint == index.fingerprint  # type: ignore[attr-defined]


def test_a_clone_shares_the_index_and_keeps_the_law(tmp_path: Path) -> None:
    env = gymnasium.make(
        "ARPO-DeepSearch-v0", pages=150, stale=0.5, arithmetic=0.0, tools=("search",), index_dir=str(tmp_path)
    ).unwrapped
    env.reset(seed=0)
    twin = env.clone()
    backends = [e._toolbox("train")["search"].backend for e in (env, twin)]
    assert backends[0] is backends[1]
    turn = "<think>Look.</think><search>river</search>"
    assert env.step(turn) == twin.step(turn)
    assert env.get_state() == twin.get_state()
    twin.step("<think>Look.</think><search>city</search>")
    assert env.get_state() != twin.get_state()
    env.close()
    twin.close()
