"use strict";
// The report's only script: values under the pointer, the tree viewer, and reloading while a run goes on.
// All text from a run is data: it enters the page through textContent and setAttribute only.
(() => {
  const root = document.documentElement;
  root.dataset.errors = "0";
  const failed = (message) => {
    root.dataset.errors = String(Number(root.dataset.errors) + 1);
    root.dataset.firstError = root.dataset.firstError || String(message);
  };
  window.addEventListener("error", (event) => failed(event.message));
  window.addEventListener("unhandledrejection", (event) => failed(event.reason));

  const SVG = "http://www.w3.org/2000/svg";
  const fill = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== undefined && value !== null) node.setAttribute(name, value);
    }
    node.append(...children.filter((c) => c !== null && c !== undefined));
    return node;
  };
  const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  const signed = (x, digits = 2) => {
    if (x === null || x === undefined) return "–";
    const size = Math.abs(x).toFixed(digits);
    return (x < 0 && Number(size) !== 0 ? "−" : "+") + size;
  };
  const many = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

  // ------------------------------------------------------------------ tooltip

  const tip = document.getElementById("tip");
  const hideTip = () => { tip.hidden = true; };
  const showTip = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 12, window.innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + 16 + box.height > window.innerHeight ? y - box.height - 10 : y + 16}px`;
  };

  for (const figure of document.querySelectorAll("figure[data-points]")) {
    const picture = figure.querySelector("svg");
    const points = JSON.parse(figure.dataset.points);
    const cursor = picture.querySelector(".cursor");
    const leave = () => { hideTip(); cursor.style.visibility = "hidden"; };
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * picture.viewBox.baseVal.width;
      let best = points[0];
      for (const point of points) if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
      cursor.setAttribute("x1", best[0]);
      cursor.setAttribute("x2", best[0]);
      cursor.style.visibility = "visible";
      showTip(best.slice(1).join("\n"), event.clientX, event.clientY);
    });
    picture.addEventListener("pointerleave", leave);
    picture.addEventListener("pointercancel", leave);
  }

  // ------------------------------------------------------------------ live

  const live = document.querySelector('meta[name="arpo-live"]');
  if (live) {
    const status = document.getElementById("live-status");
    status.hidden = false;
    status.textContent = "Live: this page reloads when the run writes something new.";
    const poll = async () => {
      try {
        const answer = await fetch("version", { cache: "no-store" });
        const version = await answer.text();
        if (answer.ok && version !== live.content && !document.hidden) { location.reload(); return; }
        status.textContent = "Live: this page reloads when the run writes something new.";
      } catch {
        status.textContent = "The server that followed this run does not answer; what you see is the last state.";
      }
      setTimeout(poll, 2000);
    };
    setTimeout(poll, 2000);
  }

  // ------------------------------------------------------------------ tree viewer

  const data = JSON.parse(document.getElementById("payload").textContent);
  const canvas = document.getElementById("canvas");
  if (!canvas || data.files.length === 0) { root.dataset.ready = "1"; return; }
  const panel = document.getElementById("panel");
  const pickFile = document.getElementById("pick-file");
  const pickTree = document.getElementById("pick-tree");
  const OUTCOMES = 124; // width of the columns beside the tree, px
  const state = { file: 0, tree: 0, node: 0 };
  let nodes = [];      // of the tree shown: payload nodes with id, children, depth, x, y

  const share = (h, scale) => Math.sqrt(Math.min(1, Math.max(0, h) / scale));
  const tree = () => data.files[state.file].trees[state.tree];
  const pathTo = (id) => { const out = []; for (let at = id; at !== null; at = nodes[at].p) out.unshift(at); return out; };
  const below = (id) => {
    const out = [];
    const stack = [id];
    while (stack.length) { const at = stack.pop(); out.push(at); stack.push(...nodes[at].children); }
    return out;
  };
  const leavesBelow = (id) => below(id).filter((i) => nodes[i].o).sort((a, b) => nodes[a].y - nodes[b].y);
  // By results, not by depth: a turn that was forked in its middle lies in several nodes.
  const turnOf = (node) => node.results + (node.k === "a");
  const toolOf = (result) => { const call = nodes[result.p].call; return call ? call[0] : null; };
  const textOf = (node) => (node.x ? node.x.map((i) => tree().pieces[i]).join("") : node.t || "");
  const rewardClass = (o) => (o.void ? "void" : o.r > 0 ? "good" : o.r < 0 ? "bad" : "zero");

  function open() {
    nodes = tree().nodes.map((n, id) => ({ ...n, px: 0, y: 0, id, children: [], depth: 0, results: 0 }));
    for (const n of nodes) if (n.p !== null) {
      nodes[n.p].children.push(n.id);
      n.depth = nodes[n.p].depth + 1;
      n.results = nodes[n.p].results + (n.k === "r");
    }
    state.node = Math.min(state.node, nodes.length - 1);
    draw();
  }

  // Rows are leaves in depth-first order; a trunk runs straight and what is forked drops below it.
  function layout(width) {
    let row = 0;
    const step = nodes.filter((n) => n.children.length === 0).length > 12 ? 27 : 31;
    const top = 40;
    const order = [];
    const stack = [0];
    while (stack.length) { const at = stack.pop(); order.push(at); stack.push(...nodes[at].children.slice().reverse()); }
    for (const id of order) if (nodes[id].children.length === 0) nodes[id].y = top + step * row++;
    for (const id of order.slice().reverse()) {
      const kids = nodes[id].children;
      if (kids.length) nodes[id].y = nodes[kids[0]].y;
    }
    const roots = nodes[0].children;
    if (roots.length > 1) nodes[0].y = (nodes[roots[0]].y + nodes[roots[roots.length - 1]].y) / 2;
    const deepest = Math.max(1, ...nodes.map((n) => n.depth));
    const left = 22, right = 24;
    const gap = Math.max(27, Math.min(64, (width - left - right - OUTCOMES) / deepest));
    for (const n of nodes) n.px = left + gap * n.depth;
    return { gap, deepest, width: left + gap * deepest + right, height: top + step * Math.max(1, row) - step / 2 + 10 };
  }

  function spoken(n) {
    const bits = [n.k === "p" ? "prompt" : n.k === "a" ? `turn ${turnOf(n)}, model` : `turn ${turnOf(n)}, result of ${toolOf(n) || "a turn without a call"}`];
    if (n.m !== undefined) bits.push(`mean entropy ${n.m.toFixed(3)} nats`);
    if (n.probe) bits.push(`forked ${n.probe}`);
    if (n.fork !== undefined) bits.push("a forked sibling");
    if (n.o) bits.push(n.o.void ? "void" : `reward ${signed(n.o.r)}, advantage ${signed(n.o.a)}`);
    return bits.join(", ");
  }

  function shape(n) {
    const g = svg("g", { class: "node", role: "treeitem", tabindex: "-1", "data-id": n.id, "aria-level": n.depth + 1, "aria-label": spoken(n), transform: `translate(${n.px},${n.y})` });
    g.append(svg("circle", { class: "hit", r: 13 }));
    if (n.k === "p") {
      g.append(svg("rect", { class: "ring", x: -10, y: -10, width: 20, height: 20 }), svg("rect", { class: "shape paper", x: -6, y: -6, width: 12, height: 12 }));
    } else if (n.k === "r") {
      const forked = n.probe ? " forked" : "";
      g.append(
        svg("rect", { class: "ring", x: -11.5, y: -11.5, width: 23, height: 23, rx: 5 }),
        svg("rect", { class: `tool${forked}${n.ok ? "" : " failed"}`, x: -7.5, y: -7.5, width: 15, height: 15, rx: 3 }),
        svg("text", { class: `glyph${forked}`, "text-anchor": "middle", y: 3.3 }, (toolOf(n) || "–").slice(0, 1).toUpperCase()),
      );
    } else {
      const s = n.m === undefined ? 0 : share(n.m, data.scale.node);
      const r = 4.5 + 5 * s;
      g.append(
        svg("circle", { class: "ring", r: r + 4 }),
        svg("circle", { class: "paper", r }),
        svg("circle", { class: "heat", r, opacity: (0.05 + 0.95 * s).toFixed(3) }),
        svg("circle", { class: "shape", r, fill: "none" }),
      );
    }
    return g;
  }

  function draw() {
    const box = layout(Math.max(240, canvas.clientWidth - 2));
    const picture = svg("svg", { width: box.width, height: box.height, role: "tree", "aria-label": `Rollout tree of ${tree().task}: ${many(nodes.length, "node")}. Arrow keys move.` });
    // A column is a turn only where each turn is one node.
    const whole = nodes.every((n) => n.k !== "a" || nodes[n.p].k !== "a");
    for (let turn = 1; whole && turn <= Math.ceil(box.deepest / 2); turn++) {
      if (box.gap < 34 && turn % 2 === 0) continue;
      const x = 22 + box.gap * (2 * turn - 1);
      picture.append(svg("text", { class: "column", x, y: 18, "text-anchor": "middle" }, `turn ${turn}`));
    }
    // A picture of its own, beside the tree's: it stays in sight however far a deep tree is scrolled.
    const outcomes = svg("svg", { class: "outcomes", width: OUTCOMES, height: box.height, "aria-hidden": "true" }, // the nodes say it too
      svg("text", { class: "column", x: 26, y: 18, "text-anchor": "middle" }, "reward"),
      svg("text", { class: "column", x: 116, y: 18, "text-anchor": "end" }, "advantage"),
    );
    const leaves = nodes.filter((n) => n.o);
    for (const n of leaves) {
      picture.append(svg("line", { class: "leader", x1: n.px + 12, x2: box.width, y1: n.y, y2: n.y }));
    }
    // Forks are drawn last, above plain edges.
    for (const forks of [false, true]) {
      for (const n of nodes) {
        if (n.p === null || (n.fork !== undefined) !== forks) continue;
        const from = nodes[n.p];
        const bend = from.px + box.gap * 0.55;
        const d = from.y === n.y ? `M${from.px},${from.y}H${n.px}` : `M${from.px},${from.y}C${bend},${from.y} ${n.px - box.gap * 0.75},${n.y} ${n.px},${n.y}`;
        picture.append(svg("path", { class: forks ? "edge fork" : "edge", d, "data-to": n.id }));
      }
    }
    for (const n of leaves) {
      const kind = rewardClass(n.o);
      outcomes.append(
        svg("g", { class: "leaf", "data-leaf": n.id },
          svg("rect", { class: `chip ${kind}`, x: 4, y: n.y - 8.5, width: 44, height: 17 }),
          svg("text", { class: `chip-text ${kind}`, x: 26, y: n.y + 4, "text-anchor": "middle" }, n.o.void ? "void" : signed(n.o.r)),
          svg("text", { class: "value", x: 116, y: n.y + 4, "text-anchor": "end" }, n.o.void ? "–" : signed(n.o.a)),
        ),
      );
    }
    for (const n of nodes) picture.append(shape(n));
    canvas.replaceChildren(picture, outcomes);
    trace(null);
    root.dataset.nodes = String(nodes.length);
    select(state.node, false);
  }

  const target = (event) => event.target.closest("[data-id], [data-leaf], [data-to]");
  const idOf = (t) => Number(t.dataset.id ?? t.dataset.leaf ?? t.dataset.to);
  canvas.addEventListener("pointerover", (event) => { const t = target(event); trace(t ? idOf(t) : null); });
  canvas.addEventListener("pointerleave", () => trace(null));
  canvas.addEventListener("click", (event) => { const t = target(event); if (t) choose(idOf(t)); });
  canvas.addEventListener("keydown", onKey);

  function trace(id) {
    canvas.classList.toggle("tracing", id !== null);
    const on = id === null ? new Set() : new Set([...pathTo(id), ...below(id)]);
    for (const part of canvas.querySelectorAll("[data-id], [data-leaf], [data-to]")) {
      part.classList.toggle("on", on.has(idOf(part)));
    }
  }

  function select(id, focus) {
    state.node = id;
    const path = new Set(pathTo(id));
    for (const edge of canvas.querySelectorAll("[data-to]")) edge.classList.toggle("sel", path.has(Number(edge.dataset.to)));
    for (const g of canvas.querySelectorAll(".node")) {
      const mine = Number(g.dataset.id) === id;
      g.classList.toggle("sel", mine);
      g.setAttribute("tabindex", mine ? "0" : "-1");
      g.setAttribute("aria-selected", String(mine));
      if (mine && focus) {
        g.focus({ preventScroll: true });
        g.scrollIntoView({ block: "nearest", inline: "nearest" });
      }
    }
    root.dataset.selected = String(id);
    const file = data.files[state.file];
    const hash = `#tree=${encodeURIComponent(file.name)}/${state.tree}/${id}`;
    if (focus && location.hash !== hash) history.replaceState(null, "", hash);
    describe(nodes[id]);
  }

  // By pointer: where the panel lies below the tree, go there; it holds the way back.
  function choose(id) {
    select(id, true);
    if (window.matchMedia("(max-width: 920px)").matches) panel.scrollIntoView({ block: "start" });
  }

  function onKey(event) {
    const n = nodes[state.node];
    let to = null;
    if (event.key === "ArrowLeft") to = n.p;
    else if (event.key === "ArrowRight") to = n.children[0];
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") { to = n.id; while (nodes[to].children.length) to = nodes[to].children[0]; }
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const way = event.key === "ArrowUp" ? -1 : 1;
      const near = nodes.filter((m) => m.depth === n.depth && (m.y - n.y) * way > 0);
      near.sort((a, b) => Math.abs(a.y - n.y) - Math.abs(b.y - n.y));
      to = near.length ? near[0].id : null;
    } else return;
    event.preventDefault();
    if (to !== null && to !== undefined) select(to, true);
  }

  // ------------------------------------------------------------------ panel

  const facts = (pairs) => el("dl", { class: "facts" }, ...pairs.map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, v))));
  const button = (attributes, text, act) => {
    const b = el("button", { type: "button", ...attributes }, text);
    b.addEventListener("click", act);
    return b;
  };
  const link = (id, text) => button({}, text, () => choose(id));

  function tokens(n) {
    const out = el("div", { class: "text" });
    if (!n.x) { out.textContent = textOf(n) || "(no text)"; return out; }
    if (n.x.length === 0) out.textContent = "(no tokens)";
    n.x.forEach((piece, i) => {
      const h = n.h[i];
      const span = el("span", {}, tree().pieces[piece]);
      const a = h === null ? 0 : 0.8 * share(h, data.scale.token);
      if (a > 0.04) span.style.setProperty("--a", a.toFixed(3));
      const count = n.c ? n.c[i] : 1;
      span.dataset.h = h === null ? "entropy not finite" : `${h.toFixed(4)} nats${count > 1 ? `, mean of ${count} tokens` : ""}`;
      out.append(span);
    });
    out.addEventListener("pointerover", (event) => {
      const h = event.target.dataset.h;
      if (h) showTip(h, event.clientX, event.clientY); else hideTip();
    });
    out.addEventListener("pointerleave", hideTip);
    return out;
  }

  const plain = (text) => { const out = el("div", { class: "text" }); out.textContent = text || "(empty)"; return out; };

  function why(result, node) {
    const title = node.fork !== undefined ? "Why this branch exists" : result.probe ? "Why it forked" : "Why it did not fork";
    return [el("h4", {}, title), ...result.why.map((words) => el("p", { class: result.probe ? "why" : "why not" }, words))];
  }

  function outcome(n) {
    const o = n.o;
    const rows = [];
    if (o.void) rows.push(["void", "spoilt by infrastructure: never scored, never trained on"]);
    else {
      rows.push(["reward", signed(o.r)]);
      for (const [name, value] of Object.entries(o.terms)) rows.push([`· ${name}`, signed(value)]);
      rows.push(["advantage", o.a === undefined ? "not saved" : signed(o.a, 3)]);
      rows.push(["solved", o.win ? "yes" : "no"]);
    }
    rows.push(["answer", o.answer === null ? "none" : o.answer]);
    rows.push(["stopped by", o.stop + (o.cut ? " (truncated)" : "")]);
    rows.push(["tool calls", String(o.calls)], ["turns", String(o.turns)]);
    for (const [name, value] of Object.entries(o.info)) if (value !== "") rows.push([name, value]);
    return [el("h4", {}, "Outcome"), el("table", {}, el("tbody", {}, ...rows.map(([k, v]) => el("tr", {}, el("td", { class: "muted" }, k), el("td", {}, v)))))];
  }

  function branch(n) {
    const leaves = leavesBelow(n.id);
    const scored = leaves.filter((i) => !nodes[i].o.void);
    if (leaves.length < 2) return [];
    const sum = (pick) => scored.reduce((s, i) => s + (pick(nodes[i].o) || 0), 0);
    const known = scored.length > 0 && scored.every((i) => nodes[i].o.a !== undefined);
    const head = ["leaf", "reward", "advantage"].map((t) => el("th", {}, t));
    const rows = leaves.map((i) => {
      const o = nodes[i].o;
      return el("tr", {}, el("td", {}, link(i, `node ${i}`)), el("td", {}, o.void ? "void" : signed(o.r)), el("td", {}, o.void ? "–" : signed(o.a)));
    });
    rows.push(el("tr", {}, el("td", {}, "mean"), el("td", {}, scored.length ? signed(sum((o) => o.r) / scored.length) : "–"), el("td", {}, known ? signed(sum((o) => o.a) / scored.length) : "–")));
    const words = known && n.k === "a"
      ? el("p", { class: "note" }, `Shared by ${scored.length} trajectories: soft attribution gives its tokens the sum of their advantages, ${signed(sum((o) => o.a))}; hard attribution gives each trajectory the mean.`)
      : null;
    return [el("h4", {}, `Branch: ${leaves.length} trajectories below`), el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)), words];
  }

  function trajectory(n) {
    const box = el("details", {}, el("summary", {}, "The whole trajectory up to here"));
    box.addEventListener("toggle", () => {
      if (!box.open || box.children.length > 1) return;
      for (const id of pathTo(n.id)) {
        const at = nodes[id];
        const who = at.k === "p" ? "Prompt" : at.k === "a" ? `Turn ${turnOf(at)}, model` : `Turn ${turnOf(at)}, ${toolOf(at) || "environment"}`;
        box.append(el("p", { class: "who" }, `${who} (node ${id})`), at.k === "a" ? tokens(at) : plain(textOf(at)));
      }
    });
    return box;
  }

  function describe(n) {
    const parent = n.p === null ? null : nodes[n.p];
    const title = n.k === "p" ? "Prompt" : n.k === "a" ? `Turn ${turnOf(n)}: the model` : `Turn ${turnOf(n)}: result${toolOf(n) ? ` of ${toolOf(n)}` : ""}`;
    const list = [["node", String(n.id)], ["tokens", `${n.n} (from ${n.s})`]];
    if (n.m !== undefined) list.push(["mean entropy", `${n.m.toFixed(4)} nats`]);
    if (n.k === "r") list.push(["call", n.ok ? "worked" : "failed"]);
    if (n.fork !== undefined) list.push(["forked beside", link(n.fork, `node ${n.fork}`)]);
    const back = button({ class: "back" }, "Back to the tree", () => select(n.id, true));
    const parts = [back, el("h3", {}, title), facts(list)];
    if (n.k === "a") {
      parts.push(el("h4", {}, n.x ? "Text, tokens shaded by entropy" : "Text (token texts were not saved)"), tokens(n));
      if (n.call) parts.push(el("h4", {}, `Tool call: ${n.call[0]}`), plain(n.call[1]));
      const result = n.children.map((c) => nodes[c]).find((c) => c.k === "r");
      if (result) parts.push(el("h4", {}, n.call ? "Its result" : "What the environment answered"), plain(textOf(result)));
      if (parent && parent.k === "r") parts.push(...why(parent, n));
    } else {
      parts.push(el("h4", {}, "Text"), plain(textOf(n)));
      if (n.k === "p") parts.push(el("p", { class: "note" }, "The tokens count all that the model is given: the system prompt and the chat's frame too, which are not shown."));
      if (n.k === "r") parts.push(...why(n, n));
    }
    if (n.o) parts.push(...outcome(n));
    parts.push(...branch(n), trajectory(n));
    panel.replaceChildren(...parts.filter((part) => part !== null));
    panel.scrollTop = 0;
  }

  // ------------------------------------------------------------------ picking

  function listTrees() {
    const file = data.files[state.file];
    pickTree.replaceChildren(...file.trees.map((t, i) => {
      const mean = t.reward === null ? "" : `, mean reward ${signed(t.reward)}`;
      const size = t.leaves === 1 ? (t.wins ? "solved" : "not solved") : `${t.wins} of ${t.leaves} solved, ${many(t.forks, "fork")}`;
      return el("option", { value: i }, `${i + 1}. ${t.task}: ${size}${mean}`);
    }));
    pickTree.value = String(state.tree);
    const t = tree();
    document.getElementById("tree-facts").textContent =
      `${many(t.unique, "unique token")} for ${t.flat} laid flat (${(t.flat / Math.max(1, t.unique)).toFixed(2)}×); ${many(t.calls, "tool call")} made.`;
  }

  // null where the address is malformed: it names nothing.
  const decoded = (text) => { try { return decodeURIComponent(text); } catch { return null; } };

  function fromHash() {
    const match = /^#tree=([^/]+)\/(\d+)\/(\d+)$/.exec(location.hash);
    if (!match) return false;
    const file = data.files.findIndex((f) => f.name === decoded(match[1]));
    if (file < 0) return false;
    state.file = file;
    state.tree = Math.min(Number(match[2]), data.files[file].trees.length - 1);
    state.node = Number(match[3]);
    return true;
  }

  // What to open first: the latest training tree, the one with most forks.
  function first() {
    const trains = data.files.map((f, i) => [f, i]).filter(([f]) => f.name.startsWith("train-"));
    const [file, index] = trains.length ? trains[trains.length - 1] : [data.files[0], 0];
    state.file = index;
    state.tree = file.trees.reduce((best, t, i) => (t.forks > file.trees[best].forks ? i : best), 0);
    state.node = 0;
  }

  function show() {
    pickFile.value = String(state.file);
    listTrees();
    open();
  }

  data.files.forEach((f, i) => {
    const some = f.total > f.trees.length ? ` (${f.trees.length} of ${f.total} trees)` : ` (${many(f.total, "tree")})`;
    pickFile.append(el("option", { value: i }, f.label + some));
  });
  pickFile.addEventListener("change", () => { state.file = Number(pickFile.value); state.tree = 0; state.node = 0; show(); });
  pickTree.addEventListener("change", () => { state.tree = Number(pickTree.value); state.node = 0; show(); });
  window.addEventListener("hashchange", () => { if (fromHash()) show(); });
  let width = 0;
  new ResizeObserver(() => {
    requestAnimationFrame(() => {
      if (Math.abs(canvas.clientWidth - width) > 4) { width = canvas.clientWidth; draw(); }
    });
  }).observe(canvas);
  if (!fromHash()) first();
  width = canvas.clientWidth;
  show();
  root.dataset.ready = "1";
})();
