"""Deep search: worlds are pure and disjoint, each question has one answer, and only searching finds it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.errors import ConfigError
from arpo_env.protocol import FinalAnswer, ToolCall, parse, render_result
from arpo_env.tasks.base import SPLITS, Expert, Task
from arpo_env.tasks.deepsearch import DeepSearchFamily, World, WorldSpec
from arpo_env.tasks.deepsearch.expert import SLIPS, demonstrate, draw_slip, read_hits
from arpo_env.tasks.deepsearch.names import CLASSES, SPACES
from arpo_env.tasks.deepsearch.schema import KINDS, RELATIONS, RELATIONS_OF, read_alias, read_facts
from arpo_env.tasks.deepsearch.world import Entity
from arpo_env.tools.search import SearchTool

FULL = DeepSearchFamily(aliases=0.3)


def drive(family: DeepSearchFamily, task: Task, demo: Expert) -> tuple[str, list[str], list[str]]:
    """Run a demonstrator through the real search tool: (boxed answer, turns, observations)."""
    session = SearchTool(family.backend(task.id.split("/")[1])).open(0)
    turns, observations = [next(demo)], []
    while True:
        action = parse(turns[-1])
        if isinstance(action, FinalAnswer):
            assert action.boxed is not None
            return action.boxed, turns, observations
        assert isinstance(action, ToolCall), turns[-1]
        if action.tool == "search":
            text = session.call(action.argument).text
        else:
            a, operator, b = re.fullmatch(r"print\((\d+) ([+-]) (\d+)\)", action.argument).groups()
            text = str(int(a) + int(b) if operator == "+" else int(a) - int(b))
        observations.append(render_result(text))
        turns.append(demo.send(observations[-1]))


def some_tasks(family: DeepSearchFamily, split: str, count: int, seeds: int = 4) -> Iterator[Task]:
    for number in range(count):
        yield family.task(number % seeds, split, number // seeds)


# ---------------------------------------------------------------------- names and worlds


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("level", [0, 1])
def test_no_two_numbers_give_one_name(kind: str, level: int) -> None:
    space = SPACES[kind]
    count = space.capacity(level) * CLASSES
    numbers = range(count) if count < 40_000 else np.random.default_rng(0).choice(count, 40_000, replace=False).tolist()
    names = {space.name(level, number) for number in numbers}
    assert len(names) == len(numbers)


def test_every_part_of_a_name_stands_in_every_split() -> None:
    space = SPACES["city"]
    for name_class in range(CLASSES):
        names = [space.name(0, n) for n in range(name_class, space.capacity(0) * CLASSES, CLASSES)]
        assert {name[:3] for name in names} == set(space.stems)
        assert {name[3:] for name in names} == set(space.endings)


def test_equal_specs_give_equal_worlds_in_another_process_too() -> None:
    spec = WorldSpec(seed=3, pages=150, aliases=0.5)
    pages = [repr(page) for page in World(spec)]
    assert pages == [repr(page) for page in World(spec)]
    code = (
        "from arpo_env.tasks.deepsearch import World, WorldSpec\n"
        "for page in World(WorldSpec(seed=3, pages=150, aliases=0.5)): print(repr(page))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == pages


@pytest.mark.parametrize("field", ["seed", "pages", "split", "distractors", "aliases", "paraphrase"])
def test_every_field_of_a_spec_matters(field: str) -> None:
    other = {"seed": 4, "pages": 151, "split": "test", "distractors": 1.0, "aliases": 0.2, "paraphrase": 0.3}[field]
    base = WorldSpec(seed=3, pages=150)
    changed = WorldSpec(**{**{"seed": 3, "pages": 150}, field: other})
    assert [*World(base)] != [*World(changed)]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**40),
    st.integers(100, 700),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_splits_share_no_name_and_titles_are_unique(
    seed: int, pages: int, distractors: float, aliases: float, paraphrase: float
) -> None:
    names: dict[str, set[str]] = {}
    for split in SPLITS:
        world = World(WorldSpec(seed, pages, split, distractors, aliases, paraphrase))
        titles = [page.title for page in world]
        second = [name for i in range(pages) if (name := world.alias(world.entity(i))) is not None]
        assert len(world) == len(titles) == pages
        names[split] = {name.casefold() for name in [*titles, *second]}
        assert len(names[split]) == len(titles) + len(second)
    assert not names["train"] & names["validation"]
    assert not names["train"] & names["test"]
    assert not names["validation"] & names["test"]


def test_worlds_of_different_seeds_share_no_name_across_splits() -> None:
    train = {page.title for page in World(WorldSpec(seed=1))}
    test = {page.title for page in World(WorldSpec(seed=2, split="test"))}
    assert not train & test


def test_a_page_states_all_its_facts_and_a_reader_gets_them_back() -> None:
    world = FULL.world("validation")
    for index, page in enumerate(world):
        entity = world.entity(index)
        expected = {}
        for relation in RELATIONS_OF.get(entity.kind, ()):
            value = world.value(entity, relation)
            expected[relation.id] = world.name(value) if isinstance(value, Entity) else str(value)
        assert read_facts(page.text) == expected
        assert read_alias(page.text) == world.alias(entity)
        assert page.title not in page.text
        # Whole pages fit into a snippet, also of the environment's own default.
        assert len(page.text) <= 160
        assert page.id == entity.id


def test_lives_are_consistent_and_spouses_agree() -> None:
    world = FULL.world("train")
    for number in range(world.counts["person"]):
        person = Entity("person", number)
        facts = {name: world.value(person, RELATIONS[f"person.{name}"]) for name in ("birth_year", "death_year")}
        assert 45 <= facts["death_year"] - facts["birth_year"] <= 85
        spouse = world.value(person, RELATIONS["person.spouse"])
        assert isinstance(spouse, Entity)
        assert spouse != person
        assert world.value(spouse, RELATIONS["person.spouse"]) == person
    for number in range(world.counts["company"]):
        company = Entity("company", number)
        founder, year = (world.value(company, RELATIONS[f"company.{name}"]) for name in ("founder", "founded"))
        assert world.value(founder, RELATIONS["person.birth_year"]) < year
        assert year < world.value(founder, RELATIONS["person.death_year"])


def test_every_kind_offers_a_wrong_fact_of_the_same_sort() -> None:
    for kind in KINDS:
        sorts = ["number" if r.numeric else r.target for r in RELATIONS_OF[kind]]
        assert any(sorts.count(sort) > 1 for sort in sorts), kind


def test_distractors_are_near_duplicates_and_idle_mentions() -> None:
    plain, busy = (World(WorldSpec(distractors=d)) for d in (0.0, 1.0))
    assert plain.counts["other"] == 0
    assert busy.counts["other"] == 150

    def cities(world: World) -> set[str]:
        return {world.name(Entity("city", n)) for n in range(world.counts["city"])}

    assert not any(" " in name for name in cities(plain))
    near = [name for name in cities(busy) if " " in name]
    assert len(near) / len(cities(busy)) == pytest.approx(0.2, abs=0.02)
    assert all(name.split()[1] in cities(busy) for name in near)


def test_a_name_as_query_puts_its_page_first() -> None:
    index = FULL.backend("test")
    first = [index.search(page.title, 1)[0].title == page.title for page in FULL.world("test")]
    assert sum(first) / len(first) >= 0.98


# ---------------------------------------------------------------------- questions


def test_tasks_are_pure_json_and_named() -> None:
    for index in range(50):
        task = FULL.task(7, "test", index)
        assert task == DeepSearchFamily(aliases=0.3).task(7, "test", index)
        assert json.loads(json.dumps(task.meta)) == task.meta
        assert task.id == f"{FULL.name}/test/7/{index}"


def test_an_id_names_one_question_whatever_the_options() -> None:
    plain, same = DeepSearchFamily(), DeepSearchFamily(slips=("attribute",), hops=[4, 3, 2, 1])
    assert plain.name == same.name == "deepsearch"
    assert plain.task(0, "test", 0) == same.task(0, "test", 0)
    others = [
        DeepSearchFamily(**options)
        for options in ({"pages": 200}, {"world_seed": 1}, {"hops": (1,), "arithmetic": 0.0}, {"arithmetic": 0.0},
                        {"kinds": ("person", "city")}, {"stale": 0.5}, {"aliases": 0.2}, {"paraphrase": 0.0})
    ]  # fmt: skip
    assert len({family.name for family in [plain, *others]}) == len(others) + 1


def test_neighbouring_seeds_and_splits_share_almost_no_question() -> None:
    def questions(seed: int, split: str) -> set[str]:
        return {FULL.task(seed, split, i).question for i in range(300)}

    assert len(questions(0, "train") & questions(1, "train")) <= 6
    assert not questions(0, "train") & questions(0, "test")
    assert not questions(0, "validation") & questions(0, "test")
    assert len(questions(5, "train")) >= 290


def test_the_answer_follows_from_the_world_and_stands_not_in_the_question() -> None:
    world = FULL.world("train")
    for task in some_tasks(FULL, "train", 400):
        ends = []
        for chain in task.meta["chains"]:
            seen = []
            for entity_id, relation_id in chain["steps"]:
                kind, number = entity_id.split(":")
                value = world.value(Entity(kind, int(number)), RELATIONS[relation_id])
                seen.append(entity_id)
                if len(seen) < len(chain["steps"]):
                    assert isinstance(value, Entity)
                    assert value.id == chain["steps"][len(seen)][0]
            assert len(set(seen)) == len(seen)
            assert chain["start"] in task.question
            ends.append(value)
        assert task.meta["hops"] == sum(len(chain["steps"]) for chain in task.meta["chains"])
        if task.meta["operator"] == "+":
            answer = str(ends[0] + ends[1])
        elif task.meta["operator"] == "-":
            answer = str(abs(ends[0] - ends[1]))
            assert answer != "0"
        else:
            answer = world.name(ends[0]) if isinstance(ends[0], Entity) else str(ends[0])
        assert task.answer == answer
        assert answer.casefold() not in task.question.casefold()


def test_kinds_bound_the_pages_that_questions_lead_through() -> None:
    family = DeepSearchFamily(kinds=("city", "person"), hops=(1, 2, 4), arithmetic=0.3)
    tasks = [family.task(5, "train", i) for i in range(100)]
    pages = {page.split(":")[0] for t in tasks for chain in t.meta["chains"] for page, _ in chain["steps"]}
    assert pages == {"person", "city"}
    assert {t.meta["hops"] for t in tasks} == {1, 2, 4}


def test_hops_and_arithmetic_are_as_asked() -> None:
    family = DeepSearchFamily(hops=(2, 4), arithmetic=0.5)
    metas = [family.task(0, "train", i).meta for i in range(300)]
    assert {meta["hops"] for meta in metas} == {2, 4}
    assert sum(meta["arithmetic"] for meta in metas) / 300 == pytest.approx(0.5, abs=0.1)
    easy = [DeepSearchFamily.easy().task(0, "train", i) for i in range(200)]
    assert {task.meta["hops"] for task in easy} == {1, 2}
    assert not any(task.meta["arithmetic"] for task in easy)


def test_paraphrase_zero_leaves_one_wording() -> None:
    asks = {RELATIONS["person.birth_city"].asks[0].split("{x}")[0]}
    family = DeepSearchFamily.easy(hops=(1,))
    tasks = [family.task(0, "train", i) for i in range(600)]
    born = [t for t in tasks if t.meta["chains"][0]["steps"][-1][1] == "person.birth_city"]
    assert {t.question.split(t.meta["chains"][0]["start"])[0] for t in born} == asks


# ---------------------------------------------------------------------- verifier


def task_with(numeric: bool) -> Task:
    return next(task for task in some_tasks(FULL, "train", 400) if task.meta["numeric"] is numeric)


def test_numbers_are_compared_as_integers() -> None:
    task = Task("deepsearch/train/0/0", "q", "4830", {"numeric": True, "aliases": []})
    for right in ("4830", " 4,830 ", "+4830", "4830.", "04830", "4830 people", "4,830 km"):
        assert FULL.verify(task, right).score == 1.0, right
    for wrong in (
        "",
        "483",
        "-4830",
        "48,30",
        "4830.5",
        "4830 4830",
        "around 4830",
        "4830 or 12",
        "٤٨٣٠x",
        "9" * 10**6,
    ):
        assert FULL.verify(task, wrong).score == 0.0, wrong


def test_names_are_compared_after_normalising_and_aliases_count() -> None:
    task = Task("deepsearch/train/0/0", "q", "The Silent Harbor", {"numeric": False, "aliases": ["Balix"]})
    for right in ("The Silent Harbor", "silent harbor.", " SILENT  HARBOR ", "balix"):
        assert FULL.verify(task, right).score == 1.0, right
    for wrong in ("", "Silent", "Harbor Silent", "The Silent Harbor Returns", "Silent Harbor or Balix"):
        assert FULL.verify(task, wrong).score == 0.0, wrong


# ---------------------------------------------------------------------- demonstrators


@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_solves_every_task_by_searching(split: str) -> None:
    tasks = list(some_tasks(FULL, split, 200))
    assert {(t.meta["hops"], t.meta["arithmetic"]) for t in tasks} >= {(1, False), (4, False), (2, True), (4, True)}
    for task, other in zip(tasks, tasks[1:] + tasks[:1], strict=True):
        answer, turns, _ = drive(FULL, task, FULL.expert(task))
        assert FULL.verify(task, answer).score == 1.0, (task, turns)
        assert len(turns) == task.meta["hops"] + 1 + task.meta["arithmetic"]
        assert all(turn.startswith("<think>") and len(turn.split("</think>")[0].split()) <= 14 for turn in turns)
        for cheap in ("", task.question, other.answer if other.answer != task.answer else "unknown"):
            assert FULL.verify(task, cheap).score == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"pages": 100, "distractors": 1.0, "aliases": 1.0},
        {"pages": 5000, "distractors": 1.0, "aliases": 0.5, "world_seed": 9},
        {"paraphrase": 0.0, "distractors": 0.0},
    ],
)
def test_the_expert_solves_every_kind_of_world(options: dict[str, float]) -> None:
    family = DeepSearchFamily(arithmetic=0.3, **options)  # type: ignore[arg-type]
    for task in some_tasks(family, "test", 80):
        assert family.verify(task, drive(family, task, family.expert(task))[0]).score == 1.0, task


def test_the_expert_reads_and_does_not_peek() -> None:
    """Change what the pages say, and the expert's answer changes with them; hide them, and it gives up."""
    task = next(t for t in some_tasks(FULL, "train", 100) if t.meta["hops"] == 1 and not t.meta["numeric"])
    session = SearchTool(FULL.backend("train")).open(0)
    demo = FULL.expert(task)
    query = parse(next(demo)).argument
    forged = session.call(query).text.replace(task.answer, "Nowhere")
    assert parse(demo.send(render_result(forged))).boxed == "Nowhere"
    demo = FULL.expert(task)
    next(demo)
    second = parse(demo.send(render_result("No results found.")))
    assert isinstance(second, ToolCall)
    assert second.argument != query
    assert parse(demo.send(render_result("No results found."))).boxed == "unknown"
    blind = Task(task.id, task.question, "", {**task.meta, "aliases": []})
    assert drive(FULL, blind, FULL.expert(blind))[0] == task.answer


def test_the_flawed_expert_is_well_formed_and_mostly_wrong() -> None:
    rng = np.random.default_rng(0)
    scores, kinds = [], set()
    for task in some_tasks(FULL, "train", 400):
        slip = draw_slip(task, rng)
        answer, turns, observations = drive(FULL, task, demonstrate(task, slip))
        assert all(turn.count("<think>") == turn.count("</think>") == 1 for turn in turns)
        scores.append(FULL.verify(task, answer).score)
        kinds.add((slip.kind, slip.made))
        # The mistake can be seen: the wrong answer, or what it was computed from, stands in the results.
        if not task.meta["operator"]:
            names = " ".join(observations).casefold()
            assert answer.casefold() in names
    assert np.mean(scores) <= 0.05
    assert {kind for kind, _ in kinds} == set(SLIPS) - {"stale"}
    first, again = (drive(FULL, task, FULL.flawed_expert(task, np.random.default_rng(5)))[1] for _ in range(2))
    assert first == again


def test_slips_bound_the_mistakes() -> None:
    family = DeepSearchFamily.easy(slips=("attribute", "early"))
    rng = np.random.default_rng(0)
    kinds = {draw_slip(task, rng, family.slips).kind for task in some_tasks(family, "train", 100)}
    assert kinds == {"attribute", "early"}
    task = next(t for t in some_tasks(family, "train", 50) if t.meta["hops"] == 2)
    played = [drive(family, task, family.flawed_expert(task, np.random.default_rng(i)))[1] for i in range(20)]
    assert not any("again" in turn for turns in played for turn in turns)


def test_read_hits_of_no_result() -> None:
    assert read_hits("no frame") == read_hits(render_result("No results found.")) == []


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pages": 99}, "pages must be >= 100, got 99"),
        ({"world_seed": -1}, "world_seed must be >= 0"),
        ({"hops": ()}, "hops must name numbers from 1 to 4"),
        ({"hops": (0, 1)}, "hops must name numbers from 1 to 4"),
        ({"hops": 2}, "hops must name numbers from 1 to 4"),
        ({"hops": "12"}, "hops must name numbers from 1 to 4"),
        ({"arithmetic": 1.5}, "arithmetic must lie in 0..1"),
        ({"hops": (1,)}, "needs two look-ups"),
        ({"kinds": ("person", "citty")}, "'city'"),
        ({"slips": ("attribute", "erly")}, "'early'"),
        ({"slips": ("early",)}, "must hold 'attribute'"),
        ({"kinds": ("person", "book")}, "must hold 'person' and 'city'"),
        ({"arithmetic": 1.0}, "leaves no question with one look-up"),
        ({"distractors": -0.1}, "distractors must lie in 0..1"),
        ({"aliases": float("nan")}, "aliases must lie in 0..1"),
        ({"paraphrase": 2.0}, "paraphrase must lie in 0..1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        DeepSearchFamily(**options)  # type: ignore[arg-type]


def test_bad_places_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown split 'tests'; did you mean 'test'"):
        FULL.task(0, "tests", 0)
    with pytest.raises(ConfigError, match="unknown split"):
        FULL.backend("dev")
    with pytest.raises(ConfigError, match="must be >= 0"):
        FULL.task(0, "test", -1)


def test_corpora_are_built_once_a_process() -> None:
    assert FULL.backend("train") is DeepSearchFamily(aliases=0.3, hops=(1, 2)).backend("train")
    assert FULL.backend("train") is not FULL.backend("test")
