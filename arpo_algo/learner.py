"""The update: packed trees through the model, an algorithm's loss, one optimiser step a mini-batch.

The model runs each unique token once (:mod:`arpo_algo.packing`), the head only where a token is predicted, in
chunks that are recomputed in the backward pass, so that full logits never exist. Trees whose advantages are all
zero are counted in every normaliser but not computed: their gradient is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from arpo_algo import sharding
from arpo_algo.advantages import misfit, soft, term_weights
from arpo_algo.algorithms.contract import Algorithm, is_dense, length_of, needs, returns_of, value_lr_of
from arpo_algo.attention import resolve_tree_attention, use_arpo_attention
from arpo_algo.distributed import World, shares
from arpo_algo.errors import ConfigError, NonFiniteError
from arpo_algo.lora import attach
from arpo_algo.memory import explained
from arpo_algo.optimizer import LearnerConfig, even_cuts, make_optimizer
from arpo_algo.packing import Credit, Credited, Pack, pack, split
from arpo_algo.precision import autocast, resolve_precision
from arpo_algo.scoring import TokenOutput, loss_of, score
from arpo_algo.tree import Tree

_SMALLER = "lower learner.pack_tokens, or set learner.gradient_checkpointing=true"


class Learner:
    """Owns the optimiser of one model, and the value head and the reference model of algorithms that need them.

    Args:
        algorithm: what is trained with; only its ``needs`` and ``value_lr`` are looked at.
        world: the processes of the run. Each is given all trees, computes its share, and adds its gradient to the
            others': the sum is the gradient that one process would have computed.

    Raises:
        ConfigError: an unsupported architecture.
    """

    #: Told of every optimiser step that non-finite numbers made it skip; None: :class:`NonFiniteError` is raised.
    on_nonfinite: Callable[[NonFiniteError], None] | None = None
    #: Told of every optimiser step that was taken.
    on_finite: Callable[[], None] | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        config: LearnerConfig,
        *,
        temperature: float = 1.0,
        algorithm: Algorithm | None = None,
        world: World | None = None,
    ) -> None:
        use_arpo_attention(model)
        if config.lora.rank:
            attach(model, config.lora)
        self.world = world or World()
        if config.shard:
            sharding.shard(model, self.world)
        self.model = model
        self.config = config
        self.temperature = temperature or 1.0
        self.device = next(model.parameters()).device
        self.precision = resolve_precision(config.precision, self.device)
        products = torch.bfloat16 if self.precision == "bfloat16" else model.dtype
        self.attention = resolve_tree_attention(config.attention, model.config, self.device, products)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ConfigError(
                "no parameter of the model is trained: it was saved with adapters, whose base is frozen; set "
                "learner.lora.rank to train them on, or start from a model into which they were merged"
            )
        self.sharded = sharding.is_sharded(self.parameters)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.optimizer = make_optimizer(config, self.parameters, self.device)
        self.value_head: torch.nn.Linear | None = None
        if algorithm is not None and "values" in needs(algorithm):
            self.value_head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1, device=self.device)
            torch.nn.init.zeros_(self.value_head.weight)
            torch.nn.init.zeros_(self.value_head.bias)
            own = list(self.value_head.parameters())
            self.parameters += own
            rate = value_lr_of(algorithm, config.lr)
            self.optimizer.add_param_group({"params": own, "lr": rate, "base_lr": rate})
        self.reference: PreTrainedModel | None = None
        self.steps = 0
        self._nonfinite = ""

    def set_reference(self, model: PreTrainedModel) -> None:
        """The frozen policy of a KL penalty; needed before the first update of an algorithm that asks for it."""
        use_arpo_attention(model)
        self.reference = model.train(False).requires_grad_(False)

    def autocast(self) -> AbstractContextManager[object]:
        return autocast(self.precision, self.device)

    # ------------------------------------------------------------------ reinforcement learning

    def update(
        self,
        trees: Sequence[Tree],
        algorithm: Algorithm,
        *,
        old_policy: Literal["current", "rollout"] = "current",
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, float]:
        """One training step's update from its trees; returns metrics.

        Args:
            old_policy: the ratio's denominator: the policy at the start of this update, or (for trees of an older
                policy) the one that sampled.

        Raises:
            ConfigError: the algorithm's advantages do not fit the trees, or what it needs is not there.
            NonFiniteError: a non-finite loss or gradient, where nobody is told instead (``on_nonfinite``).
        """
        self.annotate(trees, algorithm)
        credits = algorithm.advantages(trees)
        if wrong := misfit(trees, credits):
            raise ConfigError(f"algorithm {type(algorithm).__name__}: {wrong}; check_algorithm looks for more")
        returns = returns_of(algorithm, trees)
        batches = [
            self._batch(trees[i:j], credits[i:j], algorithm, returns[i:j])
            for i, j in even_cuts(len(trees), self.config.mini_batch or len(trees))
        ]
        self.model.train()
        several = len(batches) * self.config.epochs > 1
        old: list[list[torch.Tensor]] | None = None
        if old_policy == "rollout":
            old = [[p.rollout_logp for p in packs] for packs in batches]
        elif several:  # with one optimiser step the policy at its start *is* the current one
            old = [[self._logp(p) for p in packs] for packs in batches]
        sums: dict[str, float] = {}
        norm, skipped, computed, largest = 0.0, 0, 0, 0.0
        rounds = list(enumerate(batches)) * self.config.epochs
        total = sum(len(packs) for _, packs in rounds)
        done = 0
        for index, packs in rounds:
            mass = self.world.add_numbers({"mass": sum(float(p.weight.sum()) for p in packs)})["mass"]
            if not mass:  # no tree of this mini-batch has an advantage: in every process, nothing moves
                self.steps += 1
                continue
            computed += 1
            for j, packed in enumerate(packs):
                off = self._accumulate(packed, algorithm, None if old is None else old[index][j], sums, mass)
                largest = max(largest, off)
                done += 1
                if progress is not None:
                    progress(done, total)
            try:
                norm += self.optimizer_step()
            except NonFiniteError as error:
                if self.on_nonfinite is None:
                    raise
                self.on_nonfinite(error)
                skipped += 1
            else:
                if self.on_finite is not None:
                    self.on_finite()
        metrics = {
            key: value / (len(rounds) if key == "loss" else max(computed, 1))
            for key, value in self.world.add_numbers(sums).items()
        }
        # The one token that engine and learner disagree on most: exp|ln π_learner − ln π_engine|; 1 is agreement.
        metrics["rollout_ratio_max"] = math.exp(min(max(self.world.gather(largest)), 700.0))
        if skipped < len(rounds):
            metrics["grad_norm"] = norm / max(computed - skipped, 1)
        return {**metrics, "skipped_steps": float(skipped)}

    def annotate(self, trees: Sequence[Tree], algorithm: Algorithm) -> None:
        """Write what the algorithm needs of models into the nodes: reference log-probs, values.

        Raises:
            ConfigError: no reference model, or no value head (give ``Learner`` the algorithm).
        """
        wanted = needs(algorithm)
        if not wanted & {"reference", "values"}:
            return
        if "reference" in wanted and self.reference is None:
            raise ConfigError("a KL penalty needs a reference model: call learner.set_reference(model) first")
        if "values" in wanted and self.value_head is None:
            raise ConfigError("this algorithm needs a value head: build the learner with Learner(…, algorithm=…)")
        items = []
        for tree in trees:
            nothing = soft(tree, [0.0] * len(tree.leaves()))
            items.append(Credited(tree, nothing, dict.fromkeys(nothing, 0.0)))
        own = items if self.sharded else self._own(items)  # a sharded forward needs every process
        for group in split(own, self.config.pack_tokens):
            packed = pack(group).to(self.device)
            with torch.no_grad():
                if self.reference is not None and "reference" in wanted:
                    logp = self._score(packed, self.reference).logp.tolist()
                    for node, first in packed.spans:
                        node.ref_logprobs = logp[first : first + len(node.tokens)]
                if "values" in wanted:
                    value = self._score(packed, value_head=self.value_head).value
                    assert value is not None
                    for node, first in packed.spans:
                        node.value = float(value[first]) if node.tokens else 0.0
        if self.world.size > 1 and not self.sharded:
            _exchange_annotations(trees, [item.tree for item in own], self.world)

    def _own(self, items: list[Credited]) -> list[Credited]:
        """This process's share of the trees, by tokens."""
        if self.world.size == 1:
            return items
        return [items[i] for i in shares([i.tree.n_tokens for i in items], self.world.size)[self.world.rank]]

    def _batch(
        self,
        trees: Sequence[Tree],
        credits: Sequence[Credit],
        algorithm: Algorithm,
        returns: Sequence[Credit | None] | None = None,
    ) -> list[Pack]:
        weights = term_weights(
            trees, algorithm.aggregation, shared_once=algorithm.shared_once, length=length_of(algorithm)
        )
        items = [
            Credited(tree, credit, weight, target)
            for tree, credit, weight, target in zip(
                trees, credits, weights, returns or [None] * len(trees), strict=True
            )
            if is_dense(algorithm) or any(_any(a) for a in credit.values())
        ]
        return self._packs(items)

    def _packs(self, items: list[Credited]) -> list[Pack]:
        """This process's packs.

        A sharded layer runs in all processes at once: those with fewer packs repeat one, without weight.
        """
        packs = [pack(group).to(self.device) for group in split(self._own(items), self.config.pack_tokens)]
        if self.sharded:
            least = min(items, key=lambda item: item.tree.n_tokens, default=None)
            missing = max(self.world.gather(len(packs))) - len(packs)
            if missing and least is not None:
                idle = pack(split([least], self.config.pack_tokens)[0]).to(self.device)
                packs += [replace(idle, weight=torch.zeros_like(idle.weight))] * missing
        return packs

    def _score(self, packed: Pack, model: PreTrainedModel | None = None, **options: Any) -> TokenOutput:
        """:func:`score` with this learner's settings; of its own model if no other is given."""
        settings = {"temperature": self.temperature, "attention": self.attention} | options
        with self.autocast():
            return score(self.model if model is None else model, packed, **settings)

    def _logp(self, packed: Pack) -> torch.Tensor:
        with torch.no_grad():
            return self._score(packed).logp

    def _accumulate(
        self, packed: Pack, algorithm: Algorithm, old: torch.Tensor | None, sums: dict[str, float], mass: float
    ) -> float:
        """Add a pack's gradient and metrics; returns the largest |ln π_learner − ln π_engine| of its tokens."""
        with explained(_SMALLER):
            out = self._score(
                packed,
                value_head=self.value_head,
                entropy_gradient="entropy" in needs(algorithm),
            )
            loss = loss_of(packed, out, algorithm, old)
            if not torch.isfinite(loss.loss):
                self._nonfinite = f"the loss is {loss.loss.item()}"
            loss.loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            mismatch = (out.logp.detach() - packed.rollout_logp)[packed.term]
            w = packed.weight
            own = {
                "loss": float(loss.loss.detach()),
                "entropy": float((w * out.entropy.detach()[packed.term]).sum()),
                # k1 and k3-type view of how far the engine's numbers are from the learner's (should be ~0)
                "rollout_kl": float((w * (mismatch.exp() - 1 - mismatch)).sum()),
            }
        for key, value in {**own, **loss.metrics}.items():
            # All but the loss are means over what was computed, whatever the weights of the mini-batch sum to.
            if math.isfinite(value):
                sums[key] = sums.get(key, 0.0) + (value if key == "loss" else value / mass)
        return float(mismatch.abs().max()) if len(mismatch) else 0.0

    def optimizer_step(self) -> float:
        """Add up the processes' gradients, clip, step, clear; returns the gradient norm before clipping.

        Raises:
            NonFiniteError: the norm, or a loss on the way, is not finite (the weights are left as they were).
        """
        self.world.add_gradients(self.parameters)
        clip = sharding.clip_gradients if self.sharded else torch.nn.utils.clip_grad_norm_
        norm = float(clip(self.parameters, self.config.max_grad_norm))
        why = self._nonfinite or ("" if math.isfinite(norm) else f"the gradient norm is {norm}")
        self._nonfinite = ""
        if why := next(filter(None, self.world.gather(why)), ""):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError(f"{why}; no step was taken (lower learner.lr, or look at the last saved trees)")
        self.steps += 1
        warm = min(1.0, self.steps / self.config.warmup_steps) if self.config.warmup_steps else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("base_lr", self.config.lr) * warm
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    # ------------------------------------------------------------------ cold start

    def imitate(self, trees: Sequence[Tree]) -> dict[str, float]:
        """One step of supervised learning: mean negative log-likelihood of all action tokens of the trees."""
        self.model.train()
        weights = term_weights(trees, "token")
        items = [Credited(t, dict.fromkeys(w, 1.0), w) for t, w in zip(trees, weights, strict=True)]
        total = 0.0
        for packed in self._packs(items):
            out = self._score(packed, temperature=1.0)
            loss = -(packed.weight * out.logp[packed.term]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return {**self.world.add_numbers({"loss": total}), "grad_norm": self.optimizer_step()}


def _exchange_annotations(trees: Sequence[Tree], own: Sequence[Tree], world: World) -> None:
    """Give every process what the others wrote into the nodes of their ``own`` trees."""
    number = {id(tree): i for i, tree in enumerate(trees)}
    wrote = {(number[id(t)], n.id): (n.ref_logprobs, n.value) for t in own for n in t.nodes if n.kind == "action"}
    for part in world.gather(wrote):
        for (i, node), (logprobs, value) in part.items():
            trees[i].nodes[node].ref_logprobs, trees[i].nodes[node].value = logprobs, value


def _any(advantage: float | Sequence[float]) -> bool:
    return any(advantage) if isinstance(advantage, Sequence) else bool(advantage)
