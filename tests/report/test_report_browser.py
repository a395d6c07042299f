"""The page in a real browser: it draws the tree that was saved, answers keys, and runs nothing that a text says.

Needs Chromium (``apt-get install chromium``); skipped without one.
"""

from __future__ import annotations

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from report_runs import make_run, write_lines, write_trees
from test_report_trees import split_turns

from arpo_algo.report import build_report
from arpo_algo.report.data import TreeFile, read_run
from arpo_algo.report.serve import ReportServer
from arpo_algo.tree import Outcome, Tree

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


def dump(url: str, profile: Path, *, size: str = "1280,1600", budget: int = 8000) -> str:
    """The DOM after scripts have run."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={profile}",
        f"--window-size={size}",
        f"--virtual-time-budget={budget}",
    ]
    done = subprocess.run([*command, "--dump-dom", url], capture_output=True, timeout=120, check=True)
    return done.stdout.decode()


def attribute(dom: str, name: str) -> str | None:
    match = re.search(rf'<html[^>]* data-{name}="([^"]*)"', dom)
    return html.unescape(match[1]) if match else None


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def act(folder: Path, profile: Path, script: str, *, width: int = 1280, height: int = 1500, fragment: str = "") -> Any:
    """Load report.html in a frame of the same origin, run ``script`` with ``w`` its window; returns what it returns.

    The script may await.
    """
    (folder / "harness.html").write_text(
        f'<!doctype html><iframe id="f" style="border:0;width:{width}px;height:{height}px"></iframe><script>'
        'const f = document.getElementById("f"); f.onload = async () => { const w = f.contentWindow, d = w.document;'
        f"let out; try {{ out = await (async () => {{ {script} }})(); }} catch (e) {{ out = String(e); }}"
        "out = {value: out, errors: d.documentElement.dataset.errors, first: d.documentElement.dataset.firstError};"
        'document.documentElement.setAttribute("data-out", JSON.stringify(out)); };'
        f'f.src = "report.html{fragment}";</script>',
        encoding="utf-8",
    )
    with served(folder) as url:
        out = json.loads(attribute(dump(f"{url}/harness.html", profile, size=f"{width},1600"), "out") or "{}")
    assert out["errors"] == "0", out
    return out["value"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "run", steps=3, trees=2, tasks=5)
    build_report(folder)
    return folder


def saved(run: Path, name: str) -> list[Tree]:
    (file,) = (f for f in read_run(run).tree_files if f.name == name)
    assert isinstance(file, TreeFile)
    return file.read()[0]


def test_the_tree_is_drawn_as_it_was_saved(run: Path, tmp_path: Path) -> None:
    tree = saved(run, "train-000001")[1]
    leaf = tree.leaves()[2]
    dom = dump(f"{(run / 'report.html').as_uri()}#tree=train-000001/1/{leaf.id}", tmp_path)
    assert attribute(dom, "errors") == "0", attribute(dom, "first-error")
    assert attribute(dom, "ready") == "1"
    assert attribute(dom, "selected") == str(leaf.id)
    assert len(re.findall(r'<g class="node', dom)) == len(tree.nodes)
    assert len(re.findall(r'<path class="edge[^"]*"[^>]* data-to=', dom)) == len(tree.nodes) - 1
    assert len(re.findall(r'<path class="edge fork[^"]*"[^>]* data-to=', dom)) == tree.n_forks > 0
    assert len(re.findall(r'<g class="leaf"', dom)) == len(tree.leaves())
    assert leaf.outcome is not None
    assert "exact match" in dom or "differs" in dom
    assert "Entropy rose" in dom or "Entropy fell" in dom


def test_keys_clicks_and_choices(run: Path, tmp_path: Path) -> None:
    tree = saved(run, "train-000002")[0]
    out = act(
        run,
        tmp_path,
        """
        const seen = [], html = d.documentElement;
        const key = (k) => { d.activeElement.dispatchEvent(new w.KeyboardEvent("keydown", {key: k, bubbles: true}));
                             seen.push(Number(html.dataset.selected)); };
        d.querySelector('[data-id="0"]').dispatchEvent(new w.MouseEvent("click", {bubbles: true}));
        ["ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "End", "Home", "ArrowLeft"].forEach(key);
        d.querySelector('[data-id="5"]').dispatchEvent(new w.PointerEvent("pointerover", {bubbles: true}));
        const traced = d.querySelectorAll(".node.on").length;
        const file = d.getElementById("pick-file");
        file.value = "0";
        file.dispatchEvent(new w.Event("change"));
        const first = Number(html.dataset.nodes);
        const pick = d.getElementById("pick-tree");
        pick.value = "1";
        pick.dispatchEvent(new w.Event("change"));
        d.querySelector('[data-id="1"]').dispatchEvent(new w.MouseEvent("click", {bubbles: true}));
        const details = d.querySelector("#panel details");
        details.open = true;
        details.dispatchEvent(new w.Event("toggle"));
        return {seen, traced, first, second: Number(html.dataset.nodes), hash: w.location.hash,
                spans: [...d.querySelectorAll("#panel .text")].find((t) => t.querySelector("span")).children.length,
                who: details.querySelectorAll(".who").length};
        """,
        fragment="#tree=train-000002/0/0",
    )

    def row(node: int) -> list[int]:
        """Nodes of the same depth, top to bottom."""
        depth = len(tree.path(node))
        return [n.id for n in tree.walk() if len(tree.path(n.id)) == depth]

    one = tree.nodes[0].children[0]
    two = tree.nodes[one].children[0]
    three = tree.nodes[two].children[0]
    down = row(three)[row(three).index(three) + 1]
    end = three
    while tree.nodes[end].children:
        end = tree.nodes[end].children[0]
    assert out["seen"] == [one, two, three, down, three, end, 0, 0]
    below = [n for n in tree.nodes if any(p.id == 5 for p in tree.path(n.id))]
    assert out["traced"] == len(tree.path(5)) + len(below) - 1
    others = saved(run, "train-000000")
    assert (out["first"], out["second"]) == (len(others[0].nodes), len(others[1].nodes))
    assert out["hash"] == "#tree=train-000000/1/1"
    assert out["spans"] == len(others[1].nodes[1].tokens)
    assert out["who"] == 2


def test_a_turn_in_several_nodes_is_counted_once(tmp_path: Path) -> None:
    write_trees(tmp_path / "run/trees/train-000001.jsonl.gz", [split_turns()])
    build_report(tmp_path / "run")
    script = """return [...d.querySelectorAll(".node")].map((g) => [Number(g.dataset.id), g.getAttribute("aria-label")])
                .concat([["columns", [...d.querySelectorAll(".column")].map((t) => t.textContent)]]);"""
    out = dict(act(tmp_path / "run", tmp_path / "profile", script))
    turns = {node: said.split(",")[0] for node, said in out.items() if node != "columns"}
    assert turns == {0: "prompt", 1: "turn 1", 2: "turn 1", 3: "turn 1", 4: "turn 1", 5: "turn 2", 6: "turn 1"}
    assert "result of search" in out[4]
    assert out["columns"] == ["reward", "advantage"], "the other columns of this tree are no turns"


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_sticks_out(run: Path, tmp_path: Path, width: int) -> None:
    out = act(
        run, tmp_path, "return [d.documentElement.scrollWidth, d.getElementById('canvas').clientWidth];", width=width
    )
    assert out[0] <= width
    assert out[1] > 200


def deep(turns: int = 9, ways: int = 1) -> Tree:
    """Chains of ``turns`` turns with a call between each two."""
    tree = Tree("deep", [1], prompt_text="p")
    for way in range(ways):
        at = 0
        for turn in range(turns):
            if turn:
                at = tree.add(at, "result", [3], text="r").id
            node = tree.add(at, "action", [4], text="<search>x</search>")
            node.entropies, at = [0.1], node.id
        tree.nodes[at].outcome = Outcome(-0.0004 if way else 0.44)
    tree.meta["advantages"] = {str(leaf.id): -0.56 for leaf in tree.leaves()}
    return tree


def deep_run(folder: Path, **shape: int) -> Path:
    write_trees(folder / "trees/train-000000.jsonl.gz", [deep(**shape)])
    build_report(folder)
    return folder


@pytest.mark.parametrize("width", [390, 1280])
def test_rewards_and_advantages_of_a_deep_tree_are_whole(tmp_path: Path, width: int) -> None:
    script = """
        const canvas = d.getElementById("canvas"), outer = canvas.getBoundingClientRect(), seen = [];
        for (const at of [0, 1e6]) {
          canvas.scrollLeft = at;
          for (const part of canvas.querySelectorAll(".value, .chip")) {
            const box = part.getBoundingClientRect();
            seen.push([part.textContent, box.left >= outer.left && box.right <= outer.right]);
          }
        }
        return {seen, tall: canvas.scrollHeight - canvas.clientHeight, wide: canvas.scrollWidth > canvas.clientWidth};
    """
    out = act(deep_run(tmp_path / "run"), tmp_path / "profile", script, width=width)
    assert out["seen"] == [["", True], ["−0.56", True]] * 2
    assert out["tall"] == 0
    assert out["wide"] or width == 1280


@pytest.mark.parametrize("width", [390, 1280])
def test_the_node_that_keys_choose_stays_in_sight(tmp_path: Path, width: int) -> None:
    script = """
        const canvas = d.getElementById("canvas"), hidden = [];
        let moves = 0;
        const key = (k) => {
          d.activeElement.dispatchEvent(new w.KeyboardEvent("keydown", {key: k, bubbles: true}));
          const box = d.activeElement.getBoundingClientRect(), outer = canvas.getBoundingClientRect();
          const columns = canvas.lastElementChild.getBoundingClientRect();
          const inside = box.top >= 0 && box.bottom <= w.innerHeight
            && box.left >= outer.left && box.right <= columns.left + 1;
          if (!inside) hidden.push([k, d.activeElement.dataset.id, box.left, box.top, box.right, box.bottom]);
          moves += d.activeElement.dataset.id === d.documentElement.dataset.selected;
        };
        d.querySelector('[data-id="0"]').focus();
        ["ArrowRight", "End", ...Array(29).fill("ArrowDown"), "Home", "ArrowRight"].forEach(key);
        return {hidden, moves, leaf: w.location.hash};
    """
    folder = deep_run(tmp_path / "run", ways=30)
    out = act(folder, tmp_path / "profile", script, width=width, height=600)
    assert out == {"hidden": [], "moves": 33, "leaf": "#tree=train-000000/0/1"}


def test_on_a_phone_a_tap_goes_to_the_panel_and_back(tmp_path: Path) -> None:
    script = """
        const panel = d.getElementById("panel"), top = (part) => Math.round(part.getBoundingClientRect().top);
        const node = d.querySelector('[data-id="1"]');
        node.dispatchEvent(new w.MouseEvent("click", {bubbles: true}));
        const there = top(panel) / w.innerHeight;
        const back = panel.querySelector(".back");
        const shown = back.offsetParent !== null;
        back.click();
        return {there, shown, back: top(node) >= 0 && top(node) < w.innerHeight, focus: d.activeElement.dataset.id};
    """
    folder = deep_run(tmp_path / "run", ways=30)
    out = act(folder, tmp_path / "phone", script, width=390, height=700)
    assert 0 <= out.pop("there") < 0.5
    assert out == {"shown": True, "back": True, "focus": "1"}
    wide = act(folder, tmp_path / "wide", script, width=1280, height=700)
    assert (wide["there"] > 0, wide["shown"]) == (True, False)


def test_entropies_that_are_not_finite_are_no_error(tmp_path: Path) -> None:
    tree = deep(turns=2)
    tree.nodes[1].entropies = [float("nan")]
    tree.meta["pieces"] = {"4": "x"}
    write_trees(tmp_path / "run/trees/train-000000.jsonl.gz", [tree])
    build_report(tmp_path / "run")
    script = """
        d.querySelector('[data-id="1"]').dispatchEvent(new w.MouseEvent("click", {bubbles: true}));
        const {selected, ready} = d.documentElement.dataset;
        return [d.querySelectorAll(".node").length, selected, ready];
    """
    assert act(tmp_path / "run", tmp_path / "profile", script) == [4, "1", "1"]


@pytest.mark.parametrize("fragment", ["#tree=%E0%A4%A/0/0", "#tree=100%/0/0", "#tree=gone/0/0"])
def test_an_address_that_names_nothing_opens_the_first_tree(tmp_path: Path, fragment: str) -> None:
    script = "return [d.documentElement.dataset.ready, d.querySelectorAll('.node').length];"
    folder = deep_run(tmp_path / "run", turns=2)
    assert act(folder, tmp_path / "profile", script, fragment=fragment) == ["1", 4]


def test_numbers_that_round_to_zero_have_no_minus_and_the_prompt_says_what_its_tokens_count(tmp_path: Path) -> None:
    script = """
        const chips = [...d.querySelectorAll(".chip-text")].map((t) => t.textContent);
        return [chips, d.getElementById("panel").textContent];
    """
    chips, panel = act(deep_run(tmp_path / "run", ways=2), tmp_path / "profile", script)
    assert chips == ["+0.44", "+0.00"]
    assert "system prompt" in panel


def test_a_hostile_text_runs_nothing_and_is_shown_as_it_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=1, trees=1, tasks=2, hostile=True)
    build_report(folder)
    tree = saved(folder, "train-000000")[0]
    result = next(n for n in tree.nodes if n.kind == "result")
    leaf = tree.leaves()[0]
    out = act(
        folder,
        tmp_path / "profile",
        f"""
        const text = d.querySelector("#panel .text").textContent;
        d.querySelector('[data-id="{leaf.id}"]').dispatchEvent(new w.MouseEvent("click", {{bubbles: true}}));
        const details = d.querySelector("#panel details");
        details.open = true;
        details.dispatchEvent(new w.Event("toggle"));
        return {{text, pwned: d.documentElement.dataset.pwned || null, images: d.images.length,
                 scripts: d.scripts.length, bold: d.querySelectorAll("#panel b").length}};
        """,
        fragment=f"#tree=train-000000/0/{result.id}",
    )
    assert out["text"] == result.text.removeprefix("<result>\n").removesuffix("\n</result>")
    assert (out["pwned"], out["images"], out["scripts"], out["bold"]) == (None, 0, 2, 0)


def test_an_empty_run_has_no_script_error(tmp_path: Path) -> None:
    dom = dump(build_report(tmp_path).as_uri(), tmp_path / "profile")
    assert (attribute(dom, "errors"), attribute(dom, "ready")) == ("0", "1")


def test_a_live_page_reloads_itself(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=1, trees=1, tasks=2)
    builds = []

    class Growing(ReportServer):
        def page(self) -> bytes:
            page = super().page()
            builds.append(page)
            if len(builds) == 1:  # the run goes on after the page was first sent
                write_lines(self.run / "metrics.jsonl", [{"phase": "train", "step": 9, "reward": 1.0}])
            return page

    with Growing(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        dom = dump(server.url, tmp_path / "profile", budget=10_000)
        server.shutdown()
        thread.join()
    assert len(builds) >= 2
    assert "1 training step<" in dom
    assert attribute(dom, "errors") == "0"
