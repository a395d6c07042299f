"""The in-process vLLM engine against the contract of engines, and against the torch engine's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from driving import GREEDY, prompt, recompute, run

from arpo_algo.engines.base import Finished, Request, Sampling
from arpo_algo.engines.stopping import Stopping
from arpo_algo.engines.torch import TorchEngine
from arpo_algo.errors import ConfigError, TrainingError

ATOL = 2e-4  # float32 against float32: other kernels, other order of sums; measured 3e-5


def other_weights(model: Any) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(0)
    return {
        name: p.detach() + 0.01 * torch.randn(p.shape, generator=noise) if p.dim() > 1 else p.detach()
        for name, p in model.named_parameters()
    }


def test_sampled_logprobs_and_entropies_are_the_model_s(engine: Any, loaded: Any) -> None:
    model, tokenizer = loaded
    before = prompt(tokenizer, "Name a river.")
    done, _ = run(engine, [Request(i, before, 24, (), (0, i)) for i in range(4)])
    assert len({e.tokens for e in done.values()}) > 1, "each request draws from its own stream"
    for event in done.values():
        logprobs, entropies = recompute(model, before, event)
        assert torch.allclose(logprobs, torch.tensor(event.logprobs), atol=ATOL)
        lower = torch.tensor(event.entropies)
        assert (lower <= entropies + ATOL).all(), "the k=20 bound lies below the exact entropy"
        assert (entropies <= lower + engine.entropy.largest_width + ATOL).all()
    assert 0 < engine.entropy.mean_width <= engine.entropy.largest_width


def test_greedy_is_the_torch_engine_s_greedy(engine: Any, loaded: Any) -> None:
    model, tokenizer = loaded
    requests = [
        Request(i, prompt(tokenizer, text), 32, (), (0, i), GREEDY)
        for i, text in enumerate(("Name a river.", "What is 2+2?", "Say hi."))
    ]
    ours, _ = run(engine, requests)
    reference, _ = run(TorchEngine(model, tokenizer, slots=4, max_length=512), requests)
    for i, event in reference.items():
        assert ours[i].tokens == event.tokens
        assert (ours[i].text, ours[i].reason) == (event.text, event.reason)
        assert ours[i].logprobs == pytest.approx(event.logprobs, abs=ATOL)
    assert "eos" in {e.reason for e in ours.values()}, "the model says its end token in one of these"
    for event in ours.values():
        assert (event.tokens[-1] in engine.stopping.eos) == (event.reason == "eos")


def test_our_end_tokens_alone_end_a_turn(engine: Any, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM reads end tokens of its own from the checkpoint; it may not stop at one that the contract does not name."""
    tokenizer = loaded[1]
    request = Request(0, prompt(tokenizer, "Say hi."), 32, (), (0,), GREEDY)
    ended = run(engine, [request])[0][0]
    assert ended.reason == "eos"
    monkeypatch.setattr(engine, "stopping", Stopping(tokenizer, frozenset()))
    event = run(engine, [request])[0][0]
    assert event.reason == "length"
    assert event.tokens[: len(ended.tokens)] == ended.tokens


def test_temperature_and_truncation_give_logprobs_of_what_was_drawn_from(engine: Any, loaded: Any) -> None:
    model, tokenizer = loaded
    before = prompt(tokenizer, "Name a river.")
    warm, nucleus, top = Sampling(0.5), Sampling(1.0, top_p=0.7), Sampling(1.0, top_k=3)
    done, _ = run(engine, [Request(i, before, 8, (), (1, i), s) for i, s in enumerate((warm, nucleus, top))])
    model.set_attn_implementation("sdpa")
    for i, event in done.items():
        with torch.no_grad():
            logits = model(torch.tensor([[*before, *event.tokens]])).logits[0, len(before) - 1 : -1].float()
        for row, token, said in zip(logits, event.tokens, event.logprobs, strict=True):
            logp = (row / (0.5 if i == 0 else 1.0)).log_softmax(-1)
            if i == 1:
                p, order = logp.exp().sort(descending=True)
                kept = order[: int((p.cumsum(-1) - p < 0.7).sum())]
            elif i == 2:
                kept = logp.topk(3).indices
            else:
                kept = torch.arange(len(logp))
            assert token in kept
            assert said == pytest.approx(float(logp[token] - logp[kept].logsumexp(-1)), abs=1e-3)


def test_a_probe_comes_after_k_tokens_and_the_request_goes_on(engine: Any, loaded: Any) -> None:
    before = prompt(loaded[1], "Name a river.")
    done, probed = run(engine, [Request(i, before, n, (), (0, i), probe=5) for i, n in enumerate((12, 5, 3))])
    assert set(probed) == {0}, "who ends with or before the k-th token has no probe"
    assert probed[0].entropies == done[0].entropies[:5]
    assert [len(done[i].tokens) for i in range(3)] == [12, 5, 3]
    assert {e.reason for e in done.values()} == {"length"}


def test_a_stop_string_ends_a_turn_wherever_token_boundaries_fall(engine: Any, loaded: Any) -> None:
    model, tokenizer = loaded
    before = prompt(tokenizer, "Name a river.")
    free = run(engine, [Request(0, before, 16, (), (0,), GREEDY)])[0][0]
    pieces = [tokenizer.decode([t]) for t in free.tokens]
    # From inside the third token to inside the fifth: no token is the stop string.
    assert len(pieces[2]) > 1
    assert len(pieces[4]) > 1
    stop = pieces[2][-1] + pieces[3] + pieces[4][:-1]
    for made in (engine, TorchEngine(model, tokenizer, slots=2, max_length=512)):
        event = run(made, [Request(1, before, 16, ("never met", stop), (0,), GREEDY)])[0][1]
        assert event.reason == "stop"
        assert event.tokens == free.tokens[:5], "whole tokens are kept"
    assert not engine._llm.has_unfinished_requests()


def test_forks_and_continuations_find_their_prefix_in_the_cache(engine: Any, loaded: Any) -> None:
    block = engine._llm.vllm_config.cache_config.block_size
    before = prompt(loaded[1], "Tell me a long story about " + "a river and a bridge and " * 20)
    assert len(before) > 3 * block
    engine._forget()
    engine.prefilled = engine.cached = 0
    first = run(engine, [Request(0, before, 2 * block, (), (0,))])[0][0]
    assert engine.prefilled == len(before)
    # Siblings of one batch, then a continuation that holds what was generated.
    run(engine, [Request(i, before, 2, (), (i,)) for i in range(1, 5)])
    own = len(before) % block or block
    assert engine.prefilled - len(before) <= 4 * own, "each sibling computes the last, partial block only"
    assert engine.cached == 4 * (len(before) - own)
    engine.prefilled = engine.cached = 0
    more = (*before, *first.tokens, 260, 261)
    run(engine, [Request(9, more, 2, (), (9,), parent=0)])
    assert engine.cached >= (len(before) + len(first.tokens)) // block * block - block
    assert engine.cached + engine.prefilled == len(more)


def test_a_request_s_draws_depend_on_its_seed_alone(engine: Any, loaded: Any) -> None:
    before = prompt(loaded[1], "Name a river.")
    alone = {i: run(engine, [Request(i, before, 12, (), (7, i))])[0][i] for i in range(3)}
    together, _ = run(engine, [Request(i, before, 12, (), (7, i)) for i in (2, 0, 1)])
    again, _ = run(engine, [Request(i, before, 12, (), (7, i)) for i in (2, 0, 1)])
    assert {i: e.tokens for i, e in together.items()} == {i: e.tokens for i, e in alone.items()}
    assert {i: e.tokens for i, e in again.items()} == {i: e.tokens for i, e in alone.items()}


def test_prompts_beyond_one_step_wait_whole(engine: Any, loaded: Any) -> None:
    model, tokenizer = loaded
    engine._forget()
    text = "a river and a bridge and " * 30
    before = [prompt(tokenizer, f"Story {i} about {text}") for i in range(3)]
    budget = engine._llm.vllm_config.scheduler_config.max_num_batched_tokens
    assert sum(map(len, before)) > budget > max(map(len, before))
    done, _ = run(engine, [Request(i, tokens, 4, (), (0, i)) for i, tokens in enumerate(before)])
    for i, tokens in enumerate(before):
        logprobs, _ = recompute(model, tokens, done[i])
        assert torch.allclose(logprobs, torch.tensor(done[i].logprobs), atol=ATOL)
        alone = run(engine, [Request(i, tokens, 4, (), (0, i))])[0][i]
        assert alone.tokens == done[i].tokens, "waiting costs no draw"


def test_new_weights_change_what_is_said_and_nothing_of_the_old_stays(engine: Any, loaded: Any) -> None:
    model, tokenizer = loaded
    before = prompt(tokenizer, "Tell me a story about " + "a river and a bridge and " * 8)
    requests = [Request(i, before, 12, (), (0, i)) for i in range(2)]
    old, _ = run(engine, requests)
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights = other_weights(model)
    version = engine.version
    engine.load_weights(weights)
    assert engine.version == version + 1
    engine.cached = 0
    new, _ = run(engine, requests[:1])
    assert engine.cached == 0, "the old policy's keys are gone"
    assert new[0].tokens != old[0].tokens
    try:
        model.load_state_dict(weights, strict=False)
        logprobs, _ = recompute(model, before, new[0])  # a stale tied head would show here
        assert torch.allclose(logprobs, torch.tensor(new[0].logprobs), atol=ATOL)
    finally:
        model.load_state_dict(kept, strict=False)
        engine.load_weights(kept)
    assert {i: e.tokens for i, e in run(engine, requests)[0].items()} == {i: e.tokens for i, e in old.items()}


def test_bad_weights_are_refused_and_change_nothing(engine: Any, loaded: Any) -> None:
    model, tokenizer = loaded
    before = prompt(tokenizer, "Name a river.")
    weights = dict(model.named_parameters())
    version = engine.version
    with pytest.raises(ConfigError, match="weights lack 1 of the model's parameters"):
        engine.load_weights({n: w for n, w in weights.items() if n != "model.norm.weight"})
    with pytest.raises(ConfigError, match=r"model.norm.weight has shape \(3,\)"):
        engine.load_weights({**weights, "model.norm.weight": torch.zeros(3)})
    engine.submit(Request(0, before, 4, (), (0,)))
    with pytest.raises(ConfigError, match="while requests are running"):
        engine.load_weights(weights)
    while engine.busy:
        engine.step()
    assert engine.version == version


def test_diverged_weights_stop_the_run_and_leave_nothing_behind(engine: Any, loaded: Any) -> None:
    model, tokenizer = loaded
    before = prompt(tokenizer, "Name a river.")
    weights = dict(model.named_parameters())
    engine.load_weights({**weights, "model.norm.weight": torch.full_like(weights["model.norm.weight"], float("nan"))})
    engine.submit(Request(3, before, 4, (), (0,)))
    try:
        with pytest.raises(TrainingError, match="weights have diverged"):
            engine.step()
        assert not engine.busy
    finally:
        engine.load_weights(weights)
    assert isinstance(run(engine, [Request(3, before, 4, (), (0,))])[0][3], Finished)


def test_what_does_not_fit_is_refused_before_work(engine: Any) -> None:
    with pytest.raises(ConfigError, match=r"needs 513 tokens \(500 given \+ 13 new\) but the engine holds 512"):
        engine.submit(Request(0, tuple(range(100, 600)), 13, (), (0,)))
    with pytest.raises(ConfigError, match="no tokens"):
        engine.submit(Request(0, (), 4, (), (0,)))
    with pytest.raises(ConfigError, match="started without LoRA"):
        engine.load_adapter("/nowhere")
    assert not engine.busy
    assert engine.step() == []


def test_the_process_keeps_its_threads(engine: Any) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.get_num_threads() == 1, "vLLM's CPU worker makes this a no-op; the learner needs it"
    torch.set_num_threads(threads)
