"""One word -> a policy: checked at once, built when the run begins.

The word's grammar is :data:`WORDS`. A choice carries a record of all that decides what the policy says; a run folder
keeps it, and is only ever continued by an equal one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arpo_algo.engines.base import Sampling
from arpo_algo.episodes import Policy
from arpo_algo.errors import ConfigError, unknown
from arpo_algo.presets import PRESETS, Preset, find
from benchmarks.policies.identity import of_folder, of_function

#: What a word may be, for help and messages.
WORDS: Mapping[str, str] = {
    "expert": "each family's scripted expert (the ceiling; sets read from files replay their gold answers)",
    "random": "well-formed turns without sense (the floor)",
    "script:MODULE.FUNCTION": "a Python function: the chat so far -> the next assistant turn",
    "PRESET": "a published ARPO checkpoint with its own prompt and sampling, e.g. Qwen2.5-3B-ARPO (from the Hub)",
    "FOLDER | OWNER/NAME | smollm2": "a local folder, Hub name or the embedded model, by the torch engine",
    "ENGINE:MODEL": "the same by another engine, e.g. vllm:OWNER/NAME",
    "openai:URL#MODEL": "an OpenAI-compatible endpoint, as openai:http://127.0.0.1:8000/v1#qwen; key: $OPENAI_API_KEY",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user may set about a policy; None: the policy's default.

    Args:
        max_turn_tokens: new tokens a turn. max_tokens: tokens of an episode, prompt included.
        concurrency: episodes at once (never part of a run's identity).
        layout: of chat endpoints, ``turns`` or ``inline``. device: of local models.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_turn_tokens: int | None = None
    max_tokens: int | None = None
    concurrency: int | None = None
    layout: str | None = None
    device: str = "auto"
    request_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy that has been chosen and not yet built. ``record`` is JSON-able; ``price_name``: for the price table.

    ``preset``: how a published checkpoint wants to be run, known by the last part of its name, wherever it is served.
    """

    name: str
    record: Mapping[str, Any]
    build: Callable[[], Policy]
    price_name: str = ""
    preset: Preset | None = None


def choose(word: str, settings: Settings) -> Choice:
    """The policy that ``word`` names.

    Raises:
        ConfigError: no such policy, or settings that do not fit it.
    """
    if settings.concurrency is not None and settings.concurrency < 1:
        raise ConfigError(f"concurrency must be >= 1, got {settings.concurrency}")
    if word in PRESETS:
        word = PRESETS[word].checkpoint
    kind, _, rest = word.partition(":")
    if word in ("expert", "random"):
        return _scripted(word, settings)
    if kind == "script":
        return _script(rest, settings)
    if kind == "openai":
        return _endpoint(rest, settings)
    return _local(word, settings)


def _scripted(word: str, settings: Settings) -> Choice:
    from benchmarks.policies.scripted import Expert, Random

    # Their time goes into tools, which are processes of their own.
    concurrency = settings.concurrency or max(2, os.cpu_count() or 1)
    made = Expert if word == "expert" else Random
    return Choice(word, {"kind": word}, lambda: made(concurrency))


def _script(path: str, settings: Settings) -> Choice:
    from benchmarks.policies.scripted import Scripted, load_script

    function = load_script(path)
    concurrency = settings.concurrency or 1  # a user's function need not be thread-safe
    record = {"kind": "script", "function": path, "source": of_function(function)}
    return Choice(f"script:{path}", record, lambda: Scripted(path, function, concurrency))


def _endpoint(rest: str, settings: Settings) -> Choice:
    from arpo_algo.chatpolicy import ChatPolicy
    from arpo_env.chat import ChatClient

    url, _, model = rest.partition("#")
    if not url or not model:
        raise ConfigError(f"openai:{rest} must be openai:URL#MODEL, e.g. openai:http://127.0.0.1:8000/v1#qwen")
    preset = find(model)
    sampling = _sampling(settings, top_k=0 if preset is None else preset.sampling.top_k)
    max_turn_tokens, max_tokens = _budgets(settings, preset, 4096, 32768)
    # The checkpoints were trained with results inside the assistant's one message.
    layout: Any = settings.layout or ("turns" if preset is None else "inline")
    client = ChatClient(url, model, timeout=settings.request_seconds)

    def build() -> Policy:
        return ChatPolicy(
            client,
            sampling=sampling,
            max_turn_tokens=max_turn_tokens,
            max_tokens=max_tokens,
            concurrency=settings.concurrency or 8,
            layout=layout,
        )

    record = {
        "kind": "openai",
        "url": url,
        "model": model,
        "layout": layout,
        **asdict(sampling),
        "max_turn_tokens": max_turn_tokens,
        "max_tokens": max_tokens,
    }
    return Choice(f"openai:{url}#{model}", record, build, model, preset)


def _local(word: str, settings: Settings) -> Choice:
    engine, model = _engine_and_model(word)
    from arpo_algo import engines, models

    if settings.layout not in (None, "inline"):
        raise ConfigError(f"layout={settings.layout!r} is for chat endpoints; engines continue one assistant message")
    chosen = engines.choose(engine, {})
    found = models.resolve(model)
    source = str(found)
    sampling = _sampling(settings, top_k=20)
    preset = find(model)
    max_turn_tokens, max_tokens = _budgets(settings, preset, 512, 2048)
    concurrency = settings.concurrency or 16

    def build() -> Policy:
        import torch

        from arpo_algo.precision import resolve_precision
        from arpo_algo.rendering import Renderer
        from benchmarks.policies.local import EnginePolicy

        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, resolve_precision("auto", torch.device(device)))
        loaded, tokenizer = models.load(source, device=device, dtype=dtype)
        setup = engines.EngineSetup(loaded, tokenizer, source, concurrency, max_tokens)
        return EnginePolicy(
            chosen.build(setup),
            Renderer(tokenizer),
            sampling=sampling,
            max_turn_tokens=max_turn_tokens,
            max_tokens=max_tokens,
            concurrency=concurrency,
        )

    record = {
        "kind": "local",
        "engine": engine,
        "model": source,
        "weights": models.provenance(model),
        # Names on the Hub have no folder: what they stand for is said by the name alone.
        "contents": of_folder(found) if isinstance(found, Path) else "",
        **asdict(sampling),
        "max_turn_tokens": max_turn_tokens,
        "max_tokens": max_tokens,
    }
    return Choice(word, record, build, model, preset)


def _engine_and_model(word: str) -> tuple[str, str]:
    """``vllm:NAME`` -> (vllm, NAME); a folder, a Hub name or ``smollm2`` -> (torch, it)."""
    from arpo_algo import engines

    path = Path(word).expanduser()
    if path.exists() or word.startswith((".", "/", "~")) or word == "smollm2":
        return "torch", word
    engine, colon, model = word.partition(":")
    if colon:
        if engine not in engines.list_engines():
            raise unknown("kind of policy", engine, ["openai", "script", *engines.list_engines()])
        if not model:
            raise ConfigError(f"{word!r} names no model: {engine}:FOLDER or {engine}:OWNER/NAME")
        return engine, model
    if word.count("/") == 1 and all(word.split("/")):
        return "torch", word
    raise ConfigError(
        f"{unknown('policy', word, ['expert', 'random', 'smollm2', *PRESETS])}; or one of:\n"
        + "\n".join(f"  {form}: {meaning}" for form, meaning in WORDS.items())
    )


def _budgets(settings: Settings, preset: Preset | None, turn: int, episode: int) -> tuple[int, int]:
    """Tokens of a turn and of an episode: the user's, else the preset's, else the defaults given."""
    if preset is not None:
        turn, episode = preset.max_turn_tokens, preset.max_tokens
    return settings.max_turn_tokens or turn, settings.max_tokens or episode


def _sampling(settings: Settings, top_k: int) -> Sampling:
    """The paper's evaluation (temperature 0.6, top-p 0.95, top-k 20) where the user says nothing."""
    return Sampling(
        0.6 if settings.temperature is None else settings.temperature,
        0.95 if settings.top_p is None else settings.top_p,
        top_k if settings.top_k is None else settings.top_k,
    )
