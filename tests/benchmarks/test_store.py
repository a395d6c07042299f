"""The log: whole rows or none, through kills, full disks and a second runner."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_toys import make_run, row, void

from arpo_algo.errors import ConfigError
from benchmarks.store import LOG, BenchFolder, StorageError, read_config, read_samples


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = [row(0), row(1, right=False, answer=None, prompt_tokens=None), void(2)]
    make_run(tmp_path, written)
    assert list(read_samples(tmp_path)) == written
    with BenchFolder(tmp_path) as folder:
        assert folder.config is not None
        assert list(folder.samples.values()) == written


def test_a_later_row_replaces_an_earlier_one(tmp_path: Path) -> None:
    make_run(tmp_path, [void(0), row(0)])
    with BenchFolder(tmp_path) as folder:
        assert [s.status for s in folder.samples.values()] == ["scored"]


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_torn_tail_is_cut_and_nothing_else(tmp_path: Path, cut: int) -> None:
    make_run(tmp_path, [row(0), row(1), row(2)])
    whole = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(whole[:-cut])
    assert list(read_samples(tmp_path)) == [row(0), row(1)], "a reader passes over it"
    with BenchFolder(tmp_path) as folder:
        assert len(folder.samples) == 2
        folder.append(row(2))
    assert (tmp_path / LOG).read_bytes() == whole


def test_a_torn_tail_longer_than_a_block(tmp_path: Path) -> None:
    make_run(tmp_path, [row(0)])
    whole = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(whole + b'{"suite": "' + b"x" * 200_000)
    with BenchFolder(tmp_path):
        assert (tmp_path / LOG).read_bytes() == whole


@pytest.mark.parametrize("bad", [b"not json\n", b'{"suite": "Toy"}\n', b"\x00\x00\n", b'{"unheard": 1}\n'])
def test_a_broken_row_names_file_and_line(tmp_path: Path, bad: bytes) -> None:
    make_run(tmp_path, [row(0), row(1)])
    lines = (tmp_path / LOG).read_bytes().splitlines(keepends=True)
    (tmp_path / LOG).write_bytes(lines[0] + bad + lines[1])
    with (
        pytest.raises(ConfigError, match=r"samples\.jsonl, line 2 is broken .*delete that line"),
        BenchFolder(tmp_path),
    ):
        pass
    # The refusal let go of the lock.
    (tmp_path / LOG).write_bytes(b"".join(lines))
    with BenchFolder(tmp_path) as folder:
        assert len(folder.samples) == 2


class TestFullDisk:
    def test_half_a_row_is_taken_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The disk takes part of the row and is then full."""
        make_run(tmp_path, [row(0)])
        before = (tmp_path / LOG).read_bytes()
        real = os.write

        def full(descriptor: int, data: Any) -> int:
            if full_now:
                if len(data) < 100:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(descriptor, data[: len(data) // 2])
            return real(descriptor, data)

        full_now = True
        with BenchFolder(tmp_path) as folder:
            monkeypatch.setattr("benchmarks.store.os.write", full)
            with pytest.raises(StorageError, match=r"No space left.*The 1 samples before are saved; make room"):
                folder.append(row(1))
            assert (tmp_path / LOG).read_bytes() == before
            full_now = False
            folder.append(row(1))
        assert list(read_samples(tmp_path)) == [row(0), row(1)]

    def test_on_a_real_one(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"cannot mount a small tmpfs here: {mounted.stderr.decode().strip()}")
        try:
            with BenchFolder(disk / "run") as folder:
                folder.write_config({"policy": {}, "suites": {}})
                with pytest.raises(StorageError, match="No space left"):
                    _fill(folder)
                saved = list(folder.samples.values())
            assert saved
            assert list(read_samples(disk / "run")) == saved
        finally:
            subprocess.run(["umount", disk], check=True)


def _fill(folder: BenchFolder) -> None:
    for i in range(1000):
        folder.append(row(i, answer="x" * 5000))


def test_two_runners(tmp_path: Path) -> None:
    make_run(tmp_path, [row(0)])
    script = (
        "import sys; from pathlib import Path; from benchmarks.store import BenchFolder; BenchFolder(Path(sys.argv[1]))"
    )
    with BenchFolder(tmp_path):
        second = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert second.returncode != 0
    assert "in use by another process" in second.stderr


class TestFolder:
    def test_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(ConfigError, match="holds files but no benchmark run"):
            BenchFolder(tmp_path)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("{", "is not JSON"),
            ('{"config": {}}', "is not of a benchmark run"),
            ('{"policy": {}, "suites": {}, "format": 99}', "has format 99"),
        ],
    )
    def test_with_another_config(self, tmp_path: Path, text: str, why: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=why):
            read_config(tmp_path)
        with pytest.raises(ConfigError, match=why):
            BenchFolder(tmp_path)

    def test_empty(self, tmp_path: Path) -> None:
        with BenchFolder(tmp_path / "new") as folder:
            assert folder.config is None
            assert folder.samples == {}
            folder.write_config({"policy": {}, "suites": {}})
        assert json.loads((tmp_path / "new/config.json").read_text())["format"] == 1
