"""Rules that look at finished rollouts: Tree-GRPO, TreeRL, the random control and AEPO's planned budget, sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from forest import comb
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import ScriptedEngine, byte_tokenizer, toy_env

from arpo_algo.algorithms import make
from arpo_algo.branching import BalancedEntropy, Probe, RandomResults, Surprise
from arpo_algo.packing import chains
from arpo_algo.rendering import Renderer
from arpo_algo.rolloutconfig import RolloutConfig
from arpo_algo.sampler import TreeSampler
from arpo_algo.tree import Node, Tree
from arpo_env.env import AgentEnv
from arpo_env.errors import InfraError

WORDS = ["alpha", "beta", "gamma", "delta"]


def results(before: str) -> int:
    return before.split("<|im_start|>assistant")[-1].count("<result>")


def policy(before: str, rng: np.random.Generator) -> tuple[str, list[float]]:
    """One or two calls with a drawn word, then an answer. Continues whatever part of a turn stands there already."""
    said = before.split("<|im_start|>assistant\n")[-1].rsplit("</result>\n", 1)[-1]
    word = WORDS[int(rng.integers(4))]
    calls = 1 + int(rng.integers(2))
    answer = results(before) >= calls
    text = f"<answer>\\boxed{{{int(rng.integers(3))}}}</answer>" if answer else f"<search>{word}</search>"
    whole = f"<think>{word}</think>{text}"
    if said and "<think>" in said and "</think>" not in said:
        whole = f"{word}</think>{text}"
    elif said:
        whole = "<answer>\\boxed{1}</answer>" if "<" not in said.split("</think>")[-1] else whole
    return whole, [float(x) for x in rng.uniform(0.1, 2.0, 5)]


class Engine(ScriptedEngine):
    """A scripted engine whose log-probs vary, so that some tokens surprise more than others."""

    def step(self):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        from arpo_algo.engines.base import Finished

        return [
            replace(e, logprobs=tuple(-float(1 + (t * 7 + i * 13) % 17) for i, t in enumerate(e.tokens)))
            if isinstance(e, Finished)
            else e
            for e in super().step()
        ]


def sample(config: RolloutConfig, seed: int = 0, tasks: int = 2) -> tuple[list[Tree], Engine]:
    tokenizer = byte_tokenizer()
    engine = Engine(tokenizer, policy)
    sampler = TreeSampler(engine, Renderer(tokenizer), toy_env, config, workers=2)
    try:
        return sampler.sample([{"index": i, "split": "train"} for i in range(tasks)], seed=seed), engine
    finally:
        sampler.close()


def config_of(name: str, **options: object) -> RolloutConfig:
    algorithm = make(name, **options)
    return RolloutConfig(M=algorithm.M, N=algorithm.N, branching=algorithm.branching)


CONFIGS = {
    "arpo_random": {"M": 8, "N": 3},
    "tree_grpo": {"M": 8, "N": 3},
    "treerl": {"M": 10, "N": 3},
    "aepo": {"M": 8, "k": 4},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_exactly_m_trajectories_and_a_sound_tree(name: str) -> None:
    trees, engine = sample(config_of(name, **CONFIGS[name]))
    for tree in trees:
        assert len(tree.leaves()) == CONFIGS[name]["M"]
        assert not engine.held
        for node in tree.nodes:
            assert tree.nodes[node.id] is node
            if node.parent is not None:
                assert node.parent < node.id
                assert node.id in tree.nodes[node.parent].children
                assert node.start == tree.nodes[node.parent].end
            assert len(node.logprobs) == len(node.entropies) == (len(node.tokens) if node.kind == "action" else 0)
            assert node.kind != "result" or node.children, "a result is always answered"
        assert Tree.from_json(tree.to_json()).to_json() == tree.to_json()


@pytest.mark.parametrize("name", CONFIGS)
def test_same_seed_same_trees(name: str) -> None:
    one, two, other = (sample(config_of(name, **CONFIGS[name]), seed=s)[0] for s in (3, 3, 4))
    assert [t.to_json() for t in one] == [t.to_json() for t in two]
    assert [t.to_json() for t in one] != [t.to_json() for t in other]


def test_random_control_makes_exactly_the_forks_it_may() -> None:
    trees, _ = sample(RolloutConfig(M=8, N=3, branching=RandomResults()), tasks=4)
    for tree in trees:
        forked = [n for n in tree.nodes if n.fork_of is not None]
        assert len(forked) == 5
        assert {tree.nodes[n.parent or 0].kind for n in forked} == {"result"}


def test_random_results_are_drawn_uniformly() -> None:
    tree = comb()  # results 2 and 4
    drawn = Counter(p.node for s in range(2000) for p in RandomResults().expand(tree, 1, np.random.default_rng(s)))
    assert set(drawn) == {3, 5}, "beside the first action after each result"
    assert abs(drawn[3] / 2000 - 0.5) < 0.05


def test_tree_grpo_expands_every_tree_alike() -> None:
    trees, _ = sample(config_of("tree_grpo", M=9, N=3), tasks=3)
    for tree in trees:
        roots = Counter(tree.path(leaf.id)[1].id for leaf in tree.leaves())
        assert sorted(roots.values()) == [3, 3, 3]


def origin(tree: Tree, node: Node) -> int:
    """The root rollout that ``node``, a child of the prompt, was forked beside, or is."""
    return node.id if node.fork_of is None else origin(tree, tree.nodes[node.fork_of])


@pytest.mark.parametrize(("name", "options"), [("tree_grpo", {"M": 12, "N": 8}), ("treerl", {"M": 14, "N": 5})])
def test_a_budget_that_does_not_reach_all_favours_nobody(name: str, options: dict[str, int]) -> None:
    """Part 4 of the reference: earlier rollouts ate the budget. Over seeds each root's tree grows as often."""
    grown = Counter[int]()
    for seed in range(40):
        (tree,) = sample(config_of(name, **options), seed=seed, tasks=1)[0]
        roots = [c for c in tree.nodes[0].children if tree.nodes[c].fork_of is None]
        below = Counter(origin(tree, tree.path(leaf.id)[1]) for leaf in tree.leaves())
        grown.update(i for i, root in enumerate(roots) if below[root] > 1)
    assert len(grown) == options["N"], grown
    assert min(grown.values()) > max(grown.values()) / 4, grown


@pytest.mark.parametrize("name", ["arpo_random", "tree_grpo", "treerl"])
@pytest.mark.parametrize("failing", range(0, 14, 2))
def test_a_fork_that_fails_costs_itself_and_the_rest_of_its_round(
    name: str, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    forks = Counter[str]()
    real = AgentEnv.clone

    def clone(self: AgentEnv) -> AgentEnv:
        forks["n"] += 1
        if forks["n"] == 20 + failing:
            raise InfraError("no more processes")
        return real(self)

    monkeypatch.setattr(AgentEnv, "clone", clone)
    options = {"M": 9, "N": 3}
    (tree,) = sample(config_of(name, **options), tasks=1)[0]
    assert len(tree.leaves()) + len(tree.void_leaves()) == options["M"]


def test_a_plan_of_one_root_fills_up() -> None:
    class OneRoot(BalancedEntropy):
        def plan_roots(self, M: int, root_entropy: float, tool_entropies: Sequence[float]) -> int:
            return 1

    (tree,) = sample(RolloutConfig(M=5, N=5, branching=OneRoot(k=4)), tasks=1)[0]
    assert len(tree.leaves()) == 5


def test_surprise_takes_the_most_surprising_tokens() -> None:
    tree = comb()
    tree.nodes[3].logprobs = [-1.0, -9.0]
    tree.nodes[8].logprobs = [-5.0]
    points = Surprise(points=1, ways=2).expand(tree, 9, np.random.default_rng(0))
    assert [(p.node, p.offset) for p in points] == [(3, 1), (3, 1)], "a root's first token is not sampled anew"


def test_treerl_forks_inside_turns_and_the_environment_hears_the_whole_turn() -> None:
    trees, _ = sample(config_of("treerl", M=14, N=2), tasks=3)
    cut = 0
    for tree in trees:
        for node in tree.nodes:
            if node.kind == "action" and any(tree.nodes[c].kind == "action" for c in node.children):
                cut += 1
                assert len(node.children) > 1, "cut only where something forks"
        tokenizer = byte_tokenizer()
        for leaf in tree.leaves():
            # The text of the parts is the text of the tokens, and results echo the call that was really made.
            turn = ""
            for node in tree.path(leaf.id)[1:]:
                if node.kind == "action":
                    assert node.text == tokenizer.decode(node.tokens)
                    turn += node.text
                else:
                    if "<search>" in turn and "limit" not in node.text:
                        query = turn.split("<search>")[1].split("</search>")[0]
                        assert query in node.text
                    turn = ""
        assert len({len(t.tokens(t.leaves()[0].id)) for t in chains(tree)}) > 1
    assert cut > 0


def test_the_environment_hears_whole_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    step = AgentEnv.step
    monkeypatch.setattr(AgentEnv, "step", lambda self, action: heard.append(action) or step(self, action))
    trees, _ = sample(config_of("treerl", M=14, N=2), tasks=3)
    spoken = set()
    for tree in trees:
        for leaf in tree.leaves():
            turn = ""
            for node in tree.path(leaf.id)[1:]:
                if node.kind == "result":
                    spoken.add(turn)
                turn = turn + node.text if node.kind == "action" else ""
            spoken.add(turn)
    assert set(heard) == spoken


def test_aepo_plans_n_from_the_first_rollout() -> None:
    rule = BalancedEntropy(b=10.0)
    assert rule.plan_roots(16, 0.5, [0.2, 0.8]) == 8
    assert rule.plan_roots(16, 0.6, [0.4]) == round(16 / (1 + np.exp(-2)))
    assert rule.plan_roots(16, 0.0, [1.0]) == 2
    assert rule.plan_roots(16, 1.0, [0.0]) == 16
    assert rule.plan_roots(16, 0.0, []) == 8
    trees, engine = sample(config_of("aepo", M=8, k=4, b=20.0), tasks=3)
    for tree in trees:
        n = tree.meta["roots"]
        assert 2 <= n <= 8
        assert sum(tree.nodes[c].fork_of is None for c in tree.nodes[0].children) >= n
    starts = [step for step, r in engine.log if r.tokens == tuple(trees[0].nodes[0].tokens)]
    assert starts.count(0) == 1, "one rollout first"


def test_aepo_damps_consecutive_forks() -> None:
    rule = BalancedEntropy(penalty=0.2)

    def score(forks: int) -> float:
        return rule.wish(Probe(0.3, 0.1, forks, 1, np.random.default_rng(0))).score

    assert [score(l) for l in (0, 1, 5, 9)] == pytest.approx([0.54, 0.54 * 0.8, 0.0, 0.0])  # noqa: E741
    assert rule.wish(Probe(0.3, 0.1, 0, 1, np.random.default_rng(0))).siblings == 1
    assert rule.wish(Probe(0.3, 0.1, 1, 1, np.random.default_rng(0))).siblings == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), max_size=6))
def test_cutting_changes_no_trajectory(cuts: list[tuple[int, int]]) -> None:
    tree = comb()
    for node in tree.nodes:
        node.tokens = node.tokens * 2
        if node.kind == "action":
            node.logprobs = [-float(i) for i in range(len(node.tokens))]
            node.entropies = list(node.logprobs)
    for node in tree.nodes[1:]:
        node.start = tree.nodes[node.parent or 0].end

    def trajectories() -> list[tuple[list[int], list[float], float]]:
        return sorted(
            (
                tree.tokens(x.id),
                [lp for n in tree.path(x.id) for lp in n.logprobs],
                x.outcome.reward if x.outcome else 0,
            )
            for x in tree.leaves()
        )

    before = trajectories()
    for which, offset in cuts:
        actions = [n for n in tree.nodes if n.kind == "action" and len(n.tokens) > 1]
        if actions:
            node = actions[which % len(actions)]
            tree.split(node.id, 1 + offset % (len(node.tokens) - 1))
    assert trajectories() == before
    assert [n.id for n in tree.nodes] == list(range(len(tree.nodes)))
    assert all(n.parent is None or (n.parent < n.id and n.id in tree.nodes[n.parent].children) for n in tree.nodes)
    with pytest.raises(ValueError, match="cannot cut"):
        tree.split(0, 1)
