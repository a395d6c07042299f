"""The vllm-server engine on a really started ``vllm serve``, over loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from driving import GREEDY, prompt, recompute, run
from test_engine_vllm import ATOL, other_weights

from arpo_algo.engines.base import Request
from arpo_algo.engines.stopping import Stopping
from arpo_algo.engines.vllm_server import VLLMServerEngine, VLLMServerOptions
from arpo_algo.errors import ConfigError, TrainingError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Address and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [
        # What `vllm serve` runs; the CPU wheel's own command looks for a package by another name than its own.
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(default_model),
        "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "8", "--enforce-eager",
        "--block-size", "32", "--logprobs-mode", "processed_logprobs", "--kv-cache-memory-bytes", str(2**29),
        "--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048",
        "--weight-transfer-config", '{"backend": "arpo-files"}',
    ]  # fmt: skip
    env = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "TORCH_COMPILE_DISABLE": "1"}
    env.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)
    try:
        while True:
            if process.poll() is not None:
                pytest.fail(f"the server ended with {process.returncode}: {log.read_text()[-3000:]}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).close()
                break
            except OSError:
                time.sleep(0.5)  # bounded by the test's own time-out
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(timeout=120)


def drain(engine: VLLMServerEngine) -> None:
    while engine.busy:
        engine.step()


def connect(server: tuple[str, int], loaded: Any) -> VLLMServerEngine:
    return VLLMServerEngine(*loaded, slots=4, max_length=512, options=VLLMServerOptions(url=server[0]))


def test_tokens_ends_and_new_weights(server: tuple[str, int], loaded: Any) -> None:
    model, tokenizer = loaded
    engine = connect(server, loaded)
    before = prompt(tokenizer, "Name a river.")
    requests = [Request(i, before, 24, (), (0, i), probe=4) for i in range(3)]
    done, probed = run(engine, requests)
    again, _ = run(engine, requests)
    assert {i: e.tokens for i, e in again.items()} == {i: e.tokens for i, e in done.items()}, "by seed"
    for i, event in done.items():
        logprobs, entropies = recompute(model, before, event)
        assert torch.allclose(logprobs, torch.tensor(event.logprobs), atol=ATOL)
        lower = torch.tensor(event.entropies)
        assert (lower <= entropies + ATOL).all()
        assert (entropies <= lower + engine.entropy.largest_width + ATOL).all()
        assert probed[i].entropies == event.entropies[:4]

    free = run(engine, [Request(0, before, 16, (), (0,), GREEDY)])[0][0]
    pieces = [tokenizer.decode([t]) for t in free.tokens]
    stop = pieces[2][-1] + pieces[3] + pieces[4][:-1]
    stopped = run(engine, [Request(1, before, 16, (stop,), (0,), GREEDY)])[0][1]
    assert (stopped.tokens, stopped.reason) == (free.tokens[:5], "stop")

    short = Request(2, prompt(tokenizer, "Say hi."), 32, (), (0,), GREEDY)
    assert run(engine, [short])[0][2].reason == "eos"
    rule, engine.stopping = engine.stopping, Stopping(tokenizer, frozenset())
    assert run(engine, [short])[0][2].reason == "length", "our end tokens alone end a turn"
    engine.stopping = rule

    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights = other_weights(model)
    engine.load_weights(weights)
    new, _ = run(engine, requests[:1])
    try:
        model.load_state_dict(weights, strict=False)
        logprobs, _ = recompute(model, before, new[0])
    finally:
        model.load_state_dict(kept, strict=False)
    assert torch.allclose(logprobs, torch.tensor(new[0].logprobs), atol=ATOL), "a stale tied head would show here"
    engine.load_weights(kept)  # a second transfer, back again
    assert {i: e.tokens for i, e in run(engine, requests)[0].items()} == {i: e.tokens for i, e in done.items()}
    engine.close()


def test_its_engine_process_is_killed(server: tuple[str, int], loaded: Any) -> None:
    """The last test of this server."""
    url, pid = server
    engine = connect(server, loaded)
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    core = next(p for p in processes if "EngineCore" in p.name())
    for i in range(3):
        engine.submit(Request(i, prompt(loaded[1], "Name a river."), 400, (), (0, i)))
    engine.step()
    core.send_signal(signal.SIGKILL)
    with pytest.raises(TrainingError, match=f"then: .* The vLLM server at {url} (is gone|answers, but its engine)"):
        drain(engine)
    assert not engine.busy
    engine.close()
    # vLLM's other processes end by themselves: none is left for the next server to share the machine with.
    _, alive = psutil.wait_procs(processes, timeout=300)
    assert not alive
    with pytest.raises(ConfigError, match=r"no usable vLLM server: .*cannot be reached"):
        connect(server, loaded)
