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

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arpo_algo import models
from arpo_algo.engines import EngineSetup, register
from arpo_algo.engines.base import Event, Finished, Request, check_fits
from arpo_algo.engines.collect import Progress, TopEntropy, seed_of
from arpo_algo.engines.stopping import Stopping, end_tokens
from arpo_algo.engines.weights import WeightLayout
from arpo_algo.errors import ConfigError, TrainingError
from arpo_algo.lora import base_of, merged_weights
from arpo_algo.options import opt

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

INSTALL_HINT = (
    "the vllm engine needs vLLM 0.30 or newer, which this environment lacks: `pip install vllm` on a machine with a "
    "GPU, or `make setup-vllm` for the CPU build in an environment of its own; or take rollout.engine=torch"
)
_CPU_BLOCK = 32  # tokens a cache block on CPUs: the smallest that vLLM's CPU kernels like, so that forks share most

_CPU_STEP = 4096  # tokens a step
_GRACE = 30.0  # seconds that worker processes have to end


@dataclass(frozen=True)
class VLLMOptions:
    """Own options of the vllm engine.

    Raises:
        ConfigError: a value out of range.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = opt("auto", "auto: what the learner computes in")
    top_logprobs: int = opt(20, "log-probs a token that entropies are bounded from")
    block_size: int | None = opt(None, "tokens a cache block; none: 32 on CPUs, vLLM's own choice on GPUs")
    kv_gib: float | None = opt(
        None, "GiB of KV cache; none: on CPUs room for all slots, at most half of what is free; on GPUs memory_share"
    )
    memory_share: float = opt(0.4, "share of a GPU's memory for vLLM, weights included; the learner needs the rest")
    step_tokens: int | None = opt(None, "most tokens a step computes; none: 4096 on CPUs, vLLM's own choice on GPUs")
    eager: bool | None = opt(None, "no compilation, no CUDA graphs; none: eager on CPUs only")
    lora_rank: int = opt(0, "largest rank of LoRA adapters (load_adapter); 0: none")
    extra: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "further arguments of vllm.EngineArgs, passed on as they are"}
    )

    def __post_init__(self) -> None:
        if self.top_logprobs < 1:
            raise ConfigError(f"top_logprobs must be >= 1, got {self.top_logprobs}")
        if self.step_tokens is not None and self.step_tokens < 1:
            raise ConfigError(f"step_tokens must be >= 1, got {self.step_tokens}")
        if not 0 < self.memory_share <= 1:
            raise ConfigError(f"memory_share must lie in (0, 1], got {self.memory_share}")
        if self.kv_gib is not None and self.kv_gib <= 0:
            raise ConfigError(f"kv_gib must be > 0, got {self.kv_gib}")
        if self.lora_rank < 0:
            raise ConfigError(f"lora_rank must be >= 0, got {self.lora_rank}")


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
        self._llm = _start(str(source), config, slots, max_length, self.options)
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


def _start(source: str, config: Any, slots: int, max_length: int, options: VLLMOptions) -> Any:
    """A running ``vllm.LLMEngine``."""
    if torch.distributed.is_initialized():
        raise ConfigError(
            "the vllm engine sets up torch.distributed for itself and cannot share a process with distributed training "
            "or with another vllm engine; close that one, or take rollout.engine=vllm-server"
        )
    # In this process (new weights are handed over as tensors), quiet, and without vLLM's usage reports.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        import psutil  # type: ignore[import-untyped]  # comes with vLLM
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ConfigError(f"{INSTALL_HINT} ({error})") from None
    cpu = current_platform.is_cpu()
    arguments: dict[str, Any] = {
        "model": source,
        "dtype": options.dtype,
        "max_model_len": max_length,
        "max_num_seqs": slots,
        "max_logprobs": options.top_logprobs,
        # Of the distribution that was drawn from: temperature, top_k and top_p applied.
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "async_scheduling": False,  # a step's tokens are looked at before the next is computed
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        "enforce_eager": cpu if options.eager is None else options.eager,
        "seed": 0,
    }
    block = options.block_size or (_CPU_BLOCK if cpu else None)
    if block is not None:
        arguments["block_size"] = block
    if cpu:
        # A prompt computed in pieces needs its random stream wound back after each, which generators on CPUs cannot.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(options.step_tokens or _CPU_STEP, max_length, slots)
    elif options.step_tokens is not None:
        arguments["max_num_batched_tokens"] = options.step_tokens
    if options.kv_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(options.kv_gib * 2**30)
    elif cpu:
        wanted = _kv_bytes(config, slots, max_length, block or _CPU_BLOCK, 4 if options.dtype == "float32" else 2)
        # With less than wanted vLLM lets requests wait; memory that is not there would end the run.
        arguments["kv_cache_memory_bytes"] = min(wanted, psutil.virtual_memory().available // 2)
    else:
        arguments["gpu_memory_utilization"] = options.memory_share
    if options.lora_rank:
        arguments |= {"enable_lora": True, "max_lora_rank": options.lora_rank, "max_loras": 1}
    try:
        with _threads_as_they_are():
            return LLMEngine.from_engine_args(EngineArgs(**(arguments | options.extra)))
    except (ValueError, TypeError, RuntimeError, NotImplementedError, OSError, AssertionError) as error:
        raise ConfigError(f"vLLM does not start with {source!r}: {str(error).splitlines()[0]}") from error


def _kv_bytes(config: Any, slots: int, max_length: int, block: int, size: int) -> int:
    """Room for every slot at full length, ``size`` bytes a number."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    blocks = slots * (-(-max_length // block) + 1) + 1
    return int(blocks * block * config.num_hidden_layers * 2 * heads * head_dim * size)


@contextmanager
def _threads_as_they_are() -> Iterator[None]:
    """vLLM's CPU worker replaces ``torch.set_num_threads`` for the whole process; the learner lives here too."""
    keep, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = keep
        torch.set_num_threads(threads)


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
