"use strict";
// The list of samples, and the one trajectory that is open. Chunks are unpacked when they are first asked for.
// All text from a run is data: it enters the page through textContent only.
(() => {
  const root = document.documentElement;
  root.dataset.errors = "0";
  const failed = (message) => {
    root.dataset.errors = String(Number(root.dataset.errors) + 1);
    root.dataset.firstError = root.dataset.firstError || String(message);
  };
  window.addEventListener("error", (event) => failed(event.message));
  window.addEventListener("unhandledrejection", (event) => failed(event.reason));

  const PAGE = 200;
  const data = JSON.parse(document.getElementById("payload").textContent);
  const rows = data.rows.map(([suite, task, sample, state, question, stop, chunk, place]) => ({
    suite, task, sample, state, question, stop, chunk, place, key: `${data.suites[suite]}/${task}/${sample}`,
    text: `${task} ${question}`.toLowerCase(),
  }));
  const many = rows.some((row) => row.sample > 0);
  const at = (id) => document.getElementById(id);
  const [list, panel, suite, outcome, find] = ["list", "panel", "suite", "outcome", "find"].map(at);

  const el = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  const chunks = new Map();
  const unpack = (number) => {
    if (!chunks.has(number)) {
      const bytes = Uint8Array.from(atob(at(`chunk-${number}`).textContent), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      chunks.set(number, new Response(stream).json());
    }
    return chunks.get(number);
  };

  let shown = [];
  let drawn = 0;
  let current = null;

  function item(row) {
    const name = `${data.suites[row.suite]} · ${row.task}${many ? ` · sample ${row.sample}` : ""} · ${row.stop || row.state}`;
    const button = el("button", { type: "button", class: "item", "data-key": row.key, "aria-current": String(row.key === current) },
      el("span", { class: `mark ${row.state}`, title: row.state }), el("span", {}, row.question || "(no question)"), el("span", { class: "id" }, name));
    button.addEventListener("click", () => open(row, true));
    return button;
  }

  function more() {
    list.querySelector(".more")?.remove();
    list.append(...shown.slice(drawn, drawn + PAGE).map(item));
    drawn = Math.min(drawn + PAGE, shown.length);
    if (drawn < shown.length) {
      const button = el("button", { type: "button", class: "more" }, `${shown.length - drawn} more`);
      button.addEventListener("click", more);
      list.append(button);
    }
    root.dataset.listed = String(drawn);
  }

  function filter() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = rows.filter((row) =>
      (suite.value === "" || row.suite === Number(suite.value)) &&
      (outcome.value === "" || row.state === outcome.value) &&
      words.every((word) => row.text.includes(word)));
    at("count").textContent = `${shown.length} of ${rows.length} samples`;
    list.replaceChildren();
    drawn = 0;
    more();
  }

  const block = (who, text, kind) => [el("p", { class: "who" }, who), el("div", { class: `text ${kind}` }, text || "(empty)")];

  async function open(row, focus) {
    current = row.key;
    for (const button of list.querySelectorAll(".item")) button.setAttribute("aria-current", String(button.dataset.key === current));
    if (focus) history.replaceState(null, "", `#${encodeURIComponent(row.key)}`);
    const detail = (await unpack(row.chunk))[row.place];
    if (current !== row.key) return;
    const facts = detail.facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
    const back = el("button", { type: "button", class: "back" }, "Back to the list");
    back.addEventListener("click", () => {
      list.scrollIntoView({ block: "nearest" });
      list.querySelector('[aria-current="true"]')?.focus();
    });
    const parts = [back, el("h3", {}, `${data.suites[row.suite]}: ${row.state}`), el("p", { class: "note" }, `${row.task}, sample ${row.sample}`), el("dl", { class: "facts" }, ...facts)];
    for (const error of detail.errors) parts.push(el("p", { class: "why" }, `An attempt failed: ${error}`));
    let turn = 0;
    for (const [role, text] of detail.messages) {
      if (role === "system") parts.push(el("details", {}, el("summary", {}, "System prompt"), el("div", { class: "text" }, text)));
      else if (role === "user") parts.push(...block("Question", text, ""));
      else if (role === "assistant") parts.push(...block(`Turn ${++turn}, policy`, text, "assistant"));
      else parts.push(...block(`Turn ${turn}, environment`, text, "result"));
    }
    panel.replaceChildren(...parts);
    panel.scrollTop = 0;
    // Where the panel lies below the list, go there.
    if (focus && window.matchMedia("(max-width: 920px)").matches) panel.scrollIntoView({ block: "start" });
    root.dataset.open = row.key;
  }

  function fromHash() {
    let key = null;
    try { key = decodeURIComponent(location.hash.slice(1)); } catch { /* malformed: it names nothing */ }
    const row = rows.find((one) => one.key === key) || rows[0];
    if (row) open(row, false);
  }

  for (const control of [suite, outcome]) control.addEventListener("change", filter);
  find.addEventListener("input", filter);
  window.addEventListener("hashchange", fromHash);
  filter();
  fromHash();
  root.dataset.ready = "1";
})();
