"""``check_algorithm``: does an algorithm keep its contract? Our counterpart of Gymnasium's ``check_env``.

It runs the algorithm on small random forked trees and on a tiny random model, in a second or so, and raises
:class:`CheckError` with what is wrong and how to mend it. Nothing is sampled and no network is used.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from arpo_algo.advantages import actions, misfit, spread, term_weights
from arpo_algo.algorithms.contract import Algorithm, length_of, needs, returns_of, rounds_of
from arpo_algo.attention import use_arpo_attention
from arpo_algo.branching import Expanding, Never, Planning
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.losses import LossBatch
from arpo_algo.packing import Credit, Credited, chains, pack
from arpo_algo.rolloutconfig import RolloutConfig
from arpo_algo.scoring import loss_of, score
from arpo_algo.tree import Outcome, Tree

_VOCAB = 61
_CONTRACT = ("M", "N", "branching", "aggregation", "shared_once", "advantages", "loss")


class CheckError(AssertionError):
    """The algorithm breaks its contract; the message says how and what to do."""


def check_algorithm(algorithm: Algorithm, *, seed: int = 0, tolerance: float = 1e-5) -> None:
    """Check ``algorithm`` (an instance, e.g. ``make("my-algo")``).

    * it can be sampled with: M, N and ``branching`` do not contradict, and a rule that forks has forks to give;
    * ``advantages``: one finite credit a tree, for every action of every trajectory and nothing else (so nothing
      flows into tool tokens), with equal rewards, one leaf, all −1, a huge group and huge rewards; the trees are
      left alone; a reward that is not finite is refused; the order of siblings does not matter;
    * it is data: equal copies give equal results, it survives pickling, and has no state that resuming would lose;
    * ``loss``: packed gradient == flat gradient, one forward a trajectory with stock attention, to ``tolerance``
      relative; at logits that predict tool or prompt tokens the gradient is exactly zero.

    Raises:
        CheckError: with what is wrong and how to mend it.
    """
    _check_contract(algorithm)
    rng = np.random.default_rng(seed)
    trees = [random_tree(rng) for _ in range(2)]
    for name, change in _CASES.items():
        case = copy.deepcopy(trees)
        for tree in case:
            change(tree)
        _check_credits(algorithm, case, name)
    _check_credits(algorithm, [random_tree(rng, roots=1, depth=0)], "one leaf")
    _check_credits(algorithm, [random_tree(rng, roots=200, depth=0)], "a group of 200")
    _check_refuses_nan(algorithm, copy.deepcopy(trees))
    _check_data(algorithm, trees)
    _check_order(algorithm, trees, rng)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: threads only wait for each other
    try:
        _check_gradient(algorithm, trees, tolerance)
    finally:
        torch.set_num_threads(threads)


def random_tree(rng: np.random.Generator, *, roots: int = 3, depth: int = 2) -> Tree:
    """A synthetic tree with forks at several depths, filled in as the sampler and the learner would."""

    def some(low: int, high: int) -> list[int]:
        return [int(t) for t in rng.integers(3, _VOCAB, int(rng.integers(low, high)))]

    tree = Tree(f"check/{rng.integers(10**6)}", some(3, 7))
    open_nodes = [(0, 0)] * roots
    while open_nodes:
        above, level = open_nodes.pop()
        node = tree.add(above, "action", some(1, 6))
        n = len(node.tokens)
        node.logprobs = [float(x) for x in rng.normal(-math.log(_VOCAB), 0.3, n)]
        node.ref_logprobs = [x + float(rng.normal(0, 0.2)) for x in node.logprobs]
        node.entropies = [float(x) for x in rng.uniform(0.1, math.log(_VOCAB), n)]
        node.value = float(rng.normal(0, 0.5))
        if level >= depth or (level > 0 and rng.random() < 0.3):
            reward = float(rng.integers(-1, 2))
            node.outcome = Outcome(reward, is_success=reward > 0, turns=level + 1)
            continue
        # Few different observations, so that algorithms which group by what the agent saw have groups.
        result = tree.add(node.id, "result", some(2, 5), text=f"observation {rng.integers(3)}")
        open_nodes += [(result.id, level + 1)] * int(rng.integers(1, 4))
    return tree


def tiny_model(seed: int = 0) -> PreTrainedModel:
    """A random two-layer Llama that fits :func:`random_tree`'s vocabulary."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=_VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Any = AutoModelForCausalLM
        model: PreTrainedModel = made.from_config(config, dtype=torch.float32)
        return model


# ---------------------------------------------------------------------- the checks


def _rewards(value: Callable[[int], float]) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        for i, leaf in enumerate(tree.leaves()):
            if leaf.outcome is not None:
                leaf.outcome.reward = value(i)

    return change


_CASES: dict[str, Callable[[Tree], None]] = {
    "random rewards": lambda tree: None,
    "equal rewards": _rewards(lambda i: 0.5),
    "all rewards -1": _rewards(lambda i: -1.0),
    "huge rewards": _rewards(lambda i: 1e6 * (-1) ** i),
    "rewards equal but for rounding": _rewards(lambda i: 0.1 + 1e-17 * i),
}


def _check_contract(algorithm: Algorithm) -> None:
    missing = [name for name in _CONTRACT if not hasattr(algorithm, name)]
    if missing:
        raise CheckError(
            f"{type(algorithm).__name__} lacks {', '.join(missing)}; derive from arpo_algo.algorithms.base.Base or "
            "define them (arpo_algo.algorithms.contract.Algorithm)"
        )
    try:
        rounds_of(algorithm)
    except ConfigError as error:
        raise CheckError(str(error)) from error
    try:
        RolloutConfig(M=algorithm.M, N=algorithm.N, branching=algorithm.branching)
    except ConfigError as error:
        raise CheckError(f"nothing can be sampled with this M, N and branching: {error}") from error
    rule = algorithm.branching
    forks = isinstance(rule, Expanding) or (rule.probe_tokens > 0 and not isinstance(rule, Never))
    if forks and algorithm.N == algorithm.M and not isinstance(rule, Planning):
        raise CheckError(
            f"branching={rule} can never fork: all M={algorithm.M} trajectories start at the root, as N={algorithm.N}; "
            f"give {type(algorithm).__name__} a field N below M (N: int = {max(1, algorithm.M // 2)}), or Never()"
        )


def _credits(algorithm: Algorithm, trees: Sequence[Tree], case: str) -> list[Credit]:
    try:
        return list(algorithm.advantages(trees))
    except (ArithmeticError, LookupError, TypeError) as error:
        raise CheckError(f"advantages() fails with {case}: {type(error).__name__}: {error}") from error


def _check_credits(algorithm: Algorithm, trees: list[Tree], case: str) -> None:
    before = copy.deepcopy([tree.nodes for tree in trees])
    credits = _credits(algorithm, trees, case)
    if [tree.nodes for tree in trees] != before:
        raise CheckError(f"advantages() changed the trees ({case}); it must be a pure function: copy what you alter")
    if wrong := misfit(trees, credits):
        raise CheckError(f"with {case}: {wrong}")
    for tree, credit in zip(trees, credits, strict=True):
        for key, node in actions(tree).items():
            values = spread(credit[key], node)
            if not all(math.isfinite(v) for v in values):
                raise CheckError(
                    f"with {case} the advantage of {key} is {values}; guard divisions by a standard deviation "
                    "that may be 0 (arpo_algo.advantages.group_normalised does)"
                )


def _check_refuses_nan(algorithm: Algorithm, trees: list[Tree]) -> None:
    trees[0].leaves()[0].outcome = Outcome(math.nan)
    try:
        algorithm.advantages(trees)
    except (TrainingError, ConfigError):
        return
    raise CheckError("a reward of NaN must raise TrainingError; read rewards with arpo_algo.advantages.rewards(tree)")


def _shuffled(tree: Tree, rng: np.random.Generator) -> tuple[Tree, dict[int, int]]:
    """The same tree with siblings in another order, and old node id -> new id."""
    out = Tree(tree.task_id, tree.nodes[0].tokens, prompt_text=tree.nodes[0].text)
    out.meta, ids = dict(tree.meta), {0: 0}
    waiting = list(tree.nodes[0].children)
    while waiting:
        old = tree.nodes[waiting.pop(int(rng.integers(len(waiting))))]
        new = out.add(ids[old.parent or 0], old.kind, old.tokens, text=old.text)
        new.logprobs, new.entropies, new.ref_logprobs = old.logprobs, old.entropies, old.ref_logprobs
        new.value, new.outcome = old.value, old.outcome
        ids[old.id] = new.id
        waiting += old.children
    return out, ids


def _check_order(algorithm: Algorithm, trees: list[Tree], rng: np.random.Generator) -> None:
    pairs = [_shuffled(tree, rng) for tree in trees]
    plain = _credits(algorithm, trees, "random rewards")
    mixed = _credits(algorithm, [tree for tree, _ in pairs], "siblings in another order")
    for (_, ids), a, b in zip(pairs, plain, mixed, strict=True):
        for (leaf, node), value in a.items():
            if not np.allclose(value, b[ids[leaf], ids[node]], rtol=1e-6, atol=1e-9):
                raise CheckError(
                    f"the advantage of a trajectory changes with the order of its siblings: {value} against "
                    f"{b[ids[leaf], ids[node]]}; use only rewards, tokens and the tree's shape, never node ids"
                )


def _check_data(algorithm: Algorithm, trees: list[Tree]) -> None:
    first = _credits(algorithm, trees, "random rewards")
    try:
        twin = pickle.loads(pickle.dumps(algorithm))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise CheckError(f"it cannot be pickled ({error}); make it a frozen dataclass of plain values") from error
    if twin != algorithm:
        raise CheckError("a copy is not equal to it; make it a frozen dataclass of plain values")
    for other, what in ((algorithm, "a second call"), (twin, "a fresh copy")):
        if _credits(other, trees, what) != first:
            raise CheckError(
                f"{what} gives other advantages for the same trees: there is hidden state or a random draw, which a "
                "resumed run would not have; keep an algorithm a pure function of its options and the trees"
            )


def _items(algorithm: Algorithm, trees: Sequence[Tree]) -> list[Credited]:
    weights = term_weights(trees, algorithm.aggregation, shared_once=algorithm.shared_once, length=length_of(algorithm))
    returns = returns_of(algorithm, trees)
    return [Credited(*x) for x in zip(trees, algorithm.advantages(trees), weights, returns, strict=True)]


def _check_gradient(algorithm: Algorithm, trees: list[Tree], tolerance: float) -> None:
    items = _items(algorithm, trees)
    model = tiny_model()
    wanted = needs(algorithm)
    head = torch.nn.Linear(32, 1) if "values" in wanted else None
    if head is not None:
        torch.nn.init.constant_(head.weight, 0.1)
        torch.nn.init.constant_(head.bias, 0.2)
    packed = _packed_gradient(algorithm, items, model, head, "entropy" in wanted)
    flat, leak = _flat_gradient(algorithm, items, model, head)
    if leak > 0:
        raise CheckError(
            f"the loss has a gradient of {leak:.2e} at logits that predict prompt or tool tokens; use only the terms "
            "of the LossBatch"
        )
    if not torch.isfinite(packed).all():
        raise CheckError("the gradient is not finite at ratios near 1; look for logarithms or divisions in loss()")
    error = float((packed - flat).norm() / flat.norm().clamp(min=1e-12))
    if error > tolerance:
        raise CheckError(
            f"the packed gradient differs from the flat one by {error:.1e} (relative; {tolerance:g} allowed). loss() "
            "must be a sum over terms weighted by batch.weight: no mean over the pack, no statistic of the pack "
            "(compute those in advantages()); sums within a trajectory by batch.leaf are fine"
        )


def _gradient(model: PreTrainedModel, head: torch.nn.Module | None) -> torch.Tensor:
    parameters = [*model.parameters(), *(head.parameters() if head is not None else ())]
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])


def _clear(model: PreTrainedModel, head: torch.nn.Module | None) -> None:
    for p in [*model.parameters(), *(head.parameters() if head is not None else ())]:
        p.grad = None


def _packed_gradient(
    algorithm: Algorithm,
    items: list[Credited],
    model: PreTrainedModel,
    head: torch.nn.Module | None,
    entropy_gradient: bool,
) -> torch.Tensor:
    use_arpo_attention(model)
    _clear(model, head)
    made = pack(items)
    out = score(model, made, value_head=head, entropy_gradient=entropy_gradient)
    loss_of(made, out, algorithm, made.rollout_logp).loss.backward()  # type: ignore[no-untyped-call]
    return _gradient(model, head)


def _flat_gradient(
    algorithm: Algorithm, items: list[Credited], model: PreTrainedModel, head: torch.nn.Module | None
) -> tuple[torch.Tensor, float]:
    """Each trajectory alone through the stock model; also the largest gradient where nothing may flow."""
    model.set_attn_implementation("sdpa")
    _clear(model, head)
    leak = 0.0
    for item in items:
        for leaf, chain in zip(item.tree.leaves(), chains(item.tree), strict=True):
            ids = torch.tensor([chain.tokens(chain.leaves()[0].id)])
            hidden = model.base_model(input_ids=ids).last_hidden_state[0]
            logits = model.get_output_embeddings()(hidden)  # type: ignore[no-untyped-call]
            logits.retain_grad()
            logp = logits.log_softmax(-1)
            entropy = -(logp.exp() * logp).sum(-1)
            path = [n for n in item.tree.path(leaf.id) if n.kind == "action"]
            at = torch.tensor([n.start + i - 1 for n in path for i in range(len(n.tokens))])
            target = torch.tensor([t for n in path for t in n.tokens])
            key = [(leaf.id, n.id) for n in path]

            def column(values: Credit, path: Any = path, key: Any = key) -> torch.Tensor:
                return torch.tensor([x for k, n in zip(key, path, strict=True) for x in spread(values[k], n)])

            old = torch.tensor([x for n in path for x in n.logprobs])
            batch = LossBatch(
                logp[at, target],
                old,
                old,
                column(item.credit),
                entropy[at],
                torch.zeros_like(at),
                torch.tensor([n.id for n in path for _ in n.tokens]),
                column(item.weight),
                torch.tensor([x for n in path for x in n.ref_logprobs]),
                None if head is None else head(hidden[at])[:, 0],
                None if item.returns is None else column(item.returns),
            )
            loss = algorithm.loss(batch).loss
            loss.backward()  # type: ignore[no-untyped-call]
            elsewhere = torch.ones(len(logits), dtype=torch.bool)
            elsewhere[at] = False
            if logits.grad is not None and bool(elsewhere.any()):
                leak = max(leak, float(logits.grad[elsewhere].abs().max()))
    return _gradient(model, head), leak
