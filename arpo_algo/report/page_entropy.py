"""The page's entropy section: the paper's first claim (entropy rises after tool results), tested on this run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from arpo_algo.report import charts, trees
from arpo_algo.report.charts import Interval, Series, percent
from arpo_algo.report.document import scrolled
from arpo_algo.report.entropy import EntropyProfile, Estimate, Rise, entropy_profile

#: Tokens that the statistics average over when the run's configuration names no k (the paper's code: 20).
DEFAULT_K = 20


def entropy(loaded: Sequence[trees.LoadedFile], k: int | None) -> str:
    head = '<section id="entropy"><h2>Entropy around tool results</h2>'
    used = k or DEFAULT_K
    others = [f for f in loaded if f.file.kind != "train"]
    sources = [("training", [t for f in loaded if f.file.kind == "train" for t in f.trees])]
    sources += [(f.label, f.trees) for f in others]
    profiles = [(name, entropy_profile(found, k=used)) for name, found in sources if found]
    profiles = [(name, p) for name, p in profiles if p.start or p.after]
    if not profiles:
        return f'{head}<p class="empty">No trees with token entropies have been saved yet (trees/).</p></section>'
    parts = [head]
    rises = [(name, p.rise) for name, p in profiles if p.rise is not None]
    if profiles[0][1].rise is not None:
        parts.append(f'<p class="verdict">{escape(rise_sentence(*rises[0]))}</p>')
    parts.append(
        '<p class="muted">Entropy of each token before it was drawn, in nats, by its place in the first turn and in '
        "turns right after a tool result. Forked siblings and what follows them are left out, because entropy itself "
        "chose where they were made. Intervals: 95 %, Student's over trees. Bands: 95 %, bootstrap over trees, too "
        "narrow where trees are few.</p>"
    )
    figures = _profile_charts(*profiles[0], _top(profiles[:1]))
    if rises:
        figures += _after_chart(rises) + _rise_chart(rises)
    parts.append(f'<div class="charts">{figures}</div>')
    if rises:
        parts.append(
            f"<h3>The first {used} tokens: start of a trajectory against after a tool result</h3>{_rise_table(rises)}"
        )
    if k is None:
        parts.append(f'<p class="note">The configuration names no k: {DEFAULT_K}, as in the published code.</p>')
    read, total = sum(len(f.trees) for f in loaded), sum(f.total for f in loaded)
    if read < total:
        parts.append(f'<p class="note">Computed from {read:,} of the {total:,} trees of the steps shown.</p>')
    if len(profiles) > 1:
        top = _top(profiles[1:])
        more = "".join(_profile_charts(name, p, top) for name, p in profiles[1:])
        names = ", ".join(escape(name) for name, _ in profiles[1:])
        parts.append(
            f'<details><summary>The same by position for: {names}</summary><div class="charts">{more}</div></details>'
        )
    return "".join([*parts, "</section>"])


def _top(profiles: Sequence[tuple[str, EntropyProfile]]) -> float:
    """The largest value drawn, so that charts to be compared share an axis."""
    return max(e.high or e.mean for _, p in profiles for e in (*_solid(p.start), *_solid(p.after)))


def _solid(points: Sequence[Estimate]) -> list[Estimate]:
    """The first positions, as long as a tenth of the segments (and at least two, if there were two) reach them."""
    if not points:
        return []
    need = max(points[0].n / 10, min(2, points[0].n))
    return [p for p in points if p.n >= need]


def _profile_charts(name: str, p: EntropyProfile, top: float) -> str:
    figures = []
    for title, points, colour in (
        ("from the start of the trajectory", p.start, 0),
        ("after a tool result", p.after, 1),
    ):
        solid = _solid(points)
        if not solid:
            figures.append(
                f'<figure class="chart"><figcaption><b>{escape(_capital(f"{name}: {title}"))}</b></figcaption>'
                '<p class="empty">no such turn</p></figure>'
            )
            continue
        series = Series(
            "",
            [float(i) for i in range(len(solid))],
            [e.mean for e in solid],
            [e.low for e in solid],
            [e.high for e in solid],
            colour=colour,
            notes=[f"n={e.n}" for e in solid],
        )
        figures.append(
            charts.line_chart(
                _capital(f"{name}: {title}"), [series], x_label="token", x_word="token", y_from=0.0, y_to=top
            )
        )
    return "".join(figures)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def rise_sentence(name: str, rise: Rise) -> str:
    """Claim 1 of the paper, on this run's own data."""
    d = rise.difference
    where = (
        f"{_capital(name)}: over the first {rise.k} tokens, entropy was {rise.start.mean:.4f} nats a token at the "
        f"start of a trajectory and {rise.after.mean:.4f} after a tool result"
    )
    if d.low is None or d.high is None:
        return f"{where}; one tree alone gives no interval."
    if d.low > 0:
        verdict = "so it rose after tool results, as the paper says"
    elif d.high < 0:
        verdict = "so it fell after tool results, against the paper's observation"
    else:
        verdict = "so no rise is shown"
    return f"{where} (difference {d.mean:+z.4f}, 95 % CI {d.low:+z.4f} to {d.high:+z.4f}), {verdict}."


def _rise_table(rises: Sequence[tuple[str, Rise]]) -> str:
    titles = (
        "",
        "trees",
        "trajectories",
        "turns after<br>a result",
        "start",
        "after a<br>result",
        "difference (95 % CI)",
        "trajectories<br>that rise",
    )
    head = "".join(f"<th>{t}</th>" for t in titles)
    body = []
    for name, r in rises:
        d = r.difference
        span = "" if d.low is None or d.high is None else f' <span class="ci">({d.low:+z.4f} to {d.high:+z.4f})</span>'
        cells = [
            escape(name),
            str(r.trees),
            str(r.trajectories),
            str(r.segments),
            f"{r.start.mean:.4f}",
            f"{r.after.mean:.4f}",
            f"{d.mean:+z.4f}{span}",
            percent(round(r.share_rising, 3)),
        ]
        body.append("<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return scrolled(table, "Entropy at the start and after a result")


def _after_chart(rises: Sequence[tuple[str, Rise]]) -> str:
    """Does training lower the entropy after tool results? One row an evaluation, before training and after it."""
    return charts.dot_interval(
        "Entropy after a tool result (95 % CI)",
        [Interval(name, r.after.mean, r.after.low, r.after.high, colour=1) for name, r in rises],
        x_label="nats a token, first tokens of turns after a result",
        zero=True,
    )


def _rise_chart(rises: Sequence[tuple[str, Rise]]) -> str:
    return charts.dot_interval(
        "Rise after a tool result (95 % CI)",
        [Interval(name, r.difference.mean, r.difference.low, r.difference.high, colour=1) for name, r in rises],
        x_label="nats a token, after a result − at the start",
        zero=True,
    )
