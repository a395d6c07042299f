"""Every algorithm raises reward on a small fast task: a tiny random model, two turns, forks after the tool result.

The trees are sampled from the model itself, by a sampler of a few lines; packing, annotation, advantages, loss and
optimiser are the real ones.
"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from arpo_algo.algorithms import list_algorithms, make
from arpo_algo.algorithms.contract import Algorithm
from arpo_algo.attention import use_arpo_attention
from arpo_algo.learner import Learner
from arpo_algo.optimizer import LearnerConfig
from arpo_algo.tree import Node, Outcome, Tree

VOCAB, TURN, PROMPTS, STEPS = 12, 3, 4, 12


def model(seed: int) -> PreTrainedModel:
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@torch.no_grad()
def say(policy: PreTrainedModel, trees: list[Tree], nodes: list[Node], draw: torch.Generator) -> None:
    """A turn of TURN tokens for each node, in one batch (all prefixes are equally long)."""
    ids = torch.tensor([t.tokens(n.id) for t, n in zip(trees, nodes, strict=True)])
    for _ in range(TURN):
        logp = policy(ids).logits[:, -1].log_softmax(-1)
        token = torch.multinomial(logp.exp(), 1, generator=draw)
        for node, lp, t in zip(nodes, logp, token[:, 0].tolist(), strict=True):
            node.tokens.append(t)
            node.logprobs.append(float(lp[t]))
            node.entropies.append(float(-(lp.exp() * lp).sum()))
        ids = torch.cat([ids, token], 1)


def rollouts(policy: PreTrainedModel, algorithm: Algorithm, draw: torch.Generator) -> list[Tree]:
    """M trajectories a prompt: N roots, the rest forked after the roots' results, in turn."""
    policy.set_attn_implementation("sdpa")
    trees = [Tree(f"toy/{i}", [1, 2 + i]) for i in range(PROMPTS)]
    roots = max(2, min(algorithm.N, algorithm.M // 2)) if algorithm.N < algorithm.M else algorithm.M
    first = [(t, t.add(0, "action")) for t in trees for _ in range(roots)]
    say(policy, [t for t, _ in first], [n for _, n in first], draw)
    second = []
    for tree in trees:
        results = [
            tree.add(n.id, "result", [max(n.tokens) % VOCAB], text=str(max(n.tokens))) for t, n in first if t is tree
        ]
        second += [(tree, tree.add(results[i % roots].id, "action")) for i in range(algorithm.M)]
    say(policy, [t for t, _ in second], [n for _, n in second], draw)
    for tree, leaf in second:
        said = [t for n in tree.path(leaf.id) if n.kind == "action" for t in n.tokens]
        leaf.outcome = Outcome(sum(t < VOCAB // 2 for t in said) / len(said))
    use_arpo_attention(policy)
    return trees


def mean_reward(trees: list[Tree]) -> float:
    rewards = [leaf.outcome.reward for t in trees for leaf in t.leaves() if leaf.outcome is not None]
    return sum(rewards) / len(rewards)


def train(algorithm: Algorithm, seed: int, steps: int = STEPS) -> tuple[float, float, dict[str, float]]:
    policy, draw = model(seed), torch.Generator().manual_seed(seed)
    config = LearnerConfig(lr=1e-2, precision="float32", mini_batch=PROMPTS // 2)
    learner = Learner(policy, config, algorithm=algorithm)
    if "reference" in getattr(algorithm, "needs", ()):
        learner.set_reference(model(seed))
    history: list[float] = []
    metrics: dict[str, float] = {}
    for _ in range(steps):
        trees = rollouts(policy, algorithm, draw)
        history.append(mean_reward(trees))
        metrics = learner.update(trees, algorithm)
        assert all(abs(v) < float("inf") for v in metrics.values())
    return sum(history[:3]) / 3, sum(history[-3:]) / 3, metrics


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", list_algorithms())
def test_raises_reward(name: str, seed: int) -> None:
    options = {"clip_low": 0.1, "clip_high": 0.1} if name == "gspo" else {}  # 3e-4 is for billions of parameters
    before, after, metrics = train(make(name, M=8, **({"N": 4} if _has_n(name) else {}), **options), seed)
    assert after > before + 0.1, f"{before:.2f} -> {after:.2f}"
    assert metrics["grad_norm"] >= 0


def _has_n(name: str) -> bool:
    return "N" in getattr(type(make(name)), "__dataclass_fields__", {})


def test_the_controls_of_this_test_do_not_rise() -> None:
    """Without credit nothing is learned: the task itself does not drift upwards."""
    from dataclasses import dataclass

    from arpo_algo.algorithms.base import Clipped

    @dataclass(frozen=True)
    class Nothing(Clipped):
        def advantages(self, trees):  # type: ignore[no-untyped-def]
            return [dict.fromkeys(c, 0.0) for c in super().advantages(trees)]

    before, after, _ = train(Nothing(M=8), 0)
    assert abs(after - before) < 0.08


def test_a_kl_penalty_holds_the_policy_back() -> None:
    free = train(make("grpo", M=8), 0)
    held = train(make("grpo", M=8, kl_coef=2.0), 0)
    assert held[1] - held[0] < 0.6 * (free[1] - free[0])
    assert held[2]["kl"] < 0.2


@pytest.mark.parametrize("options", [{"kl_coef": 0.1}, {"entropy_coef": 0.1}, {}])
def test_penalties_act_on_groups_without_signal_too(options: dict) -> None:
    algorithm, policy = make("grpo", M=8, **options), model(0)
    learner = Learner(policy, LearnerConfig(lr=1e-2, precision="float32"), algorithm=algorithm)
    learner.set_reference(model(1))
    trees = rollouts(policy, algorithm, torch.Generator().manual_seed(0))
    for tree in trees:
        for leaf in tree.leaves():
            leaf.outcome = Outcome(1.0)
    assert (learner.update(trees, algorithm)["grad_norm"] > 1e-4) == bool(options)


def test_an_entropy_bonus_keeps_entropy_up() -> None:
    plain, bonus = train(make("grpo", M=8), 1)[2], train(make("grpo", M=8, entropy_coef=1.0), 1)[2]
    assert bonus["entropy"] > plain["entropy"] + 0.2


def test_the_value_head_learns_the_mean_reward() -> None:
    algorithm = make("ppo", M=8, value_lr=3e-2)
    policy, draw = model(0), torch.Generator().manual_seed(0)
    learner = Learner(policy, LearnerConfig(lr=1e-6, precision="float32"), algorithm=algorithm)
    losses = [learner.update(rollouts(policy, algorithm, draw), algorithm)["value_loss"] for _ in range(25)]
    assert losses[-1] < 0.35 * losses[0]
    trees = rollouts(policy, algorithm, draw)
    learner.annotate(trees, algorithm)
    values = [n.value for t in trees for n in t.nodes if n.value is not None]
    assert abs(sum(values) / len(values) - mean_reward(trees)) < 0.15
