"""The page's tree section: the frame that ``page.js`` draws into, and its legend."""

from __future__ import annotations

from html import escape

from arpo_algo.report import trees
from arpo_algo.report.charts import number
from arpo_algo.report.trees import Forest


def viewer(forest: Forest) -> str:
    head = '<section id="viewer"><h2>Rollout trees</h2>'
    if not forest.payload["files"]:
        said = "No trees have been saved yet (trees/)."
        if forest.total:
            said = (
                f"None of the {forest.total:,} saved trees fits on this page ({trees.MAX_CHARS:,} characters). They "
                "are in the run folder under trees/; `arpo view RUN --terminal` prints the newest."
            )
        return f'{head}<p class="empty">{escape(said)}</p></section>'
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in forest.notes)
    scale = forest.payload["scale"]
    return (
        f'{head}<p class="muted">A row is a trajectory, read from left to right. Choose a node for its text, its tool '
        f"call, and why it forked or did not. Arrow keys move once a node is chosen.</p>{notes}"
        '<div class="pick"><label>Step<select id="pick-file"></select></label>'
        '<label>Tree<select id="pick-tree"></select></label></div>'
        '<noscript><p class="empty">The tree viewer needs JavaScript; all else on this page does not.</p></noscript>'
        '<p class="note" id="tree-facts"></p>'
        '<div class="viewer"><div><div class="canvas" id="canvas"></div>'
        f"{_tree_legend(scale)}</div>"
        '<div class="panel" id="panel" role="region" aria-label="Chosen node" aria-live="polite"></div></div></section>'
    )


def _tree_legend(scale: dict[str, float]) -> str:
    def item(width: int, drawing: str, text: str) -> str:
        return f'<span><svg width="{width}" height="20" aria-hidden="true">{drawing}</svg>{text}</span>'

    def turn(x: int, share: float) -> str:
        place = f'cx="{x}" cy="10" r="{4.5 + 5 * share}"'
        heat = f'<circle class="heat" {place} opacity="{0.05 + 0.95 * share:.2f}"/>'
        return f'<circle class="paper" {place}/>{heat}<circle class="shape" {place} fill="none"/>'

    def box(kind: str, letter: str) -> str:
        text = f'<text class="glyph" x="8.5" y="13.5" text-anchor="middle">{letter}</text>'
        return f'<rect class="tool{kind}" x="1" y="2.5" width="15" height="15" rx="3"/>{text}'

    def chip(x: int, kind: str) -> str:
        return f'<rect class="chip {kind}" x="{x}" y="3" width="11" height="14"/>'

    fork = (
        '<path class="edge fork" d="M9,5C24,5 24,16 42,16"/>'
        '<rect class="tool forked" x="1" y="1" width="14" height="14" rx="3"/>'
    )
    top = number(scale["node"])
    items = [
        item(
            56,
            turn(6, 0.0) + turn(22, 0.5) + turn(44, 1.0),
            f"a turn of the model; mean entropy 0 to {top} nats or more",
        ),
        item(18, box("", "S"), "a tool result, by the tool's initial"),
        item(18, box(" failed", "P"), "a call that failed"),
        item(44, fork, "forked here; the sibling drops below"),
        item(40, chip(0, "good") + chip(13, "zero") + chip(26, "bad"), "reward above, at, below zero"),
    ]
    return f'<div class="legend">{"".join(items)}</div>'
