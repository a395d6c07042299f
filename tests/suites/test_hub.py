"""Suites from the Hub, against a Hub on loopback: pinned files, the commit recorded, gates and absences explained.

In processes of their own: ``huggingface_hub`` reads its endpoint when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub", reason="needs the extra suites")

from loopback_hub import COMMIT, hub

from arpo_env.suites import suite

_CODE = """
import json, sys
from arpo_env.errors import ConfigError
from arpo_env.suites import suite
one = suite(sys.argv[1])
said = {"missing": one.missing(), "available": one.available()}
try:
    family = one.family()
    said |= {"size": family.size("test"), "provenance": family.provenance, "report": str(family.report)}
    said["questions"] = family.questions("test")
except ConfigError as error:
    said["error"] = str(error)
said["missing afterwards"] = one.missing()
print(json.dumps(said))
"""


def ask(name: str, endpoint: str, cache: Path, **environment: str) -> dict[str, Any]:
    clean = {k: v for k, v in os.environ.items() if k not in ("ARPO_DATA", "HF_TOKEN", "HF_HUB_OFFLINE")}
    done = subprocess.run(
        [sys.executable, "-c", _CODE, name],
        env=clean | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def jsonl(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_a_file_is_fetched_read_by_the_hubs_fields_and_its_commit_recorded(tmp_path: Path) -> None:
    rows = jsonl({"problem": "1+1?", "answer": "2", "level": 1}, {"problem": "2+2?", "answer": "4", "level": 1})
    with hub("HuggingFaceH4/MATH-500", {"test.jsonl": rows, "README.md": b"no"}) as endpoint:
        said = ask("MATH500", endpoint, tmp_path)
    assert "not in the Hub's cache" in said["missing"]
    assert said["available"] is None
    assert (said["size"], said["questions"]) == (2, ["1+1?", "2+2?"])
    pinned = suite("MATH500").source.hub.revision  # type: ignore[union-attr]
    assert said["provenance"] == f"Hub HuggingFaceH4/MATH-500@{pinned}: test.jsonl"
    assert said["missing afterwards"] is None
    again = ask("MATH500", endpoint, tmp_path)  # the Hub is gone, its cache is not
    assert (again["missing"], again["size"]) == (None, 2)


def test_a_branch_is_resolved_to_its_commit(tmp_path: Path) -> None:
    with hub("math-ai/aime25", {"test.jsonl": jsonl({"problem": "1+1?", "answer": "2"})}) as endpoint:
        assert ask("AIME25", endpoint, tmp_path)["provenance"] == f"Hub math-ai/aime25@{COMMIT}: test.jsonl"


def test_a_gate_says_how_to_pass(tmp_path: Path) -> None:
    with hub("gaia-benchmark/GAIA", {"2023/validation/metadata.parquet": b"x"}, gated=True) as endpoint:
        said = ask("GAIA", endpoint, tmp_path)
    for message in (said["available"], said["error"]):
        assert "accept the terms at https://huggingface.co/datasets/gaia-benchmark/GAIA" in message
        assert "hf auth login" in message
        assert "GatedRepo" in message


def test_absence_and_silence_are_explained(tmp_path: Path) -> None:
    with hub("math-ai/aime25", {"other.jsonl": b"{}"}) as endpoint:
        assert "holds no file 'test.jsonl'" in ask("AIME25", endpoint, tmp_path)["error"]
    said = ask("AIME25", endpoint, tmp_path / "empty")  # nobody listens there any more
    assert "put its file at DATA/aime25/test.jsonl" in said["available"]
    assert said["available"].split("(")[-1].split(":")[0].endswith("Error")
