"""A vLLM engine in this process: the options it takes, what they are for vLLM, and how it is started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from arpo_algo.attention import key_value_shape
from arpo_algo.errors import ConfigError
from arpo_algo.options import opt

INSTALL_HINT = (
    "the vllm engine needs vLLM 0.30 or newer, which this environment lacks: `pip install vllm` on a machine with a "
    "GPU, or `make setup-vllm` for the CPU build in an environment of its own; or take rollout.engine=torch"
)
_CPU_BLOCK = 32  # tokens a cache block on CPUs: the smallest that vLLM's CPU kernels like, so that forks share most
_CPU_STEP = 4096  # tokens a step


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


def start(source: str, config: Any, slots: int, max_length: int, options: VLLMOptions) -> Any:
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
    heads, head_dim = key_value_shape(config)
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
