"""The vllm-server engine's own work, against a stand-in: tokens, ends, failures, weights. No vLLM needed.

The real server is in test_server_vllm.py.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from completions_server import FakeServer, serving
from driving import run
from toy import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from arpo_algo.engines.base import Request
from arpo_algo.engines.vllm_server import VLLMServerEngine, VLLMServerOptions
from arpo_algo.errors import ConfigError, TrainingError


@pytest.fixture(scope="module")
def model() -> Any:
    config = AutoConfig.for_model(
        "llama", vocab_size=260, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        eos_token_id=257, tie_word_embeddings=True,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as made:
        yield made


@pytest.fixture
def engine(server: FakeServer, model: Any, tmp_path: Any) -> Iterator[VLLMServerEngine]:
    made = connect(server, model, folder=str(tmp_path))
    yield made
    made.close()


def connect(server: FakeServer, model: Any, max_length: int = 128, **options: Any) -> VLLMServerEngine:
    chosen = VLLMServerOptions(url=server.url, top_logprobs=4, timeout=60.0, **options)
    return VLLMServerEngine(model, byte_tokenizer(), slots=4, max_length=max_length, options=chosen)


def request(id: int, new: int = 8, stop: tuple[str, ...] = (), probe: int = 0) -> Request:
    return Request(id, (72, 105), new, stop, (0, id), probe=probe)


def test_tokens_come_as_sampled_with_probe_and_bounds(server: FakeServer, engine: VLLMServerEngine) -> None:
    done, probed = run(engine, [request(0, probe=3), request(1, 2)])
    assert done[0].tokens == tuple(server.script[:8])
    assert done[0].logprobs == pytest.approx((math.log(0.25),) * 8)
    assert (done[0].reason, done[1].reason) == ("length", "length")
    assert probed[0].entropies == done[0].entropies[:3]
    assert 1 not in probed
    p = [0.25, 0.25, 0.125, 0.0625]
    lower = -sum(x * math.log(x) for x in p) - (1 - sum(p)) * math.log(min(p))
    assert done[0].entropies[0] == pytest.approx(lower), "4 largest of the 5 that the server lists"
    body = next(b for path, b in server.calls if path == "/v1/completions" and b.get("stream"))
    assert body["prompt"] == [72, 105]
    assert "stop" not in body, "ends are decided by the engine, by tokens"


def test_a_stop_string_hangs_up(server: FakeServer, engine: VLLMServerEngine) -> None:
    text = engine.tokenizer.decode(server.script[2:4])
    server.script = server.script * 2000  # the server would go on for long
    stopped, _ = run(engine, [Request(0, (72,), 100, (text,), (0,))])
    assert stopped[0].reason == "stop"
    assert stopped[0].tokens == tuple(server.script[:4])
    assert not engine.busy
    again, _ = run(engine, [request(0)])  # the same id again: late tokens of the first are not its own
    assert again[0].tokens == tuple(server.script[:8])


def test_a_server_that_hangs_keeps_no_run_from_ending(server: FakeServer, engine: VLLMServerEngine) -> None:
    """The interpreter waits at its exit for threads that are no daemons, as an executor's are not."""
    server.script = server.script * 2000
    engine.submit(request(0, 100))
    followers = [t for t in threading.enumerate() if t.name.startswith("arpo-vllm")]
    assert followers
    assert all(t.daemon for t in followers)


def test_an_end_token_ends(server: FakeServer, engine: VLLMServerEngine) -> None:
    server.script = [65, 257]
    assert run(engine, [request(0)])[0][0].reason == "eos"


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        (
            "breaks off",
            r"got 2 tokens, then: .*ended early\. The vLLM server at http.* still answers; its log says more",
        ),
        ("engine dead", "got 2 tokens, then: .* answers, but its engine process is dead; start it again and resume"),
        ("reports an error", "got 2 tokens, then: the server reports .*engine died"),
        ("NaN", "weights have diverged"),
    ],
)
def test_a_broken_stream_is_an_error_and_no_short_turn(
    server: FakeServer, engine: VLLMServerEngine, flaw: str, said: str
) -> None:
    server.flaw = flaw
    with pytest.raises(TrainingError, match=said):
        run(engine, [request(0), request(1)])
    assert not engine.busy, "a step that fails gives up all requests"


def test_weights_arrive_under_every_name_and_the_cache_key_changes(
    server: FakeServer, engine: VLLMServerEngine, model: Any
) -> None:
    weights = {name: torch.full_like(p, 2.0) for name, p in model.named_parameters()}
    engine.load_weights(weights)
    assert set(server.weights) == {*weights, "lm_head.weight"}
    assert (server.weights["lm_head.weight"] == 2.0).all()
    routes = [path for path, _ in server.calls if path != "/v1/completions"]
    assert routes == [
        "/pause?mode=wait&clear_cache=true", "/init_weight_transfer_engine", "/start_weight_update",
        "/update_weights", "/finish_weight_update", "/resume",
    ]  # fmt: skip
    run(engine, [request(0)])
    assert server.calls[-1][1]["cache_salt"] == "weights-1"
    engine.load_weights(weights)
    assert server.version == "arpo-2"
    engine.submit(request(1))
    with pytest.raises(ConfigError, match="while requests are running"):
        engine.load_weights(weights)


@pytest.mark.parametrize(
    ("flaw", "kind", "said"),
    [
        ("no weight routes", ConfigError, "VLLM_SERVER_DEV_MODE=1"),
        ("broken update", TrainingError, "did not take the new weights: .*500"),
        ("update forgotten", TrainingError, "has weights 'none' after 'arpo-1' were sent"),
    ],
)
def test_a_failed_update_is_never_silent(
    server: FakeServer, engine: VLLMServerEngine, model: Any, flaw: str, kind: type[Exception], said: str
) -> None:
    server.flaw = flaw
    with pytest.raises(kind, match=said):
        engine.load_weights(dict(model.named_parameters()))
    assert engine.version == 0


@pytest.mark.parametrize(
    ("flaw", "said"),
    [("raw log-probs", "another distribution than it draws from"), ("no token ids", "gives no token ids")],
)
def test_a_server_that_gives_other_numbers_is_refused(server: FakeServer, model: Any, flaw: str, said: str) -> None:
    server.flaw = flaw
    with pytest.raises(ConfigError, match=said):
        connect(server, model)


def test_addresses_and_sizes(server: FakeServer, model: Any) -> None:
    with pytest.raises(ConfigError, match="holds 128 tokens, 256 are needed"):
        connect(server, model, max_length=256)
    with pytest.raises(ConfigError, match="url must look like"):
        VLLMServerEngine(model, byte_tokenizer(), options=VLLMServerOptions(url="localhost:8000"))
    port = server.server_address[1]
    server.shutdown()
    server.server_close()
    with pytest.raises(ConfigError, match=r"no usable vLLM server: .*cannot be reached.*start it with"):
        VLLMServerEngine(model, byte_tokenizer(), options=VLLMServerOptions(url=f"http://127.0.0.1:{port}"))
