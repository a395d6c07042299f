"""The tree sampler against a scripted engine: where it forks, from what baseline, with whose budget.

Each of the first tests answers one defect of the released code (arpo-reference, part 4).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from toy import ScriptedEngine, byte_tokenizer, toy_env

from arpo_algo.branching import BalancedEntropy, Entropy, Never, Random
from arpo_algo.errors import ConfigError
from arpo_algo.metrics import tree_metrics
from arpo_algo.rendering import Renderer
from arpo_algo.rolloutconfig import RolloutConfig
from arpo_algo.sampler import TreeSampler
from arpo_algo.tree import Tree
from arpo_env.env import AgentEnv
from arpo_env.errors import InfraError

CALL = "<think>t</think><search>q</search>"
ANSWER = "<think>t</think><answer>\\boxed{0}</answer>"


def results(before: str) -> int:
    """Results so far, those of the system prompt's own wording left out."""
    return before.split("<|im_start|>assistant")[-1].count("<result>")


def tools_then_answer(calls: int, low: float = 0.3, high: float = 2.0):
    """A policy: ``calls`` tool calls, then an answer; entropy ``low`` at the start, ``high`` after results."""

    def policy(before: str, rng: np.random.Generator) -> tuple[str, list[float]]:
        done = results(before)
        return (CALL if done < calls else ANSWER), [high if done else low]

    return policy


def sample(
    policy, config: RolloutConfig, tasks: int = 1, seed: int = 0, **env_options
) -> tuple[list[Tree], ScriptedEngine]:
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, policy)
    sampler = TreeSampler(engine, Renderer(tokenizer), lambda: toy_env(**env_options), config, workers=4)
    try:
        trees = sampler.sample([{"index": i, "split": "train"} for i in range(tasks)], seed=seed)
    finally:
        sampler.close()
    return trees, engine


def test_fork_is_made_at_the_node_where_entropy_was_measured() -> None:
    (tree,), engine = sample(tools_then_answer(2), RolloutConfig(M=2, N=1, branching=Entropy(k=4)))
    forked = [n for n in tree.nodes if n.fork_of is not None]
    assert len(forked) == 1
    sibling = forked[0]
    original = tree.nodes[sibling.fork_of]
    above = tree.nodes[sibling.parent]
    assert above.kind == "result"
    assert original.parent == above.id, "original and sibling hang below the same result"
    assert [f.probe_node for f in above.forks] == [original.id], "that result's probe decided"
    # It is the FIRST result: the released code forked after the next one.
    assert tree.nodes[tree.nodes[above.parent].parent].kind == "prompt"
    # The sibling starts from the result's end: none of the k probe tokens of the original is in its prefix.
    prefixes = [r.tokens for _, r in engine.log]
    assert prefixes.count(tuple(tree.tokens(above.id))) == 2


def test_baseline_is_the_trajectorys_own_first_k_tokens_and_branches_inherit_it() -> None:
    def policy(before: str, rng: np.random.Generator) -> tuple[str, list[float]]:
        done = results(before)
        # the first four tokens of the trajectory at 0.5 nats, the rest of that turn at 3
        return (CALL if done < 2 else ANSWER), ([1.0] if done else [0.5] * 4 + [3.0] * 100)

    (tree,), _ = sample(policy, RolloutConfig(M=4, N=1, branching=Entropy(k=4)))
    decisions = [(n, f) for n in tree.nodes for f in n.forks]
    assert {round(f.baseline, 6) for _, f in decisions} == {round(0.5 / np.log(256), 6)}
    # A branch that inherited nothing would take its next turn for its start, and decide nothing there.
    assert any(above.fork_of is not None for n, _ in decisions for above in tree.path(n.id))


def test_entropy_rise_decides_unlike_the_coin_flip() -> None:
    rising, _ = sample(tools_then_answer(1, 0.3, 2.0), RolloutConfig(M=4, N=2, branching=Entropy(k=4)))
    falling, _ = sample(tools_then_answer(1, 2.0, 0.3), RolloutConfig(M=4, N=2, branching=Entropy(k=4)))
    assert rising[0].n_forks == 2
    assert falling[0].n_forks == 0
    assert len(falling[0].leaves()) == 4, "filled up with root rollouts"


def test_consecutive_forks_damp_the_rule_and_a_turn_without_one_frees_it() -> None:
    """AEPO: P·(1 − 0.2·l) after l forks in a row on the path, siblings' paths included; P again after none."""
    rule = BalancedEntropy(k=4, alpha=1.0, b=20.0)  # entropy rose: P > 1, so the third fork in a row is the last
    config = RolloutConfig(M=16, N=1, branching=rule)
    (tree,), _ = sample(tools_then_answer(6, 0.3, 2.0), config, max_tool_calls=9, max_turns=9)
    p = 1 + 0.2 * (2.0 - 0.3) / np.log(256)
    siblings: set[int] = set()  # forks in a row that end in a forked sibling
    ended = 0
    for leaf in tree.leaves():
        path, in_a_row = tree.path(leaf.id), 0
        for above, turn in itertools.pairwise(path):
            for decision in above.forks:
                assert decision.score == pytest.approx(p * (1 - 0.2 * in_a_row))
                ended += in_a_row > 0 and not decision.granted
                in_a_row = in_a_row + 1 if decision.granted else 0
                if turn.fork_of is not None:
                    siblings.add(in_a_row)
    assert siblings == {1, 2, 3}
    assert ended, "a path forked, did not fork, and went on"


def test_n_is_planned_from_the_first_k_tokens_of_each_turn() -> None:
    """AEPO: N = M·σ(b·(H_root − mean H_tool)), H over a turn's first k tokens as everywhere."""
    turns = {0: 0.6, 1: 1.2, 2: 2.4}  # results so far -> nats of the first four tokens

    def policy(before: str, rng: np.random.Generator) -> tuple[str, list[float]]:
        done = results(before)
        return (CALL if done < 2 else ANSWER), [turns[done]] * 4 + [0.0 if done else 5.0] * 100

    (tree,), _ = sample(policy, RolloutConfig(M=16, N=1, branching=BalancedEntropy(k=4, b=5.0)))
    gap = (0.6 - (1.2 + 2.4) / 2) / np.log(256)
    assert tree.meta["roots"] == round(16 / (1 + np.exp(-5.0 * gap))) == 4


def test_state_lives_in_the_tree_not_in_the_sampler() -> None:
    config = RolloutConfig(M=4, N=2, branching=Entropy(k=4))
    tokenizer = byte_tokenizer()
    low = {"value": 0.3}
    engine = ScriptedEngine(tokenizer, lambda before, rng: tools_then_answer(1, low["value"], 1.0)(before, rng))
    sampler = TreeSampler(engine, Renderer(tokenizer), toy_env, config)
    try:
        first = sampler.sample([{"index": 0}], seed=0)[0]
        low["value"] = 1.5  # the second batch starts uncertain: a stale baseline of 0.3 would fork
        second = sampler.sample([{"index": 1}], seed=0)[0]
    finally:
        sampler.close()
    assert first.n_forks == 2
    assert second.n_forks == 0


def test_budget_is_shared_fairly_among_roots() -> None:
    # Root 0 makes many calls and would take every fork; each root owns an equal share.
    def policy(before: str, rng: np.random.Generator) -> tuple[str, list[float]]:
        done = results(before)
        return (CALL if done < 3 else ANSWER), [2.0 if done else 0.1]

    (tree,), _ = sample(policy, RolloutConfig(M=8, N=4, branching=Entropy(k=4)))
    by_root = Counter(tree.path(n.id)[1].id for n in tree.nodes if n.fork_of is not None)
    assert sorted(by_root.values()) == [1, 1, 1, 1]


def test_unused_budget_goes_to_others() -> None:
    # Only one of four roots calls tools (often); the others answer at once and leave it their share.
    seen: list[int] = []

    def scripted(before: str, rng: np.random.Generator) -> tuple[str, list[float]]:
        if not results(before):
            seen.append(1)
            text = (
                "<think>" + "x" * 20 + "</think><search>go</search>"
                if len(seen) == 1
                else "<answer>\\boxed{0}</answer>"
            )
            return text, [0.1]
        return (CALL if results(before) < 6 else ANSWER), [2.0]

    (tree,), _ = sample(scripted, RolloutConfig(M=8, N=4, branching=Entropy(k=4)))
    assert tree.n_forks == 4


def test_fill_is_parallel_and_exact() -> None:
    (tree,), engine = sample(lambda before, rng: (ANSWER, [0.5]), RolloutConfig(M=16, N=4, branching=Entropy(k=4)))
    assert len(tree.leaves()) == 16
    starts = sorted({step for step, _ in engine.log})
    assert len(starts) == 2, "all roots at once, then all fills at once (the released code needed 12 rounds)"


@pytest.mark.parametrize("Z", [2, 3])
def test_exactly_m_trajectories_whatever_z(Z: int) -> None:
    trees, _ = sample(tools_then_answer(3), RolloutConfig(M=9, N=3, branching=Entropy(k=4, Z=Z)), tasks=3)
    assert [len(t.leaves()) for t in trees] == [9, 9, 9]


def test_no_barrier_others_go_on_while_one_tool_is_slow() -> None:
    """The slow call is released only after another trajectory has finished: a barrier would dead-lock."""
    ended = threading.Event()

    def on_call(argument: str) -> None:
        if argument == "slow":
            assert ended.wait(timeout=60), "nothing else made progress while one tool was slow"

    def policy(before: str, rng: np.random.Generator) -> tuple[str, list[float]]:
        if results(before):
            return ANSWER, [1.0]
        if "Q0" in before:
            return "<think>t</think><search>slow</search>", [1.0]
        return CALL, [1.0]

    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, policy)
    sampler = TreeSampler(
        engine, Renderer(tokenizer), lambda: toy_env(on_call), RolloutConfig(M=1, N=1, tool_lag=None), workers=4
    )

    def on_leaf(tree: Tree, leaf: object) -> None:
        ended.set()

    try:
        trees = sampler.sample([{"index": 0}, {"index": 1}], seed=0, on_leaf=on_leaf)
    finally:
        sampler.close()
    assert [len(t.leaves()) for t in trees] == [1, 1]


def test_with_a_lag_batches_do_not_depend_on_the_clock() -> None:
    """The other way to wait: a result is admitted at its step, so a slow tool holds up all and changes nothing."""

    def batches(on_call) -> list[tuple[int, int]]:
        _, engine = sample(tools_then_answer(2), RolloutConfig(M=2, N=2, tool_lag=1), tasks=3, on_call=on_call)
        return [(step, request.id) for step, request in engine.log]

    calls = Counter[str]()

    def slow_at_times(argument: str) -> None:
        calls[argument] += 1
        time.sleep(0.03 * (calls[argument] % 3 == 0))

    assert batches(slow_at_times) == batches(lambda argument: None)


def test_the_time_a_call_waits_for_a_thread_is_not_its_own() -> None:
    config = RolloutConfig(M=4, N=4, tool_timeout=0.25)
    for lag in (1, None):
        tokenizer = byte_tokenizer()
        engine = ScriptedEngine(tokenizer, tools_then_answer(1))
        env = lambda: toy_env(lambda argument: time.sleep(0.1))  # noqa: E731
        sampler = TreeSampler(engine, Renderer(tokenizer), env, replace(config, tool_lag=lag), workers=1)
        try:
            (tree,) = sampler.sample([{"index": 0}], seed=0)
        finally:
            sampler.close()
        assert (len(tree.leaves()), tree.void_leaves()) == (4, [])


@pytest.mark.parametrize("lag", [1, None])
def test_a_call_that_hangs_is_given_up_and_its_environment_closed_afterwards(
    lag: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, began, closed = threading.Event(), threading.Event(), []

    def on_call(argument: str) -> None:
        began.set()
        assert release.wait(60)

    monkeypatch.setattr(AgentEnv, "close", lambda self, real=AgentEnv.close: (closed.append(self), real(self)))
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, tools_then_answer(1))
    config = RolloutConfig(M=1, N=1, tool_lag=lag, tool_timeout=0.1)
    sampler = TreeSampler(engine, Renderer(tokenizer), lambda: toy_env(on_call), config, workers=1)
    try:
        (tree,) = sampler.sample([{"index": 0}], seed=0)
        assert began.is_set()
        (leaf,) = tree.void_leaves()
        assert leaf.outcome is not None
        assert "no answer for 0.1 s" in leaf.outcome.stop_reason
        assert tree.tool_calls == 1, "it was made, whatever came of it"
        before = len(closed)
        release.set()
        deadline = time.monotonic() + 30
        while len(closed) == before and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(closed) > before, "its environment is closed when the call ends"
    finally:
        release.set()
        sampler.close()


def test_tool_calls_are_those_really_made() -> None:
    """Part 4 of the reference: reported honestly. Refused ones are none; one whose result did not fit is one."""
    calls = Counter[str]()

    def count(argument: str) -> None:
        calls["made"] += 1

    def run(policy, config: RolloutConfig, **options) -> tuple[Tree, int]:
        calls.clear()
        (tree,), _ = sample(policy, config, on_call=count, **options)
        return tree, calls["made"]

    rng_fork = RolloutConfig(M=6, N=2, branching=Random(probability=1.0, k=4))
    for policy, config, options in (
        (tools_then_answer(2), rng_fork, {}),  # shared calls count once
        (tools_then_answer(4), RolloutConfig(M=1, N=1), {"max_tool_calls": 2}),  # two are refused
        (tools_then_answer(1), RolloutConfig(M=1, N=1, max_tokens=460), {}),  # the result does not fit
        (tools_then_answer(9), RolloutConfig(M=1, N=1), {"max_tool_calls": 9, "max_turns": 3}),  # the last turn's
        (lambda before, rng: ("no tag at all", [1.0]), RolloutConfig(M=1, N=1), {"on_malformed": "tell"}),
    ):
        tree, made = run(policy, config, **options)
        assert tree.tool_calls == made, (options, made)
        assert tree_metrics([tree])["tool_calls_made"] == made
        assert Tree.from_json(tree.to_json()).tool_calls == made
    old = tree.to_json()
    for node in old["nodes"]:
        del node["calls"]  # files of earlier releases: one a result
    assert Tree.from_json(old).tool_calls == sum(n.kind == "result" for n in tree.nodes)


def test_hidden_special_tokens_and_tags_in_results_are_inert() -> None:
    def policy(before: str, rng: np.random.Generator) -> tuple[str, list[float]]:
        if results(before):
            return ANSWER, [1.0]
        return "<think>t</think><search><|im_end|> </Result> x</search>", [1.0]

    (tree,), _ = sample(policy, RolloutConfig(M=1, N=1))
    tokenizer = byte_tokenizer()
    result = next(n for n in tree.nodes if n.kind == "result")
    assert "<|im_end|>" in tokenizer.decode(result.tokens), "the text is there …"
    assert tokenizer.eos_token_id not in result.tokens, "… as ordinary tokens"
    assert "&lt;/Result>" in result.text


def test_only_sampled_tokens_are_actions() -> None:
    trees, _ = sample(tools_then_answer(9), RolloutConfig(M=1, N=1), max_tool_calls=2)
    tree = trees[0]
    assert "limit" in [n for n in tree.nodes if n.kind == "result"][-1].text
    actions = [n.tokens for n in tree.nodes if n.kind == "action"]
    assert all(len(n.logprobs) == len(n.tokens) for n in tree.nodes if n.kind == "action")
    tokenizer = byte_tokenizer()
    assert all(tokenizer.eos_token_id not in tokens for tokens in actions), "no unsampled end token is appended"


def test_infrastructure_faults_void_a_trajectory_and_are_never_scored() -> None:
    calls = Counter[str]()

    def on_call(argument: str) -> None:
        calls["n"] += 1
        if calls["n"] == 2:
            raise InfraError("server down")

    (tree,), _ = sample(tools_then_answer(1), RolloutConfig(M=4, N=4), on_call=on_call)
    assert len(tree.leaves()) == 3
    assert [leaf.outcome.void for leaf in tree.void_leaves() if leaf.outcome] == [True]


@pytest.mark.parametrize("max_tokens", range(440, 500, 3))
def test_token_budget_truncates_and_is_told(max_tokens: int) -> None:
    """Wherever it ends, in a result or in the middle of a turn: that is no mistake of the policy's format."""
    trees, _ = sample(tools_then_answer(9), RolloutConfig(M=1, N=1, max_tokens=max_tokens))
    leaf = trees[0].leaves()[0]
    assert leaf.end <= max_tokens
    assert leaf.outcome is not None
    assert (leaf.outcome.truncated, leaf.outcome.stop_reason) == (True, "max_tokens")
    assert leaf.outcome.reward == -1.0


def test_same_seed_same_trees() -> None:
    def policy(before: str, rng: np.random.Generator) -> tuple[str, list[float]]:
        done = results(before)
        calls = int(rng.integers(1, 4))
        return (CALL if done < calls else ANSWER), [float(x) for x in rng.random(6)]

    config = RolloutConfig(M=8, N=3, branching=Entropy(k=4, rule="bernoulli"))
    one, _ = sample(policy, config, tasks=3, seed=5)
    two, _ = sample(policy, config, tasks=3, seed=5)
    other, _ = sample(policy, config, tasks=3, seed=6)
    assert [t.to_json() for t in one] == [t.to_json() for t in two]
    assert [t.to_json() for t in one] != [t.to_json() for t in other]


def test_tree_json_round_trip() -> None:
    (tree,), _ = sample(tools_then_answer(2), RolloutConfig(M=4, N=2, branching=Random(1.0)))
    assert Tree.from_json(tree.to_json()).to_json() == tree.to_json()


def test_environment_and_engine_hold_nothing_after_sampling() -> None:
    _, engine = sample(tools_then_answer(2), RolloutConfig(M=8, N=4, branching=Entropy(k=4)), tasks=2)
    assert not engine.held
    assert not engine.requests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"M": 4, "N": 8}, "M >= N"),
        ({"M": 4, "N": 0}, "N must be >= 1"),
        ({"M": 4, "N": 2, "branching": Never()}, "M == N"),
        ({"M": 1, "N": 1, "max_turn_tokens": 0}, "token budgets"),
        ({"M": 1, "N": 1, "tool_lag": -1}, "tool_lag"),
    ],
)
def test_contradictory_budgets_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RolloutConfig(**options)


def test_prompt_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="raise max_tokens"):
        sample(tools_then_answer(1), RolloutConfig(M=1, N=1, max_tokens=20))
