"""The torch engine: continuous batching over a slot cache, exact entropies, a random stream a request.

Why not ``generate``: it waits for the slowest row, computes finished rows on, and prefills a branch's prefix
again. Here every forward holds just the tokens that are new: one for each running sequence and the whole new
part of those that were submitted, laid out without padding. A request's longest cached prefix is found among
all slots, so that a fork costs a memory copy and one token, and a tool result costs its own tokens.

Determinism: draws use the request's own seed; a request's numbers depend on the batch only through the rounding
of the matrix products. Driven in the same order, two runs are the same bit by bit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arpo_algo.attention import key_value_shape, use_arpo_attention
from arpo_algo.cacheattention import CachePlan, Chunk, KVCache, Shared
from arpo_algo.engines import EngineSetup, register
from arpo_algo.engines.base import Event, Finished, Probed, Request, check_fits
from arpo_algo.engines.drawing import draw
from arpo_algo.engines.sharing import common_prefix, shared_prefixes
from arpo_algo.engines.stopping import Stopping, end_tokens
from arpo_algo.engines.workingcopy import WorkingCopy, packs
from arpo_algo.errors import ConfigError
from arpo_algo.lora import without_adapters
from arpo_algo.memory import explained
from arpo_algo.options import opt
from arpo_algo.precision import Resolved, autocast

_SMALLER = "lower rollout.slots, rollout.max_tokens or rollout.engine_options.step_tokens"


@dataclass(slots=True)
class _Slot:
    """What a cache slot holds: the tokens whose keys and values are valid, and who uses it."""

    index: int
    tokens: list[int] = field(default_factory=list)
    owner: int | None = None  # running request
    held: int | None = None  # finished request that may be continued
    used: int = 0  # step of last use, for eviction


@dataclass(slots=True, eq=False)
class _Queued:
    """A request that waits for a slot."""

    request: Request
    tokens: list[int]  # the request's; lists, not tuples, are compared with slots
    compared: int = 0  # no slot that was held before this step can go on with it


@dataclass(slots=True, eq=False)
class _Running:
    request: Request
    slot: _Slot
    rng: np.random.Generator
    fresh: list[int]  # tokens whose keys are not cached yet; the last one gives the next logits
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)


class TorchEngine:
    """Any supported Hugging Face causal LM on CPU or GPU, in process.

    Args:
        model: switched to attention ``"arpo"`` and to evaluation mode.
        tokenizer: only decodes, to find stop strings.
        slots: sequences that can run or be held at once; bounds memory together with ``max_length``.
        max_length: longest sequence, prompt included; at most the model's context.
        step_tokens: most tokens one forward computes (a longer prompt is still run whole, beside those that run).
        precision: what products run in. With ``bfloat16`` and float32 weights the engine computes from a
            :class:`~arpo_algo.engines.workingcopy.WorkingCopy`: the numbers that the learner computes under autocast.
        packed: on CPUs, keep a copy of the weights in the layout that products read (faster; ignored elsewhere).
        share_reads: branches read the prefix that they have in common together (faster;
            :mod:`~arpo_algo.engines.sharing` says what it does to the numbers).

    Raises:
        ConfigError: an unsupported architecture, no end token, or sizes that do not fit the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        slots: int = 64,
        max_length: int = 2048,
        step_tokens: int = 4096,
        precision: Resolved = "float32",
        packed: bool = True,
        share_reads: bool = True,
    ) -> None:
        config = model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", max_length)
        if max_length > context:
            raise ConfigError(f"max_length {max_length} exceeds the model's context of {context} tokens")
        if slots < 1 or step_tokens < 1:
            raise ConfigError(f"slots and step_tokens must be >= 1, got {slots} and {step_tokens}")
        use_arpo_attention(model)
        model.train(False)
        self.model = model
        self.tokenizer = tokenizer
        self.vocab_size = int(config.vocab_size)
        self.max_length = max_length
        self.step_tokens = step_tokens
        self.share_reads = share_reads
        self.stopping = Stopping(tokenizer, end_tokens(tokenizer, getattr(model, "generation_config", None)))
        kv_heads, head_dim = key_value_shape(config)
        weight = next(model.parameters())
        self.precision = precision
        dtype = torch.bfloat16 if precision == "bfloat16" else weight.dtype
        packed = packed and packs(dtype, weight.device)
        self._copy = WorkingCopy(model, dtype, packed) if packed or dtype != weight.dtype else None
        with explained(_SMALLER):
            self.cache = KVCache(
                config.num_hidden_layers,
                slots,
                kv_heads,
                max_length,
                head_dim,
                dtype,
                str(weight.device),
            )
        self._slots = [_Slot(i) for i in range(slots)]
        self._queue: list[_Queued] = []
        self._running: dict[int, _Running] = {}
        self._decoding: list[_Running] = []  # rows that ``_groups`` is for
        self._groups: list[Shared] = []
        self._steps = 0
        #: Counters for the speed studies: tokens run through the model, by why.
        self.prefilled = 0
        self.decoded = 0

    # ------------------------------------------------------------------ Engine

    @property
    def busy(self) -> bool:
        return bool(self._queue or self._running)

    def submit(self, request: Request) -> None:
        check_fits(request, self.max_length)
        self._queue.append(_Queued(request, list(request.tokens)))

    @torch.inference_mode()
    def step(self) -> list[Event]:
        self._steps += 1
        self._admit()
        if not self._running:
            return []
        rows = sorted(self._running.values(), key=lambda r: (len(r.fresh) > 1, r.slot.index))
        with explained(_SMALLER):
            logits = self._forward(rows)
        return sorted(self._sample(rows, logits), key=lambda e: e.id)

    def release(self, request_id: int) -> None:
        for slot in self._slots:
            if slot.held == request_id:
                slot.held = None

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy ``weights`` into the model, casting to its dtype; tied heads follow their embedding.

        Raises:
            ConfigError: requests are running, or names do not fit the model.
        """
        if self.busy:
            raise ConfigError("load_weights while requests are running would mix two policies in one rollout")
        own = dict(self.model.named_parameters())
        missing = sorted(set(own) - set(weights))
        if missing:
            raise ConfigError(f"weights lack {len(missing)} of the model's parameters, e.g. {missing[0]!r}")
        with torch.no_grad():
            for name, parameter in own.items():
                if weights[name] is not parameter:
                    parameter.copy_(weights[name])
        if self._copy is not None:
            self._copy.refresh()
        self.forget()

    def forget(self) -> None:
        """Be as new: what is cached, and which slot a request gets, decide how products round, and so the last bits."""
        if self.busy:
            raise ConfigError("forget while requests are running would take their keys and values away")
        self._slots = [_Slot(i) for i in range(len(self._slots))]
        self._steps = 0

    def close(self) -> None:
        """Nothing is held beyond the model."""

    # ------------------------------------------------------------------ admission

    def _admit(self) -> None:
        """Give queued requests a slot, in order of arrival, while slots and the token budget last.

        The first of a step runs whole, also over budget: waiting for a step with room for it would mean until nothing
        else runs, with all that is behind it.
        """
        free = self._count_free()
        held = sorted((s for s in self._slots if s.held is not None), key=lambda s: s.used, reverse=True)
        if not free and not held:
            return
        budget = self.step_tokens - len(self._running)
        waiting: list[_Queued] = []
        pending: list[_Slot] = []  # admitted in this step: their keys are not there yet
        for i, queued in enumerate(self._queue):
            if not free and not self._continues_one(queued, held):
                waiting.append(queued)  # before any search for prefixes: a long queue would search at every step
                continue
            request, tokens = queued.request, queued.tokens
            source, length = self._longest_prefix(tokens)
            later, later_length = self._longest_prefix(tokens, pending)
            if later is not None and later_length > length:
                waiting.append(queued)  # next step it can copy what is computed in this one
                continue
            # The last token is always run: it gives the logits.
            length = min(length, len(tokens) - 1)
            slot = self._find_slot(source, length)
            if slot is None:
                # Go on looking: a continuation behind it runs in the slot that is held for it, and frees it.
                waiting.append(queued)
                continue
            fresh = tokens[length:]
            if pending and len(fresh) > budget:
                waiting += self._queue[i:]
                break
            if source is not None and slot is not source and length:
                self.cache.copy_prefix(source.index, slot.index, length)
            if request.parent is not None:
                self.release(request.parent)
            slot.tokens = tokens
            slot.owner, slot.held, slot.used = request.id, None, self._steps
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(request.seed)))
            self._running[request.id] = _Running(request, slot, rng, fresh)
            pending.append(slot)
            budget -= len(fresh)
            free = self._count_free()
        self._queue = waiting
        if waiting and not self._running:
            # Every slot waits for a continuation that cannot come before one of these runs: drop what was used
            # longest ago. Only speed is lost; its owner's prefix will be computed again.
            min((s for s in self._slots if s.held is not None), key=lambda s: s.used).held = None
            self._admit()

    def _count_free(self) -> int:
        return sum(slot.owner is None and slot.held is None for slot in self._slots)

    def _continues_one(self, queued: _Queued, held: list[_Slot]) -> bool:
        """Whether the request could run in a held slot: the only places when none is free.

        ``held``: the last used first. What was compared once is not compared again.
        """
        tokens = queued.tokens
        for slot in held:
            if slot.used < queued.compared:
                break
            end = len(slot.tokens) - 1  # at least the request's last token is run, so one token may differ
            if slot.owner is not None or end >= len(tokens):
                continue
            # One token tells most of them apart.
            if end == 0 or (tokens[end - 1] == slot.tokens[end - 1] and common_prefix(slot.tokens, tokens) >= end):
                return True
        queued.compared = self._steps
        return False

    def _longest_prefix(self, tokens: list[int], slots: list[_Slot] | None = None) -> tuple[_Slot | None, int]:
        """The slot sharing the longest cached prefix with ``tokens``; with ``slots``, as if those were all cached."""
        best, length = None, 0
        for slot in self._slots if slots is None else slots:
            valid = len(slot.tokens)
            if slots is None and slot.owner is not None:
                valid -= len(self._running[slot.owner].fresh)
            if valid <= length or length == len(tokens) or slot.tokens[length] != tokens[length]:
                continue  # no longer than the best, for what one token tells
            n = min(valid, common_prefix(slot.tokens, tokens))
            if n > length:
                best, length = slot, n
        return best, length

    def _find_slot(self, source: _Slot | None, length: int) -> _Slot | None:
        """Where to run: in the source itself when it is idle and ends there, else in a slot to copy its prefix to."""
        if source is not None and source.owner is None and len(source.tokens) <= length + 1:
            return source  # continue in place
        idle = [s for s in self._slots if s.owner is None and s.held is None]
        if not idle:
            return None
        # Empty first, then least recently used; never overwrite the source before it is copied.
        return min(idle, key=lambda s: (s is source, bool(s.tokens), s.used, s.index))

    # ------------------------------------------------------------------ one forward

    def _forward(self, rows: list[_Running]) -> torch.Tensor:
        """Run every row's fresh tokens; returns the logits after each row's last token, [rows, V]."""
        device = self.cache.k.device
        ids: list[int] = []
        positions: list[int] = []
        last: list[int] = []
        decode: list[Chunk] = []
        prefill: list[Chunk] = []
        for row in rows:
            end = len(row.slot.tokens)
            start = end - len(row.fresh)
            chunk = Chunk(len(ids), len(ids) + len(row.fresh), row.slot.index, start)
            (decode if len(row.fresh) == 1 else prefill).append(chunk)
            ids += row.fresh
            positions += range(start, end)
            last.append(len(ids) - 1)
        self.decoded += len(decode)
        self.prefilled += len(ids) - len(decode)
        model = self.model if self._copy is None else self._copy.model
        with autocast(self.precision, device):
            out = model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(last, device=device),
                plan=CachePlan(self.cache, decode, prefill, self._shared(rows[: len(decode)])),
            )
        logits: torch.Tensor = out.logits[0]
        return logits

    def _shared(self, decoding: list[_Running]) -> list[Shared]:
        """What the decoding rows read together; the same until other requests decode."""
        if decoding != self._decoding:
            self._decoding = decoding
            self._groups = shared_prefixes([row.slot.tokens for row in decoding]) if self.share_reads else []
        return self._groups

    # ------------------------------------------------------------------ sampling

    def _sample(self, rows: list[_Running], logits: torch.Tensor) -> list[Event]:
        tokens, logprobs, entropies = draw(logits, [r.request.sampling for r in rows], [r.rng for r in rows])
        events: list[Event] = []
        for row, token, logprob, entropy in zip(rows, tokens, logprobs, entropies, strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.entropies.append(entropy)
            request = row.request
            reason = self.stopping.reason(row.tokens, request.stop, request.max_tokens)
            if len(row.tokens) == request.probe and reason is None:
                events.append(Probed(request.id, tuple(row.entropies)))
            if reason is None:
                row.slot.tokens.append(token)
                row.fresh = [token]
                continue
            # The last token's key is not cached: the slot's tokens stop before it.
            row.slot.owner, row.slot.held, row.slot.used = None, request.id, self._steps
            del self._running[request.id]
            text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
            events.append(
                Finished(request.id, tuple(row.tokens), tuple(row.logprobs), tuple(row.entropies), str(text), reason)
            )
        return events


@dataclass(frozen=True)
class TorchOptions:
    """Own options of the torch engine."""

    step_tokens: int = opt(4096, "most tokens one forward computes")
    packed: bool = opt(True, "on CPUs, keep a copy of the weights in the layout that products read: faster")
    share_reads: bool = opt(True, "branches read their common prefix together: faster; in bfloat16 more rounding")


@register("torch", TorchOptions)
def build(setup: EngineSetup, options: TorchOptions) -> TorchEngine:
    """On the learner's own model, where it may be: nothing is copied between them."""
    model = setup.model
    if setup.separate:  # without adapters: new weights come merged
        model = without_adapters(copy.deepcopy(model))
    return TorchEngine(
        model,
        setup.tokenizer,
        slots=setup.slots,
        max_length=setup.max_length,
        step_tokens=options.step_tokens,
        precision=setup.precision,
        packed=options.packed,
        share_reads=options.share_reads,
    )
