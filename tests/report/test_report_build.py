"""The page: whole from any run, self-contained, and inert whatever a run's texts hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE, config, make_run, write_lines

from arpo_algo.report import build_report, trees
from arpo_algo.report.build import build_html
from arpo_algo.report.data import RunFolderError
from arpo_algo.report.document import asset, embed


class Page(HTMLParser):
    """Tags with attributes, and the text of the embedded JSON."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw = ""
        self._in_json = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_json = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_data(self, data: str) -> None:
        if self._in_json:
            self.raw += data

    @property
    def trees(self) -> Any:
        return json.loads(self.raw)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "full", steps=8, trees=2, tasks=20)


def test_a_full_run(full: Path) -> None:
    path = build_report(full)
    assert path == full / "report.html"
    html = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    page = Page(html)
    assert len(page.trees["files"]) == 11
    for words in ("Held-out success rose by", "paired over the same 20 held-out tasks", "Token entropy, nats",
                  "learning rate", "so it rose after tool results", "SmolLM2-135M-Instruct",
                  "24 cold start steps, 8 training steps"):  # fmt: skip
        assert words in html, words
    assert html.count('<figure class="chart"') >= 20


def test_evaluations_on_the_way_are_one_curve(tmp_path: Path) -> None:
    """Named as the trainer names them: from the cold start through the steps to the end."""
    run = make_run(tmp_path / "run", steps=2, trees=1, tasks=4)
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    cold, last = rows[1], {**rows[2], "step": 300}
    on_the_way = [{**cold, "name": f"step {s}", "step": s} for s in (50, 100, 150, 200, 250)]
    write_lines(run / "eval.jsonl", [rows[0], cold, *on_the_way, last])
    (curve,) = re.findall(r'data-points="([^"]*)"><figcaption><b>Held-out success, 95 % band</b>', build_html(run))
    points = json.loads(unescape(curve))
    assert [p[1] for p in points] == [f"step {s}" for s in (0, 50, 100, 150, 200, 250, 300)]
    assert [p[2].split("] ")[1] for p in points] == [
        f"{name}, n=4" for name in ("cold start", *(f"step {s}" for s in (50, 100, 150, 200, 250)), "ARPO")
    ]
    dots = build_html(run).split("Success on held-out tasks, 95 % interval</b>")[1].split("</figure>")[0]
    assert "step 50" not in dots
    assert "ARPO" in dots
    table, way = re.findall(r'<div class="scroll"[^>]*>(.*?)</div>', build_html(run).split('id="curves"')[0])
    assert re.findall(r"<tr><td>([^<]*)", table) == ["before", "cold start", "ARPO"]
    assert re.findall(r"<tr><td>([^<]*)", way) == [f"step {s}" for s in (50, 100, 150, 200, 250)]
    assert "<summary>5 evaluations on the way</summary>" in build_html(run)


def test_what_scrolls_is_reached_by_key(full: Path) -> None:
    boxes = [a for t, a in Page(build_html(full)).tags if t == "div" and a.get("class") == "scroll"]
    assert len(boxes) == 2
    assert all(a.get("tabindex") == "0" and a.get("role") == "region" and a.get("aria-label") for a in boxes)


@pytest.mark.parametrize("dark", [False, True])
def test_words_on_colours_can_be_read(dark: bool) -> None:
    """WCAG's contrast of 4.5 to 1."""
    light, _, night = asset("page.css").partition("prefers-color-scheme: dark")
    colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]{6})", night if dark else light))

    def luminance(name: str) -> float:
        parts = [int(colours[name][i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for under, over in (("good", "on-colour"), ("zero", "on-colour"), ("bad", "on-colour"), ("page", "soft")):
        dim, bright = sorted((luminance(under), luminance(over)))
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (under, over)


def test_metrics_of_nothing_but_zeros_have_an_axis_from_zero(tmp_path: Path) -> None:
    row = {"phase": "train", "step": 3, "clip_fraction": 0.0, "my_counter": 0.0, "my_change": -2.0}
    write_lines(tmp_path / "metrics.jsonl", [row])
    html = build_html(tmp_path)
    ticks = {}
    for title in ("Clipped terms", "my counter", "my change"):
        figure = html.split(f"<b>{title}</b>")[1].split("</figure>")[0]
        ticks[title] = re.findall(r'<text class="tick"[^>]*>([^<]*)</text>', figure)
    assert ticks["Clipped terms"][0] == "0 %"
    assert ticks["my counter"][0] == "0"
    assert float(ticks["my change"][0]) < -2
    assert [t[-1] for t in ticks.values()] == ["3"] * 3, "the step that there is, and no other"
    assert all(len(t) == len(set(t)) and "2" not in t[-2:] for t in ticks.values())


def test_nothing_is_loaded_from_anywhere(full: Path) -> None:
    html = build_html(full)
    page = Page(html)
    assert not [t for t in page.tags if {"src", "href", "action", "background", "xlink:href"} & t[1].keys()]
    page_only = re.sub(r"(?s)<script.*?</script>|<pre.*?</pre>", "", html)
    assert not re.search(r"url\(|@import|https?://", page_only)
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert [t for t, _ in page.tags].count("script") == 2


def test_the_same_run_gives_the_same_bytes(full: Path, tmp_path: Path) -> None:
    a, b = build_report(full, tmp_path / "a.html"), build_report(full, tmp_path / "sub" / "b.html")
    assert a.read_bytes() == b.read_bytes()


def test_an_empty_run_says_what_is_not_there_yet(tmp_path: Path) -> None:
    html = build_report(tmp_path).read_text(encoding="utf-8")
    for words in ("config.json is not there yet", "No evaluation has been written yet",
                  "No training step has been written yet", "No trees have been saved yet",
                  "No trees with token entropies"):  # fmt: skip
        assert words in html, words


@pytest.mark.parametrize("missing", ["config.json", "metrics.jsonl", "eval.jsonl", "trees"])
def test_any_part_may_be_missing(tmp_path: Path, missing: str) -> None:
    run = make_run(tmp_path / "run", steps=2, trees=1, tasks=3)
    if missing == "trees":
        for path in (run / "trees").iterdir():
            path.unlink()
    else:
        (run / missing).unlink()
    html = build_report(run).read_text(encoding="utf-8")
    assert ("Held-out success" in html or "held-out success" in html) == (missing != "eval.jsonl")
    assert ('id="canvas"' in html) == (missing != "trees")


def test_a_run_under_way_is_drawn_as_far_as_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=2, trees=1, tasks=3)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "train", "step": 2, "rew')
    path = run / "trees" / "train-000001.jsonl.gz"
    path.write_bytes(path.read_bytes()[:100])
    html = build_report(run).read_text(encoding="utf-8")
    assert "2 training steps" in html
    assert [f["name"] for f in Page(html).trees["files"]][:2] == ["train-000000", "eval-before"]


def test_hostile_texts_are_inert(tmp_path: Path) -> None:
    run = make_run(tmp_path / "<b>run&amp;", steps=2, trees=1, tasks=3, hostile=True)
    (run / "config.json").write_text(
        json.dumps(config(env_id=HOSTILE, machine={HOSTILE: HOSTILE}, config={"model": HOSTILE}))
    )
    rows = [{"phase": phase, "step": 1, HOSTILE: 1.0} for phase in ("train", "sft", HOSTILE)]
    write_lines(run / "metrics.jsonl", rows)
    row = {"step": 1, "n": 3, "success": 0.5, "success_low": 0.1, "success_high": 0.9, HOSTILE: 2.0}
    write_lines(run / "eval.jsonl", [{"name": HOSTILE, **row}, {"name": HOSTILE * 2, **row}, {"name": HOSTILE, **row}])
    html = build_report(run).read_text(encoding="utf-8")
    page = Page(html)
    assert "<img" not in html
    assert "<b>run" not in html
    assert [t for t, _ in page.tags].count("script") == 2
    assert not [(t, name) for t, attributes in page.tags for name in attributes if name.startswith("on")]
    # It is all there, as data.
    texts = [n["t"] for f in page.trees["files"] for t in f["trees"] for n in t["nodes"] if n["k"] == "r"]
    assert texts
    assert all(HOSTILE in text for text in texts)
    assert "\\u2028" in page.raw


def test_lone_surrogates_do_not_break_the_page(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "eval.jsonl",
        [{"name": "\ud800", "step": 1, "n": 3, "success": 0.5, "success_low": 0.1, "success_high": 0.9}],
    )
    run = make_run(tmp_path / "run", steps=1, trees=1, tasks=1)
    (run / "eval.jsonl").write_text((tmp_path / "eval.jsonl").read_text())
    build_report(run).read_text(encoding="utf-8")


def test_embedding_refuses_what_json_has_no_word_for() -> None:
    assert json.loads(embed({"a": "</script>\u2028&"})) == {"a": "</script>\u2028&"}
    assert "<" not in embed(["</script>"])
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed([float("nan")])


def test_a_failed_build_leaves_the_old_page_and_no_litter(tmp_path: Path) -> None:
    path = build_report(tmp_path)
    old = path.read_bytes()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl, line 1: 'phase' is missing"):
        build_report(tmp_path)
    assert path.read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "report.html"]
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "dir").mkdir()
    with pytest.raises(OSError, match="dir"):
        build_report(tmp_path, tmp_path / "dir")  # a folder stands where the page should go
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir", "report.html"]


def test_a_big_run_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", steps=6, trees=4, tasks=10)
    monkeypatch.setattr(trees, "MAX_CHARS", 60_000)
    html = build_html(run)
    assert len(html) < 60_000 + 160_000
    assert "the page&#x27;s size limit" in html


def test_long_series_are_binned_and_say_so(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", [{"phase": "train", "step": i, "reward": i % 7} for i in range(2000)])
    html = build_html(tmp_path)
    assert "2000 steps, drawn as means of 7" in html
    assert len(html) < 200_000


def test_torch_is_not_imported() -> None:
    code = "import sys, arpo_algo.report.serve, arpo_algo.report.terminal; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
