"""The vLLM engine: the real vLLM in this process, token ids in and out, new weights without a restart.

vLLM keeps a copy of the model of its own. Forks and continuations find their prefix in its cache of full blocks.
It gives no entropies, only the k largest log-probs: entropies here are the lower bound that these allow
(:class:`~arpo_algo.engines.collect.TopEntropy`). When a turn ends is decided here, by the rule all engines share.

Determinism: each request has its own generator, seeded with the request's seed; the rest is rounding, which may
depend on what else is in the batch.

On one device vLLM has no processes of its own. With several (``extra.tensor_parallel_size``) it has a worker for each:
when one is killed the run ends with a ``TrainingError`` that names it, and :meth:`VLLMEngine.close` leaves none behind.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arpo_algo import models
from arpo_algo.engines import EngineSetup, register
from arpo_algo.engines._vllm_start import VLLMOptions as VLLMOptions
from arpo_algo.engines._vllm_start import start
from arpo_algo.engines.base import Event, Finished, Request, check_fits
from arpo_algo.engines.collect import Progress, TopEntropy, seed_of
from arpo_algo.engines.stopping import Stopping, end_tokens
from arpo_algo.engines.weights import WeightLayout
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.lora import base_of, merged_weights

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

_GRACE = 30.0  # seconds that worker processes have to end


class VLLMEngine:
    """vLLM in process. See the module docstring.

    Args:
        source: folder or Hub name to load the weights from.
        model: the learner's model: names and shapes that ``load_weights`` expects, end tokens, vocabulary.
        tokenizer: only decodes.
        slots: sequences that run at once.
        max_length: longest sequence, prompt included.

    Raises:
        ConfigError: vLLM is not installed, or refuses the model or an argument.
    """

    def __init__(
        self,
        source: str | Path,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        slots: int = 64,
        max_length: int = 2048,
        options: VLLMOptions | None = None,
    ) -> None:
        self.options = options or VLLMOptions()
        self.tokenizer = tokenizer
        self.max_length = max_length
        config = model.config.get_text_config()
        self.vocab_size = int(config.vocab_size)
        self.layout = WeightLayout.of(model)
        self.stopping = Stopping(tokenizer, end_tokens(tokenizer, getattr(model, "generation_config", None)))
        self.entropy = TopEntropy(self.vocab_size)
        self._llm = start(str(source), config, slots, max_length, self.options)
        self._workers = _workers(self._llm)
        self._dtype: torch.dtype = self._llm.vllm_config.model_config.dtype
        self._running: dict[str, Progress] = {}
        #: How many times weights were loaded; part of every cache key.
        self.version = 0
        self._adapter: Any = None
        #: Counters for the speed studies: tokens run through the model, by why, and prompt tokens found in the cache.
        self.prefilled = 0
        self.decoded = 0
        self.cached = 0

    # ------------------------------------------------------------------ Engine

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def submit(self, request: Request) -> None:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        check_fits(request, self.max_length)
        sampling = request.sampling
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=seed_of(request),
            max_tokens=request.max_tokens,
            stop_token_ids=sorted(self.stopping.eos),
            ignore_eos=True,  # else vLLM also ends where the checkpoint's own configuration says
            logprobs=self.options.top_logprobs,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        # The salt makes keys of older weights unreachable, should clearing the cache ever miss one.
        prompt = tokens_input(list(request.tokens), cache_salt=f"weights-{self.version}")
        key = str(request.id)
        self._llm.add_request(key, prompt, params, lora_request=self._adapter)
        self._running[key] = Progress(request, self.stopping)

    def step(self) -> list[Event]:
        """As the contract says. A step that fails gives up all requests.

        Raises:
            TrainingError: log-probs that are not numbers, or a worker process of vLLM's that is gone.
        """
        if not self._running:
            return []
        try:
            with self._watched():
                events = [self._take(output) for output in self._llm.step()]
        except BaseException:
            with suppress(Exception):  # what went wrong first is what counts
                self._llm.abort_request(list(self._running))  # nothing is left behind
            self._running.clear()
            raise
        return sorted((e for e in events if e is not None), key=lambda e: e.id)

    def release(self, request_id: int) -> None:
        """Nothing to do: vLLM drops the blocks that were used longest ago when it needs room."""

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        if self.busy:
            raise ConfigError("load_weights while requests are running would mix two policies in one rollout")
        pairs = self.layout.checkpoint(weights, self._dtype)
        # Not model.load_weights: vLLM has repacked its weights; this call unpacks, loads and packs again.
        with self._watched():
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": pairs, "is_checkpoint_format": True})
        self._forget()

    def close(self) -> None:
        """Stop vLLM. Idempotent."""
        llm, self._llm = self._llm, None
        if llm is None:
            return
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._running.clear()
        llm.engine_core.shutdown()
        for worker in self._workers:
            worker.join(_GRACE)
        cleanup_dist_env_and_memory()

    # ------------------------------------------------------------------ LoRA

    def load_adapter(self, folder: str | Path) -> None:
        """Generate with the LoRA adapter in ``folder`` (as PEFT saves it) from now on.

        Each call publishes a new name: loading another adapter under a known name would reuse the old one's cache.

        Raises:
            ConfigError: ``lora_rank`` is 0, requests are running, or vLLM refuses the adapter.
        """
        if not self.options.lora_rank:
            raise ConfigError("the engine was started without LoRA; set rollout.engine_options.lora_rank")
        if self.busy:
            raise ConfigError("load_adapter while requests are running would mix two policies in one rollout")
        from vllm.lora.request import LoRARequest

        old = self._adapter
        number = self.version + 1
        adapter = LoRARequest(f"policy-v{number}", number, str(folder))
        if old is not None:
            self._llm.remove_lora(old.lora_int_id)
        try:
            self._llm.add_lora(adapter)
        except Exception as error:
            raise ConfigError(f"vLLM refuses the adapter in {str(folder)!r}: {error}") from error
        self._adapter = adapter
        self._forget()

    # ------------------------------------------------------------------ inside

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Around calls of vLLM: an error that a dead worker is behind says so (vLLM's own is ``cancelled``)."""
        try:
            yield
        except Exception as error:
            ended = [w for w in self._workers if w.exitcode is not None]
            # vLLM ends the others when one is gone; that one alone was not asked to go.
            killed = [w for w in ended if w.exitcode not in (0, -signal.SIGTERM)] or ended
            if not killed:
                raise
            who = ", ".join(f"{w.name} (pid {w.pid}, {_how_ended(w.exitcode)})" for w in killed)
            raise TrainingError(
                f"vLLM's worker process {who} is gone; a SIGKILL that nobody sent is the kernel's, for want of memory: "
                "lower rollout.engine_options.memory_share or kv_gib, and resume the run"
            ) from error

    def _forget(self) -> None:
        """The policy has changed: cached keys and values are of another one."""
        self.version += 1
        if not self._llm.reset_prefix_cache():
            raise TrainingError("vLLM did not clear its prefix cache after new weights; blocks are still in use")

    def _take(self, output: RequestOutput) -> Event | None:
        """Add an output's new token to its request; when that ends it, vLLM is told."""
        progress = self._running.get(output.request_id)
        if progress is None:
            return None
        completion = output.outputs[0]
        flat: Any = completion.logprobs
        event: Event | None = None
        for position, token in enumerate(completion.token_ids):
            if not progress.tokens:
                cached = output.num_cached_tokens or 0
                self.cached += cached
                self.prefilled += len(progress.request.tokens) - cached
            else:
                self.decoded += 1
            # vLLM puts the sampled token first, then the k largest (among them possibly the same again).
            begin, end = flat.start_indices[position], flat.end_indices[position]
            logprobs = flat.logprobs[begin:end]
            event = progress.add(token, logprobs[0], self.entropy(logprobs[1:]))
        if isinstance(event, Finished):
            del self._running[output.request_id]
            if not output.finished:
                self._llm.abort_request([output.request_id])
        elif output.finished:
            raise TrainingError(
                f"vLLM ended request {output.request_id} after {len(progress.tokens)} tokens "
                f"({completion.finish_reason}, {completion.stop_reason}), which the engine did not ask for"
            )
        return event


def _workers(llm: Any) -> tuple[Any, ...]:
    """vLLM's worker processes (``multiprocessing.Process``); none on one device."""
    executor = llm.engine_core.engine_core.model_executor
    return tuple(handle.proc for handle in getattr(executor, "workers", ()))


def _how_ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@register("vllm", VLLMOptions)
def build(setup: EngineSetup, options: VLLMOptions) -> VLLMEngine:
    """On a copy of the weights of its own, loaded from where the learner's came from."""
    source = models.resolve(setup.source)
    base = base_of(source)
    engine = VLLMEngine(
        models.resolve(str(base)),
        setup.model,
        setup.tokenizer,
        slots=setup.slots,
        max_length=setup.max_length,
        options=options if options.dtype != "auto" else replace(options, dtype=setup.precision),
    )
    if base != source:
        engine.load_weights(merged_weights(setup.model))
    return engine
