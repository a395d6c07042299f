"""The vLLM engine out of process: drives a ``vllm serve`` by token ids and gives it new weights by vLLM's own calls.

Start the server so (on the same files as the trainer; the first variable opens the weight routes)::

    VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --logprobs-mode processed_logprobs \\
        --weight-transfer-config '{"backend": "arpo-files"}'

Tokens stream in as they are sampled; when a turn ends is decided here, by the rule all engines share, and the
connection is closed then. Draws have the request's own seed, but in which order the tokens of different requests
come depends on the network: for runs that repeat bit by bit take an engine in process.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arpo_algo.engines import EngineSetup, register
from arpo_algo.engines._http import HTTPFailure, Server
from arpo_algo.engines.base import Event, Finished, Request, check_fits
from arpo_algo.engines.collect import Progress, TopEntropy, seed_of
from arpo_algo.engines.stopping import Stopping, end_tokens
from arpo_algo.engines.weights import WeightLayout
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.lora import merged_weights
from arpo_algo.options import opt
from arpo_algo.threads import DaemonPool

START_HINT = (
    "start it with VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs "
    '--weight-transfer-config \'{"backend": "arpo-files"}\' (docs/engines.md)'
)
_HEALTH = 10.0  # seconds that a server may take to say how it is
_NO_MASS = -9000.0  # the server sends −inf as −9999


@dataclass(frozen=True)
class VLLMServerOptions:
    """Own options of the vllm-server engine.

    Raises:
        ConfigError: a value out of range.
    """

    url: str = opt("http://127.0.0.1:8000", "address of the server")
    key_variable: str = opt("VLLM_API_KEY", "environment variable that holds the server's key, if it wants one")
    top_logprobs: int = opt(20, "log-probs a token that entropies are bounded from")
    folder: str | None = opt(
        None, "where weights are put for the server to read; none: /dev/shm, or the temporary folder without one"
    )
    timeout: float = opt(600.0, "seconds without a sign of life after which the server counts as broken")

    def __post_init__(self) -> None:
        if self.top_logprobs < 1:
            raise ConfigError(f"top_logprobs must be >= 1, got {self.top_logprobs}")
        if not self.timeout > 0:
            raise ConfigError(f"timeout must be > 0 seconds, got {self.timeout}")


@dataclass(frozen=True)
class _Token:
    """What a follower heard of request ``key``: a token, or why there will be no more."""

    key: int
    token: int = 0
    logprob: float = 0.0
    top: tuple[float, ...] = ()
    failure: str | None = None


class VLLMServerEngine:
    """A running ``vllm serve``. See the module docstring.

    Args:
        model: the learner's model: names and shapes of its weights, end tokens, vocabulary.
        tokenizer: only decodes.
        slots: requests under way at once.
        max_length: longest sequence, prompt included; the server must hold as much.

    Raises:
        ConfigError: no server there, or one whose settings would give other numbers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        slots: int = 64,
        max_length: int = 2048,
        options: VLLMServerOptions | None = None,
    ) -> None:
        self.options = options or VLLMServerOptions()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.vocab_size = int(model.config.get_text_config().vocab_size)
        self.layout = WeightLayout.of(model)
        self.stopping = Stopping(tokenizer, end_tokens(tokenizer, getattr(model, "generation_config", None)))
        self.entropy = TopEntropy(self.vocab_size)
        key = os.environ.get(self.options.key_variable, "")
        self._server = Server(self.options.url, timeout=self.options.timeout, key=key)
        self._impatient = Server(self.options.url, timeout=min(_HEALTH, self.options.timeout), key=key)
        self._model = self._check()
        self._pool = DaemonPool(slots, "arpo-vllm")  # a run must not wait for a server that hangs
        self._heard: queue.SimpleQueue[_Token] = queue.SimpleQueue()
        self._running: dict[int, tuple[Progress, threading.Event]] = {}  # by serial number: ids may come again
        self._serial = 0
        self._initialised = False
        #: How many times weights were loaded; part of every cache key.
        self.version = 0
        #: Counters for the speed studies (what the server found in its cache it does not say token by token).
        self.submitted = 0
        self.decoded = 0

    # ------------------------------------------------------------------ Engine

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def submit(self, request: Request) -> None:
        check_fits(request, self.max_length)
        self._serial += 1
        hang_up = threading.Event()
        self._running[self._serial] = (Progress(request, self.stopping), hang_up)
        self.submitted += len(request.tokens)
        self._pool.submit(self._follow, self._serial, self._body(request), hang_up)

    def step(self) -> list[Event]:
        """Wait for the next token of any request, take all that have come. A step that fails gives up all requests.

        Raises:
            TrainingError: the server was killed, failed, or hung up before a request's end.
        """
        if not self._running:
            return []
        events: list[Event] = []
        heard = [self._heard.get()]
        while not self._heard.empty():
            heard.append(self._heard.get())
        try:
            for item in heard:
                event = self._take(item)
                if event is not None:
                    events.append(event)
        except BaseException:
            self._hang_up()
            raise
        return sorted(events, key=lambda e: e.id)

    def release(self, request_id: int) -> None:
        """Nothing to do: the server drops the blocks that were used longest ago when it needs room."""

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """As the contract says. The server is paused meanwhile, which also empties its cache.

        Raises:
            ConfigError: requests are running, weights do not fit, or the server has no weight routes.
            TrainingError: the server failed on the way; its weights are undefined then.
        """
        if self.busy:
            raise ConfigError("load_weights while requests are running would mix two policies in one rollout")
        # Tied parameters under every name need memory of their own in a safetensors file.
        tensors = {
            name: tensor.to("cpu").contiguous() if name in self.layout.shapes else tensor.to("cpu").clone()
            for name, tensor in self.layout.checkpoint(weights)
        }
        with tempfile.TemporaryDirectory(prefix="arpo-weights-", dir=self._folder()) as folder:
            path = Path(folder) / "weights.safetensors"
            save_file(tensors, path)
            self._transfer(path)
        self.version += 1

    def close(self) -> None:
        """Hang up; the server goes on. Idempotent."""
        self._hang_up()
        self._pool.shutdown(wait=False)

    # ------------------------------------------------------------------ tokens

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        return {
            "model": self._model,
            "prompt": list(request.tokens),
            "max_tokens": request.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": seed_of(request),
            "stop_token_ids": sorted(self.stopping.eos),
            "ignore_eos": True,  # else vLLM also ends where the checkpoint's own configuration says
            "logprobs": self.options.top_logprobs,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,  # else two tokens with the same text would share one log-prob
            "cache_salt": f"weights-{self.version}",
            "stream": True,
        }

    def _follow(self, key: int, body: dict[str, Any], hang_up: threading.Event) -> None:
        """In a thread: hand on a request's tokens until it is enough."""
        if hang_up.is_set():
            return  # it waited for a thread meanwhile
        try:
            with closing(self._server.stream("/v1/completions", body)) as stream:  # type: ignore[type-var]
                for event in stream:
                    for item in _tokens(key, event, self.options.top_logprobs):
                        self._heard.put(item)
                    if hang_up.is_set():
                        return
            self._heard.put(_Token(key, failure="the server ended it early"))
        except HTTPFailure as error:
            self._heard.put(_Token(key, failure=str(error)))
        except Exception as error:  # whatever it is, step() must not wait for ever
            self._heard.put(_Token(key, failure=f"{self._server.url} sent what cannot be read: {error!r}"))

    def _take(self, item: _Token) -> Event | None:
        if item.key not in self._running:
            return None  # came after the request's end
        progress, hang_up = self._running[item.key]
        if item.failure is not None:
            got = f"request {progress.request.id} got {len(progress.tokens)} tokens, then: {item.failure}"
            raise TrainingError(f"{got}. {self._state()}")
        self.decoded += 1
        event = progress.add(item.token, item.logprob, self.entropy(item.top))
        if isinstance(event, Finished):
            hang_up.set()
            del self._running[item.key]
        return event

    def _hang_up(self) -> None:
        for _, hang_up in self._running.values():
            hang_up.set()
        self._running.clear()

    # ------------------------------------------------------------------ the server

    def _state(self) -> str:
        """After a failure: what is left of the server, and what to do."""
        where, again = f"The vLLM server at {self._server.url}", "start it again and resume the run"
        try:
            self._impatient.call("GET", "/health")
        except HTTPFailure as error:
            if error.status is None:
                left = "end what may be left of it (a process VLLM::EngineCore)"
                return f"{where} is gone (killed, crashed or cut off); {left}, {again}"
            if error.status >= 500:
                return f"{where} answers, but its engine process is dead; {again}"
        return f"{where} still answers; its log says more"

    def _check(self) -> str:
        """The served model's name, after a look at what would otherwise be wrong in silence.

        One token from the single likeliest: its log-prob is 0 only if the server gives those of the distribution
        that it draws from.
        """
        where = self._server.url
        try:
            served = self._server.call("GET", "/v1/models")["data"][0]
            first = {"top_k": 1, "temperature": 1.0, "max_tokens": 1, "return_token_ids": True}
            body = {"model": served["id"], "prompt": [min(self.stopping.eos)], "logprobs": self.options.top_logprobs}
            choice = self._server.call("POST", "/v1/completions", body | first)["choices"][0]
        except HTTPFailure as error:
            raise ConfigError(f"no usable vLLM server: {error}; {START_HINT}") from None
        except (KeyError, IndexError, TypeError) as error:
            raise ConfigError(f"{where} answers, but not as an OpenAI-compatible server ({error!r})") from None
        held = served.get("max_model_len")
        if held is not None and held < self.max_length:
            raise ConfigError(f"{where} holds {held} tokens, {self.max_length} are needed; --max-model-len sets it")
        if not choice.get("token_ids") or not choice.get("logprobs"):
            raise ConfigError(f"{where} gives no token ids; it must be vLLM 0.30 or newer")
        if abs(choice["logprobs"]["token_logprobs"][0]) > 1e-6:
            raise ConfigError(f"{where} gives log-probs of another distribution than it draws from; {START_HINT}")
        return str(served["id"])

    def _folder(self) -> str | None:
        if self.options.folder is not None:
            return self.options.folder
        return "/dev/shm" if Path("/dev/shm").is_dir() else None

    def _transfer(self, path: Path) -> None:
        version = f"arpo-{self.version + 1}"
        try:
            self._server.call("POST", "/pause?mode=wait&clear_cache=true")
            if not self._initialised:
                self._server.call("POST", "/init_weight_transfer_engine", {"init_info": {}})
                self._initialised = True
            self._server.call("POST", "/start_weight_update")
            self._server.call("POST", "/update_weights", {"update_info": {"path": str(path)}})
            self._server.call("POST", "/finish_weight_update", {"weight_version": version})
            now = self._server.call("GET", "/weight_info")["weight_version"]
            self._server.call("POST", "/resume")
        except HTTPFailure as error:
            if error.status == 404:
                raise ConfigError(f"the server takes no weights: {error}; {START_HINT}") from None
            what = f"the server did not take the new weights: {error}. {self._state()}"
            raise TrainingError(f"{what}. Its weights are undefined: start it afresh before you resume") from error
        if now != version:
            raise TrainingError(f"{self._server.url} has weights {now!r} after {version!r} were sent; restart it")


def _tokens(key: int, event: Any, k: int) -> Iterator[_Token]:
    """The tokens in one event of a completion stream, each with its k largest log-probs."""
    if "error" in event:
        yield _Token(key, failure=f"the server reports {event['error']}")
        return
    choice = event["choices"][0]
    ids = choice.get("token_ids") or []
    logprobs = choice.get("logprobs")
    for position, token in enumerate(ids):
        logprob = logprobs["token_logprobs"][position]
        ranked = sorted((x for x in logprobs["top_logprobs"][position].values() if x is not None), reverse=True)
        # The sampled token is listed too, after the k largest where it is not one of them.
        top = tuple(x for x in ranked[:k] if x > _NO_MASS)
        yield _Token(key, token, float("nan") if logprob is None else logprob, top)


@register("vllm-server", VLLMServerOptions)
def build(setup: EngineSetup, options: VLLMServerOptions) -> VLLMServerEngine:
    """With the learner's weights, whatever the server was started on."""
    engine = VLLMServerEngine(
        setup.model, setup.tokenizer, slots=setup.slots, max_length=setup.max_length, options=options
    )
    engine.load_weights(merged_weights(setup.model))
    return engine
