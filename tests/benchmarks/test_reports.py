"""What a reader sees: Markdown, JSON, the page, and comparisons that mark only what is significant."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bench_toys import make_run, row, void
from rich.console import Console
from test_report_browser import CHROMIUM, act

from arpo_algo.errors import ConfigError
from arpo_env.suites import list_suites
from benchmarks import page
from benchmarks.compare import compare, differences
from benchmarks.report import cells, load, markdown, to_json, write_reports

HOSTILE = "</script><script>document.documentElement.dataset.pwned='1'</script><img src=x onerror=alert(1)>"


def quiet() -> Console:
    return Console(quiet=True)


class TestReports:
    def test_markdown_and_json(self, tmp_path: Path) -> None:
        samples = [row(i, n, right=(i + n) % 2 == 0) for i in range(4) for n in range(2)] + [void(4, 0), void(4, 1)]
        result = load(make_run(tmp_path, samples, k=2, planned=5))
        text = markdown(result)
        assert "| Toy | 4 of 5 | 50.0 (" in text
        assert "pass^2" in text
        assert "maj@2" in text
        assert "| 2 |" in text, "void samples"
        record = to_json(result)
        json.dumps(record, allow_nan=False)
        assert record["suites"]["Toy"]["pass_at"][2]["value"] == 1.0

    def test_cost_appears_with_prices(self, tmp_path: Path) -> None:
        make_run(tmp_path, [row(0)])
        assert "cost" not in markdown(load(tmp_path))
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "price": {"input": 1.0, "output": 1.0}}))
        assert "$0.0001" in markdown(load(tmp_path))

    def test_partial_credit_has_a_column(self, tmp_path: Path) -> None:
        make_run(tmp_path, [row(0), row(1, right=False)])
        assert "mean score" not in markdown(load(tmp_path))
        make_run(tmp_path / "f1", [row(0), row(1, right=False)])
        log = tmp_path / "f1/samples.jsonl"
        log.write_text(log.read_text().replace('"score": 0.0', '"score": 0.4'))
        assert "| 70.0 |" in markdown(load(tmp_path / "f1"))

    def test_a_suite_with_fewer_samples_has_no_value_under_a_larger_k(self, tmp_path: Path) -> None:
        samples = [row(i, n, right=n == 0) for i in range(4) for n in range(4)] + [
            row(i, suite="One") for i in range(4)
        ]
        make_run(tmp_path, samples, k=4)
        file = tmp_path / "config.json"
        config = json.loads(file.read_text())
        config["suites"]["One"]["samples"] = 1
        file.write_text(json.dumps(config))
        titles, rows = cells(load(tmp_path))
        shown = dict(zip(titles, rows[1], strict=True))
        assert shown["suite"] == "One"
        assert shown["pass@1 (95 % CI)"].startswith("100.0")
        assert (shown["pass@4"], shown["pass^4"], shown["maj@4"]) == ("", "", "")

    @pytest.mark.parametrize("folder", ["missing", "empty"])
    def test_of_nothing(self, tmp_path: Path, folder: str) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ConfigError, match=r"is not there|holds no benchmark run"):
            load(tmp_path / folder)


class TestPage:
    def test_holds_every_trajectory_in_chunks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(page, "CHUNK", 1500)
        samples = [row(i) for i in range(12)]
        text = page.build_html(load(make_run(tmp_path, samples)))
        packed = re.findall(r'<script type="text/plain" id="chunk-(\d+)">([A-Za-z0-9+/=]+)</script>', text)
        chunks = [json.loads(gzip.decompress(base64.b64decode(data))) for _, data in packed]
        assert len(chunks) > 2
        rows = json.loads(re.search(r'id="payload">(.*?)</script>', text, re.DOTALL)[1])["rows"]  # type: ignore[index]
        assert len(rows) == 12
        for found in rows:
            detail = chunks[found[-2]][found[-1]]
            assert detail["messages"][1] == ["user", found[4]], "the index points at the right trajectory"
        assert [found[1] for found in rows] == [f"toy/test/0/{i}" for i in range(12)], "task 9 before task 10"

    def test_text_stays_text(self, tmp_path: Path) -> None:
        messages = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]
        result = load(make_run(tmp_path, [row(0, messages=messages, answer=HOSTILE)], name=HOSTILE))
        text = page.build_html(result)
        assert "<img" not in text
        assert text.count("<script>") == 1
        assert '<div class="scroll" tabindex="0" role="region"' in text
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")

    @pytest.mark.slow
    @pytest.mark.skipif(
        shutil.which("chromium") is None, reason="no chromium on this machine (apt-get install chromium)"
    )
    def test_in_a_browser(self, tmp_path: Path) -> None:
        messages = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": f"said {HOSTILE}"}]
        make_run(tmp_path / "run", [row(0), row(1, right=False, messages=messages), void(2)])
        write_reports(load(tmp_path / "run"))
        dom = _dom(tmp_path, "#Toy%2Ftoy%2Ftest%2F0%2F1%2F0")
        attributes = dict(re.findall(r'data-([\w-]+)="([^"]*)"', dom[: dom.index("<head")]))
        assert attributes["errors"] == "0", attributes
        assert (attributes["ready"], attributes["listed"], attributes["open"]) == ("1", "3", "Toy/toy/test/0/1/0")
        assert "pwned" not in attributes
        panel = html.unescape(dom[dom.index('id="panel"') :])
        assert f"said {HOSTILE}" in panel
        assert "Toy: wrong" in panel

    @pytest.mark.slow
    @pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
    def test_on_a_phone_and_under_a_malformed_address(self, tmp_path: Path) -> None:
        messages = [{"role": "user", "content": "Q?"}, {"role": "tool", "content": "a page"}]
        make_run(tmp_path / "run", [row(i, messages=messages) for i in range(60)])
        write_reports(load(tmp_path / "run"))
        script = """
            const html = d.documentElement, panel = d.getElementById("panel"), list = d.getElementById("list");
            const opened = (key) => new Promise((done) => {
              const look = () => { if (html.dataset.open === key) done(); };
              new w.MutationObserver(look).observe(html, {attributes: true});
              look();
            });
            await opened("Toy/toy/test/0/0/0");
            const height = list.clientHeight / w.innerHeight;
            list.children[3].click();
            await opened("Toy/toy/test/0/3/0");
            const at = panel.getBoundingClientRect().top;
            const back = panel.querySelector(".back");
            const shown = back.offsetParent !== null;
            back.click();
            const row = d.activeElement.getBoundingClientRect();
            const display = w.getComputedStyle(panel.querySelector(".text.result")).display;
            return {shown, display, there: Math.round(at), short: height < 0.46,
                    back: d.activeElement.dataset.key, seen: row.top >= 0 && row.bottom <= w.innerHeight};
        """
        phone = act(tmp_path / "run", tmp_path / "phone", script, width=390, height=700, fragment="#100%")
        assert 0 <= phone.pop("there") < 350
        assert phone == {"shown": True, "display": "block", "short": True, "back": "Toy/toy/test/0/3/0", "seen": True}
        wide = act(tmp_path / "run", tmp_path / "wide", script, fragment="#%E0%A4%A")
        assert not wide["shown"]
        assert wide["there"] > 0


def _dom(folder: Path, fragment: str) -> str:
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=8000", "--dump-dom",
        f"file://{folder / 'run' / 'report.html'}{fragment}",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, timeout=240, check=True).stdout.decode()


class TestCompare:
    @pytest.fixture
    def runs(self, tmp_path: Path) -> tuple[Path, Path]:
        """Toy: clearly better (18 of 20 against 4). Close: 11 of 20 against 10, on the same tasks."""
        base = [row(i, right=i < 4) for i in range(20)] + [row(i, right=i < 10, suite="Close") for i in range(20)]
        other = [row(i, right=i < 18) for i in range(20)] + [row(i, right=i < 11, suite="Close") for i in range(20)]
        return make_run(tmp_path / "a", base, name="A"), make_run(tmp_path / "b", other, name="B")

    def test_marks_only_what_is_significant(self, runs: tuple[Path, Path], tmp_path: Path) -> None:
        assert compare(runs, quiet(), out=tmp_path / "c.md") == 0
        text = (tmp_path / "c.md").read_text()
        row_b = next(line for line in text.splitlines() if line.startswith("| **B**"))
        toy, close = row_b.split("|")[2:4]
        assert "90.0" in toy
        assert "▲" in toy
        assert "55.0" in close
        assert "▲" not in close
        assert "▼" not in text.split("▲ ▼")[0]
        compare(runs[::-1], quiet(), out=tmp_path / "d.md")
        assert "▼" in next(line for line in (tmp_path / "d.md").read_text().splitlines() if line.startswith("| **A**"))

    def test_numbers(self, runs: tuple[Path, Path], tmp_path: Path) -> None:
        toy, close = differences(load(runs[0]), load(runs[1]), ("A", "B"))
        assert (toy.value, toy.tasks) == (pytest.approx(0.7), 20)
        assert toy.low > 0
        assert toy.p == pytest.approx(2 / 2**14), "14 tasks differ, all in one direction"
        assert toy.adjusted == pytest.approx(2 * toy.p), "two suites were looked at"
        assert (close.p, close.adjusted) == (1.0, 1.0)
        assert close.low < 0 < close.high
        compare(runs, quiet(), out=tmp_path / "c.json")
        record = json.loads((tmp_path / "c.json").read_text())
        assert record["differences"][0]["p"] == toy.p
        assert record["runs"]["B"]["Toy"]["value"] == 0.9

    def test_only_shared_tasks_are_paired(self, tmp_path: Path) -> None:
        one = make_run(tmp_path / "a", [row(i) for i in range(6)], name="A")
        two = make_run(tmp_path / "b", [row(i, right=False) for i in range(3, 9)], name="B")
        (found,) = differences(load(one), load(two), ("A", "B"))
        assert (found.tasks, found.value) == (3, -1.0)

    def test_the_papers_table(self, tmp_path: Path) -> None:
        suites = [*list_suites(domain="math"), "WebWalkerQA", *list_suites(paper=True, domain="knowledge")]
        samples = [row(i, right=i < 5, suite=name) for name in suites for i in range(10)]
        run = make_run(tmp_path / "a", samples, name="mine", size=30)
        compare([run], quiet(), out=tmp_path / "c.md", published="Qwen2.5-3B ARPO")
        table = [line for line in (tmp_path / "c.md").read_text().splitlines() if line.startswith("|")]
        assert "| Qwen2.5-3B ARPO (published) | 23.3 | 20.0 |" in table[2]
        assert table[2].rstrip(" |").endswith("52.8")
        mine = next(line for line in table if "**mine**" in line)
        low, high = re.search(r"50\.0 \((\S+)–(\S+)\) \|$", mine).groups()  # type: ignore[union-attr]
        assert 38 < float(low) < 45, "the average of ten suites is surer than any of them"
        assert 55 < float(high) < 62
        assert "AIME24 10 of 30" in (tmp_path / "c.md").read_text()

    def test_runs_that_do_not_compare(self, tmp_path: Path) -> None:
        one = make_run(tmp_path / "a", [row(0)], name="A")
        other: dict[str, Any] = {"first_task": "other"}
        for name, suite in {"b": other, "c": {"options": {"metric": "f1"}}}.items():
            two = make_run(tmp_path / name, [row(0)], name="B", **suite)
            with pytest.raises(ConfigError, match=r"has other tasks in B|was judged by 'f1' in B"):
                compare([one, two], quiet())
        judged = [
            make_run(tmp_path / f"judge-{url}-{model}", [row(0)], name=f"{url} {model}",
                     options={"metric": "judge", "judge": f"http://{url}#{model}"})
            for url, model in (("x", "strict"), ("x", "lenient"), ("y", "strict"))
        ]  # fmt: skip
        with pytest.raises(ConfigError, match="was judged by 'lenient' in x lenient and by 'strict' in x strict"):
            compare(judged[:2], quiet())
        assert compare(judged[::2], quiet()) == 0, "the same judge, served elsewhere"
        with pytest.raises(ConfigError, match="given twice"):
            compare([one, one], quiet())
        with pytest.raises(ConfigError, match=r"must end in \.md or \.json"):
            compare([one], quiet(), out=tmp_path / "c.pdf")
        with pytest.raises(ConfigError, match="no published row holds 'GPT'"):
            compare([one], quiet(), published="GPT")

    def test_says_in_what_the_runs_differ_and_what_is_missing(self, tmp_path: Path) -> None:
        one = make_run(
            tmp_path / "a", [row(i) for i in range(4)], name="A", options={"search": "wiki", "max_tool_calls": 10}
        )
        two = make_run(
            tmp_path / "b", [row(0), void(1)], name="B", planned=4, options={"search": "live", "max_tool_calls": 10}
        )
        for folder, heat in ((one, 0.6), (two, 1.0)):
            config = json.loads((folder / "config.json").read_text())
            config["policy"] |= {"temperature": heat, "top_p": 0.95}
            (folder / "config.json").write_text(json.dumps(config))
        said = {
            "temperature is 0.6 in A, 1.0 in B.",
            "Toy: search is wiki in A, live in B.",
            "B, Toy: scored 1 of 4 planned samples, 1 void; what is missing may be the harder part.",
        }
        console = Console(record=True, width=300, quiet=False, file=io.StringIO())
        for suffix in ("md", "json"):
            compare([one, two], console, out=tmp_path / f"c.{suffix}")
        assert set(json.loads((tmp_path / "c.json").read_text())["notes"]) == said
        for text in ((tmp_path / "c.md").read_text(), console.export_text()):
            assert all(sentence in text for sentence in said)
        assert json.loads((tmp_path / "c.json").read_text())["runs"]["B"]["Toy"]["n"] == 1
        unsampled = make_run(tmp_path / "x", [row(0)], name="X", options={"search": "wiki", "max_tool_calls": 10})
        compare([unsampled, one, two], quiet(), out=tmp_path / "c.json")
        assert "temperature is 0.6 in A, 1.0 in B." in json.loads((tmp_path / "c.json").read_text())["notes"]
        compare([one], quiet(), out=tmp_path / "c.json")
        assert json.loads((tmp_path / "c.json").read_text())["notes"] == []


def test_published_averages_are_the_means_of_their_rows() -> None:
    from benchmarks.compare import _PUBLISHED

    for table in json.loads(_PUBLISHED.read_text())["tables"]:
        width = sum(map(len, table["groups"]))
        for published in table["rows"]:
            assert len(published["scores"]) == width
            if table["average"]:
                assert sum(published["scores"]) / width == pytest.approx(published["average"], abs=0.051)
