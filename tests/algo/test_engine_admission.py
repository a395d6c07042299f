"""Who gets a slot of the torch engine, and when: as the plain rule says, without comparing all with all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import PROMPT, byte_model, drain, engine, request
from toy import byte_tokenizer

from arpo_algo.engines import torch as torch_engine
from arpo_algo.engines.base import Event, Finished, Request
from arpo_algo.engines.sharing import common_prefix
from arpo_algo.engines.torch import TorchEngine, _Queued, _Running, _Slot

MODEL = byte_model()
STEPS = 25  # with arrivals


class Scripted(TorchEngine):
    """Every token is equally likely, and nothing is computed: only who runs where is of interest."""

    def __init__(self, slots: int, step_tokens: int) -> None:
        super().__init__(MODEL, byte_tokenizer(), slots=slots, max_length=256, step_tokens=step_tokens, packed=False)
        self.log: list[Any] = []
        copy_prefix = self.cache.copy_prefix

        def logged(source: int, target: int, length: int) -> None:
            self.log.append(("copy", source, target, length))
            copy_prefix(source, target, length)

        self.cache.copy_prefix = logged  # type: ignore[method-assign]

    def _forward(self, rows: list[_Running]) -> torch.Tensor:
        self.log.append([(r.request.id, r.slot.index, len(r.slot.tokens), len(r.fresh)) for r in rows])
        logits = torch.zeros(len(rows), 260)
        logits[:, 256:] = -torch.inf  # no end tokens
        return logits


class Plain(Scripted):
    """The rule as it was first written: every queued request is compared with every slot.

    ``drains``: as it was, one over budget stops all behind it, though it has no slot, until it fits or nothing runs.
    """

    drains = True

    def _admit(self) -> None:
        if all(slot.owner is not None for slot in self._slots):
            return
        budget = self.step_tokens - len(self._running)
        waiting: list[_Queued] = []
        pending: list[_Slot] = []
        for i, queued in enumerate(self._queue):
            request = queued.request
            source, length = self._longest(request.tokens, self._slots, cached=True)
            later, later_length = self._longest(request.tokens, pending, cached=False)
            if later is not None and later_length > length:
                waiting.append(queued)
                continue
            length = min(length, len(request.tokens) - 1)
            fresh = list(request.tokens[length:])
            slot = self._choose(source, length)
            stops = (pending or self._running) if self.drains else (pending and slot is not None)
            if stops and len(fresh) > budget:
                waiting += self._queue[i:]
                break
            if slot is None:
                waiting.append(queued)
                continue
            if source is not None and slot is not source and length:
                self.cache.copy_prefix(source.index, slot.index, length)
            if request.parent is not None:
                self.release(request.parent)
            slot.tokens = list(request.tokens)
            slot.owner, slot.held, slot.used = request.id, None, self._steps
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(request.seed)))
            self._running[request.id] = _Running(request, slot, rng, fresh)
            pending.append(slot)
            budget -= len(fresh)
        self._queue = waiting
        if waiting and not self._running:
            min((s for s in self._slots if s.held is not None), key=lambda s: s.used).held = None
            self._admit()

    def _longest(self, tokens: tuple[int, ...], slots: list[_Slot], *, cached: bool) -> tuple[_Slot | None, int]:
        best, length = None, 0
        for slot in slots:
            valid = len(slot.tokens)
            if cached and slot.owner is not None:
                valid -= len(self._running[slot.owner].fresh)
            n = min(valid, common_prefix(slot.tokens, list(tokens)))
            if n > length:
                best, length = slot, n
        return best, length

    def _choose(self, source: _Slot | None, length: int) -> _Slot | None:
        if source is not None and source.owner is None and len(source.tokens) <= length + 1:
            return source
        idle = [s for s in self._slots if s.owner is None and s.held is None]
        return min(idle, key=lambda s: (s is source, bool(s.tokens), s.used, s.index), default=None)


class Patient(Plain):
    drains = False


def traffic(made: Scripted, seed: int) -> list[list[Event]]:
    """Prompts of a few kinds, siblings, forks, continuations after a while (some without a parent), releases."""
    rng = np.random.default_rng(seed)
    prompts = [tuple(int(t) for t in rng.integers(0, 2, rng.integers(1, 30))) for _ in range(4)]
    late: list[tuple[int, tuple[int, ...], int]] = []  # when, what was said, by whom
    said: dict[int, tuple[int, ...]] = {}
    events: list[list[Event]] = []
    number = 0

    def submit(tokens: tuple[int, ...], parent: int | None = None) -> None:
        nonlocal number
        said[number] = tokens
        made.submit(Request(number, tokens, int(rng.integers(1, 5)), (), (seed, number), parent=parent))
        number += 1

    step = 0
    while step < STEPS or made.busy or late:
        if step < STEPS:
            for _ in range(int(rng.integers(0, 3))):
                tail = tuple(int(t) for t in rng.integers(0, 2, rng.integers(0, 4)))
                for _ in range(int(rng.integers(1, 4))):
                    submit(prompts[int(rng.integers(4))] + tail)
        for due, tokens, parent in [x for x in late if x[0] <= step]:
            result = tuple(int(t) for t in rng.integers(0, 2, rng.integers(0, 6)))
            kind = rng.random()
            if kind < 0.3 or len(tokens) > 150:
                made.release(parent)
            else:
                submit(tokens + result, None if kind < 0.4 else parent)
                if kind > 0.8:
                    submit(tokens + result)
            late.remove((due, tokens, parent))
        happened = made.step()
        events.append(happened)
        for event in happened:
            assert isinstance(event, Finished)
            late.append((step + int(rng.integers(1, 12)), said[event.id] + event.tokens, event.id))
        step += 1
    return events


def same(make: Callable[[], Scripted], other: Callable[[], Scripted], seed: int) -> Scripted:
    made, plain = make(), other()
    assert traffic(made, seed) == traffic(plain, seed)
    assert made.log == plain.log
    return made


@pytest.mark.parametrize("seed", range(15))
def test_admission_is_that_of_the_plain_rule(seed: int) -> None:
    """Same slots, same copies, same batches: with room for all a step's tokens, the very order there was at first."""
    slots = (1, 2, 3, 5, 8)[seed % 5]
    same(lambda: Scripted(slots, 4096), lambda: Plain(slots, 4096), seed)


@pytest.mark.parametrize("seed", range(16))
def test_admission_on_a_small_budget_is_that_of_the_plain_rule(seed: int) -> None:
    slots, tokens = (2, 3, 5, 8)[seed % 4], (6, 12, 30)[seed % 3]
    same(lambda: Scripted(slots, tokens), lambda: Patient(slots, tokens), seed)


def test_a_long_queue_is_not_compared_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """One slot waits for its tool's result, the normal state: nothing can be placed, so nothing is searched."""
    compared = 0

    def counted(a: list[int], b: list[int]) -> int:
        nonlocal compared
        compared += 1
        return common_prefix(a, b)

    monkeypatch.setattr(torch_engine, "common_prefix", counted)
    made = Scripted(4, 4096)
    made.submit(request(0, PROMPT[::-1], n=1))
    made.step()  # its slot is held from now on
    for i in range(1, 4):
        made.submit(request(i, (*PROMPT, i), n=60))
    made.step()
    made.step()  # the second and third copy the prompt of the first
    for i in range(10, 60):
        made.submit(request(i, (*PROMPT[:30], i), n=2))
    compared = 0
    for _ in range(10):
        made.step()
    assert len(made._queue) == 50
    assert compared == 0
    first = tuple(made._slots[0].tokens)
    for i in range(70, 90):
        made.submit(request(i, (*first[:-3], 1, *first[-2:], i), n=2))  # alike where one token is looked at
    for _ in range(10):
        made.step()
    assert compared == 20, "each once"
    made.submit(request(99, (*first, 99), n=1, parent=0))
    assert [e.id for e in made.step()] == [99], "the one that continues is found behind all others"
    drain(made)


class Row:
    """What one request did: the steps of its first and its last forward."""

    def __init__(self, log: list[Any], id: int) -> None:
        forwards = [entry for entry in log if isinstance(entry, list)]
        at = [i for i, rows in enumerate(forwards) if id in [row[0] for row in rows]]
        self.first, self.last = at[0], at[-1]


def test_a_prompt_longer_than_a_steps_budget_neither_waits_nor_lets_others_wait() -> None:
    made = Scripted(8, 64)
    made.submit(request(1, PROMPT[::-1], n=1))
    (held,) = made.step()
    assert isinstance(held, Finished)
    made.submit(request(0, n=30))
    made.step()
    made.submit(request(2, tuple(range(100, 200)), n=2))  # 100 tokens that nobody has computed
    made.submit(request(3, (*PROMPT[::-1], *held.tokens, 60), n=2, parent=1))
    made.submit(request(4, PROMPT[:20], n=2))
    drain(made)
    assert Row(made.log, 2).first == 2, "at once, beside the one that runs"
    assert Row(made.log, 3).first == Row(made.log, 4).first == 3
    assert Row(made.log, 0).last > 20, "nothing was drained for it"


def test_long_prompts_without_a_slot_let_continuations_pass() -> None:
    made = Scripted(3, 64)
    for i in range(2):
        made.submit(request(i, PROMPT[i:], n=1))
    ends = {e.id: e for _ in range(2) for e in made.step() if isinstance(e, Finished)}
    made.submit(request(9, PROMPT[5:], n=40))
    made.step()
    for i in range(20, 24):
        made.submit(request(i, tuple(range(100 + i, 220 + i)), n=1))
    for i in range(2):
        made.submit(request(10 + i, (*PROMPT[i:], *ends[i].tokens, 60), n=1, parent=i))
    assert [e.id for e in made.step()] == [10, 11]
    for i in (10, 11):
        made.release(i)
    order = []
    for _ in range(8):
        for event in made.step():
            order.append(event.id)
            made.release(event.id)
    assert order == [20, 21, 22, 23], "and then they run, in their order, while the first one still does"
    assert 9 in made._running
    made.release(9)
    drain(made)


def test_a_long_prompt_beside_others_draws_as_alone() -> None:
    long = tuple(5 + (7 * i) % 200 for i in range(120))
    made = engine(step_tokens=64)
    made.submit(request(0, n=20))
    made.step()
    made.submit(request(1, long))
    made.step()
    assert sorted(made._running) == [0, 1]
    done = drain(made)
    for r in (request(0, n=20), request(1, long)):
        alone = engine(step_tokens=64)
        alone.submit(r)
        want = drain(alone)[r.id]
        assert done[r.id].tokens == want.tokens
        assert done[r.id].logprobs == pytest.approx(want.logprobs, abs=1e-5)
