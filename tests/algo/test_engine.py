"""The torch engine on tiny real models: numbers against a plain forward, caching counted, bad input refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from arpo_algo.engines.base import Finished, Probed, Request, Sampling
from arpo_algo.engines.torch import TorchEngine, draw
from arpo_algo.errors import ConfigError, TrainingError

PROMPT = tuple(range(5, 45))


def byte_model(seed: int = 0, kind: str = "llama", **options: object) -> torch.nn.Module:
    sizes = {
        "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 257, "initializer_range": 0.3,
    }  # fmt: skip
    config = AutoConfig.for_model(kind, **{**sizes, **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def engine(model: torch.nn.Module | None = None, **options: object) -> TorchEngine:
    return TorchEngine(model or byte_model(), byte_tokenizer(), **{"slots": 8, "max_length": 256, **options})


def request(id: int, tokens: tuple[int, ...] = PROMPT, n: int = 12, seed: int = 0, **options: object) -> Request:
    return Request(id, tokens, n, options.pop("stop", ()), (seed, id), **options)  # type: ignore[arg-type]


def drain(made: TorchEngine) -> dict[int, Finished]:
    out = {}
    while made.busy:
        out.update({e.id: e for e in made.step() if isinstance(e, Finished)})
    return out


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("mistral", {"sliding_window": 7}),
        ("gemma2", {"sliding_window": 7, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
        ("gemma3_text", {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}),
    ],
)
def test_logprobs_and_entropies_are_those_of_a_plain_forward(kind: str, options: dict) -> None:
    made = engine(byte_model(kind=kind, **options))
    for i in range(5):
        made.submit(request(i, PROMPT[: 10 + 7 * i]))
    done = drain(made)
    plain = byte_model(kind=kind, **options)
    if kind == "gemma2":
        plain.set_attn_implementation("eager")  # sdpa knows no soft cap
    for i, event in done.items():
        ids = (*PROMPT[: 10 + 7 * i], *event.tokens)
        logits = plain(torch.tensor([ids])).logits[0, len(ids) - len(event.tokens) - 1 : -1]
        logp = logits.log_softmax(-1)
        chosen = logp.gather(-1, torch.tensor(event.tokens)[:, None])[:, 0]
        assert torch.allclose(chosen, torch.tensor(event.logprobs), atol=2e-5)
        assert torch.allclose(-(logp.exp() * logp).sum(-1), torch.tensor(event.entropies), atol=2e-5)


def test_fork_copies_the_prefix_and_runs_one_token() -> None:
    made = engine()
    made.submit(request(0))
    while not made._running or len(made._running[0].tokens) < 4:
        made.step()
    before = made.prefilled + made.decoded
    made.submit(request(1, seed=9))
    made.step()
    assert made.prefilled + made.decoded - before == 2, "one token of the fork, one of the running request"
    done = drain(made)
    alone = engine()
    alone.submit(request(1, seed=9))
    assert drain(alone)[1].tokens == done[1].tokens


def test_a_result_costs_its_own_tokens_only() -> None:
    made = engine()
    made.submit(request(0))
    first = drain(made)[0]
    made.prefilled = made.decoded = 0
    result = tuple(range(60, 80))
    made.submit(request(1, (*PROMPT, *first.tokens, *result), n=1, parent=0))
    drain(made)
    # The last sampled token was never run, so it is prefilled together with the result.
    assert made.prefilled + made.decoded == len(result) + 1


def test_group_of_one_prompt_is_prefilled_once() -> None:
    made = engine()
    for i in range(6):
        made.submit(request(i, n=1))
    drain(made)
    assert made.prefilled + made.decoded == len(PROMPT) + 5


def test_draws_do_not_depend_on_the_batch() -> None:
    together = engine()
    for i in range(6):
        together.submit(request(i, PROMPT[: 8 + i], seed=3))
    all_done = drain(together)
    for i in range(6):
        alone = engine()
        alone.submit(request(i, PROMPT[: 8 + i], seed=3))
        assert drain(alone)[i].tokens == all_done[i].tokens


def test_more_requests_than_slots_all_finish() -> None:
    made = engine(slots=3)
    for i in range(10):
        made.submit(request(i, PROMPT[: 5 + i]))
    done = drain(made)
    assert sorted(done) == list(range(10))
    wide = engine(slots=10)
    for i in range(10):
        wide.submit(request(i, PROMPT[: 5 + i]))
    assert {i: e.tokens for i, e in drain(wide).items()} == {i: e.tokens for i, e in done.items()}


def test_a_queue_is_not_searched_while_every_slot_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(slots=2)
    for i in range(6):
        made.submit(request(i, n=4))
    searched = waited = 0
    search = made._longest_prefix

    def counted(*args: object) -> object:
        nonlocal searched
        searched += 1
        return search(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(made, "_longest_prefix", counted)
    while made.busy:
        full, before = all(slot.owner is not None for slot in made._slots), searched
        made.step()
        assert searched == before or not full
        waited += full
    assert min(waited, searched) > 0


def test_continuations_are_not_blocked_by_new_requests_waiting_for_a_slot() -> None:
    """Turns of a held trajectory go on although the queue's head finds no slot; nothing is computed twice."""
    made = engine(slots=3)
    for i in range(3):
        made.submit(request(i, PROMPT[: 10 + i], n=2))
    first: list[Finished] = []
    while made.busy:
        first += [e for e in made.step() if isinstance(e, Finished)]
    made.submit(request(10, tuple(range(100, 120)), n=2))  # no slot is free: all three are held
    for e in first:
        made.submit(request(20 + e.id, (*PROMPT[: 10 + e.id], *e.tokens, 60, 61), n=2, parent=e.id))
    made.prefilled = made.decoded = 0
    made.step()
    assert sorted(made._running) == [20, 21, 22]
    assert made.prefilled == 3 * 3, "a result and the last sampled token each"
    for e in first:
        made.release(20 + e.id)
    while made.busy:
        for e in made.step():
            made.release(e.id)


def forced(text: str) -> torch.nn.Module:
    """A model whose every next byte is scripted by position, whatever came before."""
    tokenizer = byte_tokenizer()
    script = tokenizer.encode(text, add_special_tokens=False)
    model = byte_model()
    start = len(PROMPT)

    def forward(input_ids, position_ids, logits_to_keep, **kwargs):  # type: ignore[no-untyped-def]
        logits = torch.full((1, len(logits_to_keep), 260), -30.0)
        for row, at in enumerate(position_ids[0, logits_to_keep].tolist()):
            logits[0, row, script[at + 1 - start]] = 30.0
        return type("Out", (), {"logits": logits})

    model.forward = forward  # type: ignore[method-assign]
    return model


def test_stop_strings_over_token_boundaries_keep_whole_tokens() -> None:
    made = engine(forced("go <search>x</search> and on"))
    made.submit(request(0, n=40, stop=("</search>", "</answer>")))
    event = drain(made)[0]
    assert event.reason == "stop"
    assert event.text == "go <search>x</search>"


def test_probe_arrives_after_k_tokens_and_not_after_the_end() -> None:
    made = engine(forced("abcdefgh" * 4))
    made.submit(request(0, n=10, probe=4))
    made.submit(request(1, n=3, probe=4))
    probes: list[Probed] = []
    counts = []
    while made.busy:
        for event in made.step():
            if isinstance(event, Probed):
                probes.append(event)
                counts.append(len(made._running[0].tokens))
    assert [(p.id, len(p.entropies)) for p in probes] == [(0, 4)]
    assert counts == [4]


def test_end_token_ends_and_is_kept() -> None:
    model = byte_model()

    def forward(input_ids, logits_to_keep, **kwargs):  # type: ignore[no-untyped-def]
        logits = torch.zeros(1, len(logits_to_keep), 260)
        logits[..., 257] = 40.0
        return type("Out", (), {"logits": logits})

    model.forward = forward  # type: ignore[method-assign]
    made = engine(model)
    made.submit(request(0))
    event = drain(made)[0]
    assert event.reason == "eos"
    assert event.tokens == (257,)


def test_new_weights_drop_the_cache() -> None:
    model = byte_model(0)
    made = engine(model)
    made.submit(request(0))
    drain(made)
    other = byte_model(1)
    made.load_weights(dict(other.named_parameters()))
    made.submit(request(1))
    got = drain(made)[1]
    fresh = engine(byte_model(1))
    fresh.submit(request(1))
    assert drain(fresh)[1] == got


def test_non_finite_logits_stop_the_run() -> None:
    model = byte_model()
    with torch.no_grad():
        next(model.parameters())[:] = float("nan")
    made = engine(model)
    made.submit(request(7))
    with pytest.raises(TrainingError, match="non-finite logits"):
        made.step()


def test_bad_input_is_refused_before_work() -> None:
    made = engine()
    with pytest.raises(ConfigError, match="raise max_length"):
        made.submit(request(0, n=1000))
    with pytest.raises(ConfigError, match="no tokens"):
        made.submit(request(0, ()))
    with pytest.raises(ConfigError, match="context of 512"):
        engine(max_length=10_000)
    gpt2 = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_layer=1, n_head=2, n_embd=8, vocab_size=260))
    with pytest.raises(ConfigError, match="'gpt2' is not supported"):
        engine(gpt2)
    for bad in ({"temperature": -0.1}, {"top_p": 0.0}, {"top_k": -1}):
        with pytest.raises(ConfigError):
            Sampling(**bad)
    made.submit(request(0))
    with pytest.raises(ConfigError, match="while requests are running"):
        made.load_weights({})


class TestDraw:
    def test_frequencies_follow_the_distribution(self) -> None:
        logits = torch.randn(300, generator=torch.Generator().manual_seed(0))
        n = 20_000
        rngs = [np.random.default_rng(i) for i in range(n)]
        rows = logits.expand(n, -1)
        tokens, logprobs, _ = draw(rows, [Sampling()] * n, rngs)
        share = np.bincount(tokens, minlength=300) / n
        p = logits.softmax(-1).numpy()
        assert np.abs(share - p).max() < 5 * np.sqrt(p.max() / n)
        assert np.allclose(np.exp(logprobs), p[tokens], atol=1e-6)

    def test_tiny_tails_are_reachable_and_zero_mass_is_not(self) -> None:
        logits = torch.full((1, 1000), -float("inf"))
        logits[0, 3], logits[0, 999] = 0.0, 0.0

        class Top:
            def random(self) -> float:
                return 1 - 2**-53

        class Bottom:
            def random(self) -> float:
                return 0.0

        top, _, entropy = draw(logits, [Sampling()], [Top()])  # type: ignore[list-item]
        bottom, _, _ = draw(logits, [Sampling()], [Bottom()])  # type: ignore[list-item]
        assert (top, bottom) == ([999], [3])
        assert entropy == pytest.approx([np.log(2)])

    def test_greedy_temperature_top_k_and_top_p(self) -> None:
        logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]] * 4)
        rng = [np.random.default_rng(i) for i in range(4)]
        tokens, logprobs, entropies = draw(
            logits, [Sampling(0.0), Sampling(2.0), Sampling(top_k=1), Sampling(top_p=0.5)], rng
        )
        assert (tokens[0], tokens[2], tokens[3]) == (3, 3, 3)
        assert logprobs[2] == pytest.approx(0.0)
        assert logprobs[3] == pytest.approx(0.0), "the top token alone holds more than half"
        halved = (logits[1] / 2).log_softmax(-1)
        assert logprobs[1] == pytest.approx(float(halved[tokens[1]]))
        assert entropies[1] == pytest.approx(float(-(halved.exp() * halved).sum()))
