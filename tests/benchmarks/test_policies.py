"""Policies by one word, and how each plays."""

from __future__ import annotations

import functools
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_toys import tasks
from loopback_chat import ChatServer, Reply, chat_server, completion, refusal
from toy_env import toy

from arpo_algo.chatpolicy import ChatPolicy, whole_turn
from arpo_algo.engines.base import Sampling
from arpo_algo.episodes import Episode, Policy, agent, run_episode
from arpo_algo.errors import ConfigError, TrainingError
from arpo_env.chat import ChatClient, Completion
from arpo_env.errors import ArpoEnvError, InfraError
from benchmarks.policies import Settings, choose, identity
from benchmarks.policies.identity import of_folder, of_function
from benchmarks.selection import Wanted, select


def play(policy: Policy, index: int = 0, **options: Any) -> Episode:
    return run_episode(toy(**options)[0], policy, {"task_id": tasks(index + 1)[index]}, (0, index))


# ---------------------------------------------------------------------- words


class TestWords:
    @pytest.mark.parametrize(
        ("word", "says"),
        [
            ("exprt", "did you mean 'expert'"),
            ("nothing at all", "openai:URL#MODEL"),
            ("openai:http://127.0.0.1:1/v1", "must be openai:URL#MODEL"),
            ("openai:ftp://x#m", "base_url must look like"),
            ("script:nomodule", "must name a module and a function"),
            ("script:no_such_module.act", "cannot import 'no_such_module'"),
            ("script:benchmarks.policies.scripted.load_scrip", "did you mean 'load_script'"),
            ("./no/such/folder", "neither a folder"),
        ],
    )
    def test_that_name_nothing(self, word: str, says: str) -> None:
        with pytest.raises((ConfigError, ArpoEnvError), match=says.replace("(", r"\(")):
            choose(word, Settings())

    def test_engines(self) -> None:
        pytest.importorskip("torch")
        with pytest.raises(ConfigError, match="did you mean 'torch'"):
            choose("trch:owner/name", Settings())
        with pytest.raises(ConfigError, match="names no model"):
            choose("torch:", Settings())
        with pytest.raises(ConfigError, match="layout='turns' is for chat endpoints"):
            choose("owner/name", Settings(layout="turns"))

    def test_settings(self) -> None:
        with pytest.raises(ConfigError, match="concurrency must be >= 1"):
            choose("expert", Settings(concurrency=0))
        with pytest.raises(ConfigError, match="did you mean 'turns'"):
            choose("openai:http://127.0.0.1:1/v1#m", Settings(layout="turn")).build()
        record = choose("openai:http://127.0.0.1:1/v1#m", Settings(temperature=0.0, concurrency=3)).record
        assert (record["temperature"], record["top_p"], record["model"]) == (0.0, 0.95, "m")
        assert "concurrency" not in record, "it decides nothing about the samples"


class TestIdentity:
    def test_other_weights_are_another_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where a file is so large that only a sample of it is read, and wherever the folder lies."""
        (tmp_path / "m").mkdir()
        (tmp_path / "m/config.json").write_text("{}")
        weights = tmp_path / "m/model.safetensors"
        weights.write_bytes(bytes(range(256)) * 40)
        for whole in (1 << 20, 1000):
            monkeypatch.setattr(identity, "_WHOLE", whole)
            monkeypatch.setattr(identity, "_BLOCK", 16)
            before = of_folder(tmp_path / "m")
            copied = shutil.copytree(tmp_path / "m", tmp_path / f"copy-{whole}")
            assert of_folder(copied) == before
            old = weights.read_bytes()
            weights.write_bytes(bytes((b + 1) % 256 for b in old))
            assert of_folder(tmp_path / "m") != before
            weights.write_bytes(old)

    def test_a_local_model_is_recorded_with_its_contents(self, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        (tmp_path / "config.json").write_text("{}")
        record = choose(str(tmp_path), Settings()).record
        (tmp_path / "model.safetensors").write_bytes(b"trained on")
        assert choose(str(tmp_path), Settings()).record != record

    def test_a_function_is_its_file(self, tmp_path: Path) -> None:
        assert of_function(of_folder) == of_function(of_function) != of_function(choose)
        assert of_function(functools.partial(choose)) != "", "the class of an object that is called"
        assert of_function(len) == ""


# ---------------------------------------------------------------------- scripted


def test_expert_and_random() -> None:
    assert play(choose("expert", Settings()).build()).outcome.is_success
    guesser = choose("random", Settings()).build()
    episodes = [play(guesser, i) for i in range(20)]
    assert all(e.outcome.info["format_ok"] for e in episodes)
    assert sum(e.outcome.tool_calls for e in episodes) > 0
    assert not any(e.outcome.is_success for e in episodes)
    assert play(guesser, 3).messages == episodes[3].messages, "random, and the same for the same seed"


class TestScript:
    @pytest.fixture
    def script(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Policy]:
        def load(body: str) -> Policy:
            (tmp_path / "my_policy.py").write_text(f"def act(messages):\n{body}")
            monkeypatch.syspath_prepend(tmp_path)
            monkeypatch.delitem(sys.modules, "my_policy", raising=False)
            return choose("script:my_policy.act", Settings()).build()

        return load

    def test_sees_the_chat(self, script: Callable[[str], Policy]) -> None:
        policy = script(
            "    if len(messages) == 2:\n"
            "        return '<think>t</think><python>add 1 2</python>'\n"
            "    assert [m['role'] for m in messages] == ['system', 'user', 'assistant', 'tool']\n"
            "    return '<think>t</think><answer>' + r'\\boxed{' + messages[-1]['content'].split()[1] + '}</answer>'\n"
        )
        assert play(policy).outcome.answer == "3"

    def test_that_fails_stops_the_run_and_says_where(self, script: Callable[[str], Policy]) -> None:
        with pytest.raises(TrainingError, match=r"script my_policy.act raised KeyError: 'x' .*line 2, in act"):
            play(script("    return {}['x']\n"))
        with pytest.raises(ConfigError, match=r"must return the next turn \(str\), got int"):
            play(script("    return 5\n"))


# ---------------------------------------------------------------------- endpoints


def chat(server: ChatServer, **options: Any) -> ChatPolicy:
    client = ChatClient(server.url, "m", api_key="k", retries=1)
    values: dict[str, Any] = {"sampling": Sampling(0.6, 0.95), "max_turn_tokens": 64, "max_tokens": 500}
    return ChatPolicy(client, **(values | options))


SEARCH, ADD = "<think>a</think><search>x", "<think>a</think><python>add 1 2"
ANSWER = r"<think>b</think><answer>\boxed{3}"


class TestEndpoint:
    def test_several_turns(self) -> None:
        with chat_server([completion(SEARCH), completion(ADD), completion(ANSWER)]) as server:
            episode = play(chat(server))
        assert (episode.outcome.answer, episode.outcome.tool_calls, episode.tool_errors) == ("3", 2, 1)
        assert (episode.prompt_tokens, episode.completion_tokens) == (21, 9), "as the server counted"
        first, second, third = server.requests
        assert [m["role"] for m in third["messages"]] == ["system", "user", "assistant", "user", "assistant", "user"]
        assert third["messages"][-2]["content"] == f"{ADD}</python>", "the stop string it was cut at is put back"
        assert third["messages"][-1]["content"] == "<result>\n3\n</result>"
        assert first["stop"] == ["</python>", "</search>", "</answer>"]
        assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.6, 0.95, 64)
        assert "top_k" not in first
        assert first["seed"] != second["seed"]
        assert all(0 <= r["seed"] < 2**31 for r in server.requests)

    def test_inline_goes_on_with_one_message(self) -> None:
        with chat_server([completion(SEARCH), completion(ADD), completion(ANSWER)]) as server:
            episode = play(chat(server, layout="inline", sampling=Sampling(0.6, 0.95, 20)))
        assert episode.outcome.answer == "3"
        first, _, third = server.requests
        assert "continue_final_message" not in first
        assert (third["continue_final_message"], third["add_generation_prompt"], third["top_k"]) == (True, False, 20)
        assert [m["role"] for m in third["messages"]] == ["system", "user", "assistant"]
        said = third["messages"][-1]["content"]
        assert said.startswith(f"{SEARCH}</search>\n<result>")
        assert said.endswith(f"{ADD}</python>\n<result>\n3\n</result>\n")

    def test_its_budget(self) -> None:
        """The server counts 10 tokens a call: of 25, 15 are left for the second; 10 are spent by the first."""
        with chat_server([completion(SEARCH), completion(ANSWER)]) as server:
            assert play(chat(server, max_tokens=25)).outcome.stop_reason == "answered"
            assert [r["max_tokens"] for r in server.requests] == [25, 15]
        with chat_server([completion(SEARCH)]) as server:
            assert play(chat(server, max_tokens=10)).outcome.stop_reason == "max_tokens"
            assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("budget", "turn", "ended"),
        [
            (5, 64, ("max_tokens", True)),  # no more than the budget was asked for
            (500, 64, ("malformed:empty", False)),  # cut by the turn's own limit: the model was too long
            (10, 4, ("max_tokens", True)),  # less was asked for, and with the prompt the budget is spent
        ],
    )
    def test_a_turn_cut_by_the_budget_is_no_mistake_of_its_format(
        self, budget: int, turn: int, ended: tuple[str, bool]
    ) -> None:
        half = completion("<think>I was still thinking when", finish_reason="length")
        with chat_server([half]) as server:
            episode = play(chat(server, max_tokens=budget, max_turn_tokens=turn))
        assert (episode.outcome.stop_reason, episode.outcome.truncated) == ended
        assert (episode.prompt_tokens, episode.completion_tokens) == (7, 3), "they were sampled, and are counted"

    def test_a_conversation_too_long_is_the_episodes_end(self) -> None:
        too_long = refusal(400, "This model's maximum context length is 8192 tokens", code="context_length_exceeded")
        with chat_server([completion(SEARCH), too_long]) as server:
            episode = play(chat(server))
        assert (episode.outcome.truncated, episode.outcome.stop_reason) == (True, "max_tokens")

    def test_without_usage_tokens_are_unknown(self) -> None:
        with chat_server([completion(ANSWER, usage=False)]) as server:
            episode = play(chat(server))
        assert (episode.prompt_tokens, episode.completion_tokens) == (None, None)

    @pytest.mark.parametrize(
        ("reply", "kind", "says"),
        [
            (refusal(401, "Incorrect API key provided"), ArpoEnvError, "refuses the key.*OPENAI_API_KEY"),
            (refusal(404, "no such model"), ArpoEnvError, "path or model"),
            (refusal(400, "Unsupported parameter: 'top_p'"), ArpoEnvError, "Unsupported parameter"),
            (refusal(503, "loading"), InfraError, "failed .2 attempts"),
            (Reply(None), InfraError, "cannot be reached"),
        ],
    )
    def test_check_says_what_is_wrong(self, reply: Reply, kind: type[Exception], says: str) -> None:
        with chat_server([reply]) as server, pytest.raises(kind, match=says):
            chat(server).check()

    def test_check_asks_as_an_episode_does(self) -> None:
        with chat_server([completion("y", finish_reason="length")]) as server:
            chat(server).check()
        assert set(server.requests[0]) >= {"stop", "seed", "top_p", "temperature", "max_tokens"}

    def test_refuses_numbers_out_of_range(self) -> None:
        with pytest.raises(ConfigError, match="max_tokens=0"):
            ChatPolicy(ChatClient("http://127.0.0.1:1/v1", "m"), sampling=Sampling(), max_turn_tokens=1, max_tokens=0)


STOP = ("</python>", "</search>", "</answer>")


@pytest.mark.parametrize(
    ("reply", "turn"),
    [
        (Completion("<think>t</think><search>x", "stop"), "<think>t</think><search>x</search>"),
        (Completion("<search>x</search>", "stop"), "<search>x</search>"),  # a server that keeps it
        (Completion("<search>x", "length"), "<search>x"),
        (Completion("I do not know.", "stop"), "I do not know."),
        (Completion("<think>no <search> here</think>So.", "stop"), "<think>no <search> here</think>So."),
        (Completion("<search>x <answer>y", "stop"), "<search>x <answer>y</answer>"),
        (Completion("<search>x", "stop", stop_string="</search>"), "<search>x</search>"),
        (Completion("none opened", "stop", stop_string="</answer>"), "none opened</answer>"),
        (Completion("<answer>4", "stop", reasoning="2+2"), "<think>2+2</think>\n<answer>4</answer>"),
    ],
)
def test_the_turn_is_made_whole(reply: Completion, turn: str) -> None:
    assert whole_turn(reply, STOP) == turn


# ---------------------------------------------------------------------- engines


class TestEngine:
    @pytest.fixture
    def policy_of(self) -> Callable[..., Any]:
        pytest.importorskip("torch")
        from toy import ScriptedEngine, byte_tokenizer

        from arpo_algo.rendering import Renderer
        from benchmarks.policies.local import EnginePolicy

        def make(script: Callable[..., Any], **options: Any) -> Any:
            tokenizer = byte_tokenizer()
            values: dict[str, Any] = {"max_turn_tokens": 200, "max_tokens": 4000, "concurrency": 4}
            return EnginePolicy(
                ScriptedEngine(tokenizer, script), Renderer(tokenizer), sampling=Sampling(), **(values | options)
            )

        return make

    def test_several_turns(self, policy_of: Callable[..., Any]) -> None:
        seen = []

        def say(before: str, rng: Any) -> tuple[str, list[float]]:
            seen.append(before)
            return (ANSWER + "</answer>", [0.1]) if "\n3\n" in before else (ADD + "</python>", [0.1])

        policy = policy_of(say)
        episode = play(policy)
        policy.close()
        assert episode.outcome.answer == "3"
        assert episode.completion_tokens == len(ADD + "</python>" + ANSWER + "</answer>"), "bytes are its tokens"
        assert seen[1].startswith(seen[0] + ADD + "</python>\n<result>\n3\n</result>\n"), "one assistant turn goes on"
        assert not policy.engine.held, "nothing is held after the episode"

    def test_episodes_share_the_engine(self, policy_of: Callable[..., Any]) -> None:
        policy = policy_of(lambda before, rng: (ANSWER + "</answer>", [0.1]))
        threads = [threading.Thread(target=play, args=(policy, i)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        policy.close()
        assert len(policy.engine.log) == 4

    def test_budget(self, policy_of: Callable[..., Any]) -> None:
        policy = policy_of(lambda before, rng: (SEARCH + "</search>", [0.1]), max_tokens=10)
        assert play(policy).outcome.stop_reason == "max_tokens", "a prompt that leaves no room"
        policy.close()

    def test_a_turn_cut_by_the_budget_is_no_mistake_of_its_format(self, policy_of: Callable[..., Any]) -> None:
        whole = policy_of(lambda before, rng: (ANSWER + "</answer>", [0.1]))
        used = play(whole)
        whole.close()
        assert used.prompt_tokens is not None
        policy = policy_of(lambda before, rng: (ANSWER + "</answer>", [0.1]), max_tokens=used.prompt_tokens + 7)
        episode = play(policy)
        policy.close()
        assert (episode.outcome.stop_reason, episode.outcome.truncated) == ("max_tokens", True)
        assert episode.completion_tokens == 7, "they were sampled, and are counted"

    def test_an_engine_that_dies_is_said_to_everyone(self, policy_of: Callable[..., Any]) -> None:
        def say(before: str, rng: Any) -> tuple[str, list[float]]:
            return ANSWER + "</answer>", [0.1]

        policy = policy_of(say)

        def step() -> list[Any]:
            raise RuntimeError("CUDA out of memory")

        policy.engine.step = step
        for _ in range(2):
            with pytest.raises(TrainingError, match="the engine stopped: RuntimeError: CUDA out of memory"):
                play(policy)
        policy.close()

    def test_a_refused_request_fails_alone(self, policy_of: Callable[..., Any]) -> None:
        refused = toy()[0].family.task(0, "test", 1).question

        def say(before: str, rng: Any) -> tuple[str, list[float]]:
            if refused in before:
                raise ConfigError("does not fit")
            return ANSWER + "</answer>", [0.1]

        policy = policy_of(say)
        with pytest.raises(ConfigError, match="does not fit"):
            play(policy, 1)
        assert play(policy, 0).outcome.answer == "3", "the engine goes on"
        policy.close()
        with pytest.raises(TrainingError, match="the engine was closed"):
            play(policy)


# ---------------------------------------------------------------------- published checkpoints


class TestPresets:
    def test_by_name_on_the_hub(self) -> None:
        pytest.importorskip("torch")
        choice = choose("Qwen3-8B-ARPO-DeepSearch", Settings(top_p=0.9))
        assert choice.record["model"] == "dongguanting/Qwen3-8B-ARPO-DeepSearch"
        assert (choice.record["temperature"], choice.record["top_p"], choice.record["top_k"]) == (0.6, 0.9, 20)
        assert choice.record["max_tokens"] == 10192
        assert choice.preset is not None
        assert choice.preset.prompt == "paper"

    def test_served_under_its_name(self) -> None:
        choice = choose("openai:http://127.0.0.1:1/v1#/models/Qwen2.5-3B-ARPO", Settings())
        assert (choice.record["layout"], choice.record["top_k"]) == ("inline", 20), "as it was trained"
        assert choice.preset is not None
        assert choose("openai:http://127.0.0.1:1/v1#qwen2.5-3b-instruct", Settings()).preset is None

    def test_its_environments(self, tmp_path: Path) -> None:
        (tmp_path / "gsm8k").mkdir()
        (tmp_path / "gsm8k/test.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
        preset = choose("openai:http://127.0.0.1:1/v1#Qwen2.5-3B-ARPO", Settings()).preset
        wanted = {"suites": ["GSM8K"], "data_dir": str(tmp_path), "preset": preset, "options": {"GSM8K": {"tools": []}}}
        ((one,), _) = select(Wanted(**wanted))
        env = agent(one.env)
        assert (env.prompt, env.max_tool_calls) == ("paper", 5), "five Python calls where nothing is searched"
        ((one,), _) = select(Wanted(**wanted, prompt="compact", max_tool_calls=2))
        assert (agent(one.env).prompt, agent(one.env).max_tool_calls) == ("compact", 2), "what the user says goes first"
        assert one.record["options"]["max_tool_calls"] == 2
