"""One client for every OpenAI-compatible chat endpoint: judges, page summaries, evaluated policies.

A thin layer over the ``openai`` package (extra ``openai``). What it adds is the sorting of failures, because the
three kinds want three reactions:

* :class:`ConfigError`: the request can never work (wrong key, unknown model, wrong address, refused parameter);
* :class:`ContextOverflow`: the conversation no longer fits the model, which ends an episode and not a run;
* :class:`InfraError`: the server is down, overloaded or talks nonsense, after bounded retries.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import urlsplit

from arpo_env.errors import ConfigError, InfraError, ToolUnavailable, unknown
from arpo_env.shared import Shared

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion

#: How servers say that a conversation is too long (OpenAI's code, vLLM's words, llama.cpp's type).
_TOO_LONG = ("context_length_exceeded", "maximum context length", "exceed_context_size", "context window")


class ContextOverflow(ConfigError):
    """The messages and ``max_tokens`` together exceed the model's context: the episode's budget ran out."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the server counted them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One assistant turn.

    ``finish_reason``: ``stop`` (end token or stop string), ``length``, ``content_filter`` … ``usage`` is None when
    the server does not count. ``stop_string`` is the one that was met, where the server says so (vLLM does; it is
    never part of ``text``). ``reasoning`` holds thoughts that a server's reasoning parser took out of the text.
    """

    text: str
    finish_reason: str | None
    usage: Usage | None = None
    stop_string: str | None = None
    reasoning: str = ""


class Chat(Protocol):
    """What judges and summaries need of a :class:`ChatClient`."""

    model: str

    def complete(
        self, messages: Sequence[Mapping[str, Any]], *, temperature: float, max_tokens: int | None
    ) -> Completion: ...


class ChatClient(Shared):
    """A blocking client of one model behind one endpoint; thread-safe, shared by clones of an environment.

    Args:
        base_url: up to and including the version, e.g. ``http://127.0.0.1:8000/v1``.
        model: the name the server knows.
        api_key: default the environment variable ``OPENAI_API_KEY``; servers without keys get a placeholder.
        timeout: seconds for one attempt.
        retries: further attempts after 408, 409, 429, 5xx and connection errors; pauses grow from 0.5 to 8 s with
            jitter, and a ``Retry-After`` of up to 60 s is obeyed.

    Raises:
        ConfigError: an address that is not HTTP(S), an empty model name, a number out of range.
        ToolUnavailable: the ``openai`` package is not installed.
    """

    def __init__(
        self, base_url: str, model: str, *, api_key: str | None = None, timeout: float = 300.0, retries: int = 4
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"base_url must look like 'http://127.0.0.1:8000/v1', got {base_url!r}")
        if not model:
            raise ConfigError("model is empty; give the name the server knows (GET /v1/models lists them)")
        if not timeout > 0 or retries < 0:
            raise ConfigError(f"need timeout > 0 and retries >= 0, got {timeout=}, {retries=}")
        try:
            import openai
        except ImportError as error:
            raise ToolUnavailable("chat endpoints need the openai package: pip install 'arpo[openai]'") from error
        self.base_url, self.model, self.retries = base_url, model, retries
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=api_key or os.environ.get("OPENAI_API_KEY") or "EMPTY",
            timeout=timeout,
            max_retries=retries,
        )

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float = 1.0,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        top_p: float | None = None,
        seed: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Completion:
        """The model's next turn.

        Args:
            messages: the chat, ``{"role": …, "content": …}`` each.
            max_tokens: of the completion; None leaves it to the server.
            stop: generation ends before the first of these (OpenAI takes four at most).
            extra: further fields of the request body (``top_k``, ``continue_final_message`` … of vLLM;
                ``max_completion_tokens`` for models that refuse ``max_tokens``).

        Raises:
            ConfigError: the server refuses the request as such (key, model, address, a parameter).
            ContextOverflow: the conversation is too long for the model.
            InfraError: no proper answer after the retries.
        """
        options: dict[str, Any] = {"temperature": temperature}
        if stop:
            options["stop"] = list(stop)
        for name, value in (("max_tokens", max_tokens), ("top_p", top_p), ("seed", seed)):
            if value is not None:
                options[name] = value
        import openai

        try:
            reply = self._client.chat.completions.create(
                model=self.model,
                messages=[dict(message) for message in messages],  # type: ignore[misc]  # the server checks roles
                extra_body=dict(extra or {}),
                **options,
            )
        except openai.OpenAIError as error:
            raise self._sorted(error) from error
        except ValueError as error:  # 200 with a body that is no JSON
            raise InfraError(f"{self.base_url} sent a reply that is no JSON: {error}") from error
        return self._read(reply)

    def models(self) -> list[str]:
        """The names the server offers.

        Raises:
            ConfigError, InfraError: as :meth:`complete`.
        """
        import openai

        try:
            return [model.id for model in self._client.models.list()]
        except openai.OpenAIError as error:
            raise self._sorted(error, suggest=False) from error
        except (ValueError, AttributeError, TypeError) as error:
            raise self._not_compatible() from error

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ChatClient({self.base_url!r}, {self.model!r})"

    # ------------------------------------------------------------------ inside

    def _read(self, reply: ChatCompletion) -> Completion:
        # The package does not check replies: a web page comes back as a string, a stray object without choices.
        if not getattr(reply, "choices", None):
            raise self._not_compatible()
        choice = reply.choices[0]
        counted = reply.usage
        usage = None if counted is None else Usage(counted.prompt_tokens, counted.completion_tokens)
        met = (choice.model_extra or {}).get("stop_reason")
        aside = choice.message.model_extra or {}
        return Completion(
            choice.message.content or "",
            choice.finish_reason,
            usage,
            met if isinstance(met, str) else None,
            aside.get("reasoning") or aside.get("reasoning_content") or "",
        )

    def _not_compatible(self) -> ConfigError:
        return ConfigError(
            f"{self.base_url} answers, but not as an OpenAI-compatible server; base_url usually ends in /v1"
        )

    def _sorted(self, error: openai.OpenAIError, *, suggest: bool = True) -> ConfigError | InfraError:
        """The exception that tells a caller what to do about ``error``."""
        import openai

        where = f"{self.model!r} at {self.base_url}"
        if not isinstance(error, openai.APIStatusError):
            if isinstance(error, openai.APITimeoutError):
                what = "no reply in time"
            else:
                what = f"{error} {error.__cause__ or ''}".strip()
            return InfraError(
                f"{where} cannot be reached ({self.retries + 1} attempts): {what}. Is the server running there?"
            )
        said = f"HTTP {error.status_code}: {_message(error)}"
        match error.status_code:
            case 401 | 403:
                return ConfigError(f"{where} refuses the key ({said}); set OPENAI_API_KEY, or pass api_key=…")
            case 404:
                return self._not_found(said, suggest)
            case 400 | 413 | 422 if any(sign in f"{error} {error.body}".lower() for sign in _TOO_LONG):
                return ContextOverflow(f"{where}: the conversation is too long ({said})")
            case 429 | 408 | 409:
                return InfraError(f"{where} is overloaded or throttled ({self.retries + 1} attempts; {said})")
            case status if status >= 500:
                return InfraError(f"{where} failed ({self.retries + 1} attempts; {said})")
            case _:
                return ConfigError(f"{where} refuses the request ({said})")

    def _not_found(self, said: str, suggest: bool) -> ConfigError:
        """404 is either an unknown model or a wrong path; the list of models tells which."""
        try:
            known = self.models() if suggest else []
        except (ConfigError, InfraError):
            known = []
        if known and self.model not in known:
            return unknown(f"model of {self.base_url}:", self.model, known)
        return ConfigError(f"{self.base_url} does not know that path or model ({said}); base_url usually ends in /v1")


def _message(error: openai.APIStatusError) -> str:
    """The server's own words, in one short line."""
    body = error.body
    text = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(text or error.message).split())[:300]
