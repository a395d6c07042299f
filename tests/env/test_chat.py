"""The chat client against a real server on loopback: what is sent, what is read, and how failures are sorted."""

from __future__ import annotations

import copy
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("openai", reason="needs the extra openai")

from loopback_chat import Reply, chat_server, completion, refusal

from arpo_env.chat import ChatClient, Completion, ContextOverflow, Usage
from arpo_env.errors import ConfigError, InfraError

ASK = [{"role": "user", "content": "2+2?"}]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_the_request_holds_what_was_asked_and_the_reply_is_read() -> None:
    reply = completion("4</answer>", stop_reason="</answer>")
    with chat_server([reply]) as server, ChatClient(server.url, "m", api_key="k") as client:
        got = client.complete(
            ASK, temperature=0.6, max_tokens=9, stop=["</answer>"], top_p=0.95, seed=3, extra={"top_k": 20}
        )
    assert got == Completion("4</answer>", "stop", Usage(7, 3), "</answer>")
    assert server.requests == [
        {
            "model": "m", "messages": ASK, "temperature": 0.6, "max_tokens": 9, "stop": ["</answer>"],
            "top_p": 0.95, "seed": 3, "top_k": 20,
        }
    ]  # fmt: skip
    assert server.keys == ["Bearer k"]


def test_what_is_not_given_is_not_sent() -> None:
    with chat_server([completion("4")]) as server, ChatClient(server.url, "m") as client:
        client.complete(ASK)
    assert server.requests == [{"model": "m", "messages": ASK, "temperature": 1.0}]
    assert server.keys == ["Bearer EMPTY"]


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-env")
    with chat_server([completion("4")]) as server, ChatClient(server.url, "m") as client:
        client.complete(ASK)
        assert "from-env" not in repr(client)
    assert server.keys == ["Bearer from-env"]


def test_absent_text_usage_and_set_aside_thoughts() -> None:
    message = {"role": "assistant", "content": None, "reasoning_content": "hm"}
    reply = completion(None, message=message, usage=False, finish_reason="length")
    with chat_server([reply]) as server, ChatClient(server.url, "m") as client:
        assert client.complete(ASK) == Completion("", "length", reasoning="hm")


@pytest.mark.parametrize("fault", [refusal(429, "slow down"), refusal(503, "starting"), refusal(500, "oops"), Reply()])
def test_what_may_pass_is_tried_again(fault: Reply) -> None:
    with chat_server([fault, fault, completion("4")]) as server, ChatClient(server.url, "m", retries=2) as client:
        assert client.complete(ASK).text == "4"
    assert len(server.requests) == 3


@pytest.mark.parametrize(("status", "word"), [(429, "throttled"), (503, "failed")])
def test_retries_are_bounded_and_end_as_infra_errors(status: int, word: str) -> None:
    with chat_server([refusal(status, "not now")]) as server, ChatClient(server.url, "m", retries=2) as client:
        match = rf"{word} \(3 attempts; HTTP {status}: not now"
        with pytest.raises(InfraError, match=match):
            client.complete(ASK)
    assert len(server.requests) == 3


def test_a_server_that_is_not_there_is_infra() -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        client = ChatClient(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "m", retries=0)
        with client, pytest.raises(InfraError, match="Is the server running"):
            client.complete(ASK)


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (refusal(401, "bad key"), ConfigError, "OPENAI_API_KEY"),
        (refusal(403, "no"), ConfigError, "OPENAI_API_KEY"),
        (refusal(400, "temperature must be 1"), ConfigError, "temperature must be 1"),
        (refusal(400, "This model's maximum context length is 512 tokens."), ContextOverflow, "512"),
        (refusal(400, "no", code="context_length_exceeded"), ContextOverflow, "too long"),
        (Reply("<html>welcome</html>"), ConfigError, "ends in /v1"),
        (Reply({"hello": 1}), ConfigError, "ends in /v1"),
    ],
)
def test_what_cannot_work_is_told_at_once(reply: Reply, error: type[ConfigError], words: str) -> None:
    with chat_server([reply]) as server, ChatClient(server.url, "m") as client:
        with pytest.raises(error, match=words) as raised:
            client.complete(ASK)
        assert type(raised.value) is error
    assert len(server.requests) == 1


def test_an_unknown_model_gets_the_nearest_name() -> None:
    with chat_server([refusal(404, "The model `smol` does not exist.")]) as server:
        server.models = ("smollm2", "qwen3")
        with ChatClient(server.url, "smolm2") as client, pytest.raises(ConfigError, match="did you mean 'smollm2'"):
            client.complete(ASK)


def test_a_wrong_path_is_named() -> None:
    with chat_server([completion("4")]) as server:
        client = ChatClient(server.url.removesuffix("/v1"), "m")
        with client, pytest.raises(ConfigError, match="ends in /v1"):
            client.complete(ASK)


def test_models() -> None:
    with chat_server([]) as server, ChatClient(server.url, "m") as client:
        assert client.models() == ["m"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "127.0.0.1:8000"}, "http://"),
        ({"model": ""}, "model is empty"),
        ({"timeout": 0.0}, "timeout"),
        ({"retries": -1}, "retries"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ChatClient(**({"base_url": "http://127.0.0.1:1/v1", "model": "m"} | options))  # type: ignore[arg-type]


def test_threads_share_one_client_and_copies_are_it() -> None:
    with chat_server(lambda request: completion(request["messages"][0]["content"])) as server:
        client = ChatClient(server.url, "m")
        with client, ThreadPoolExecutor(8) as pool:
            assert copy.deepcopy(client) is client
            texts = [str(n) for n in range(40)]
            got = pool.map(lambda text: client.complete([{"role": "user", "content": text}]).text, texts)
            assert list(got) == texts
