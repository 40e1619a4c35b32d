"use strict";
// Every text is put in with textContent or as an attribute value of our own; nothing is parsed as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const number = n => n.toLocaleString("en-US");
const percent = (part, whole, digits = 0) => whole ? (100 * part / whole).toFixed(digits) + " %" : "-";
const PAGE = 25, AROUND = 12;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function column(base64, Kind) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Kind(bytes.buffer);
}

const score = column(data.score, Float32Array), percentile = column(data.percentile, Float32Array);
const file = column(data.file, Uint16Array), line = column(data.line, Uint32Array);
const tokens = column(data.tokens, Uint32Array), bank = column(data.bank, Uint8Array);
const taken = column(data.taken, Uint8Array);
for (const d of data.dimensions) d.of = column(d.of, Uint8Array);
const texts = new Map(data.rows.map(row => [row.rank - 1, row]));

// How many of the first k rows are over the 99th percentile.
const flagged = new Uint32Array(data.listed + 1);
for (let i = 0; i < data.listed; i++) flagged[i + 1] = flagged[i] + (percentile[i] >= data.over ? 1 : 0);

// The cut that was written may be by percentile, or take more than is listed here; what else is tried takes the first
// `cut` rows.
let written = true;
let cut = Math.min(data.removed, data.listed);
let page = 0;
let feature = null;

const isRemoved = i => written ? taken[i] === 1 : i < cut;
const nRemoved = () => written ? data.removed : cut;

// ---- the cut ------------------------------------------------------------------------------------------------------

function describe() {
  const n = nRemoved();
  let text = written ? `This is the cut that was written: ${data.cut}. ` : "";
  text += `Removes ${number(n)} of ${number(data.n)} scored rows (${percent(n, data.n, 1)}) and keeps ${number(data.n - n)}`;
  if (n && n <= data.listed && (data.by_score || !written)) {
    text += `: scores from ${score[cut - 1].toFixed(2)} up, which is above ${(100 * percentile[cut - 1]).toFixed(1)} % of ordinary chat under ${data.banks[bank[cut - 1]]}`;
  }
  const over = written ? data.flagged_removed : flagged[cut];
  text += `. Rows over the 99th percentile: ${number(over)} of them removed`;
  text += `; a random removal of equal size would take ${number(Math.round(data.flagged * n / data.n))}.`;
  if (written && !data.by_score) {
    text += " It goes by percentile; other cuts are tried by score, which with several banks takes some other rows.";
  }
  return text;
}

function drawHistogram() {
  const { kept, removed } = data.histogram;
  let above = 0;
  const groups = $("histogram").querySelectorAll("g");
  for (let i = groups.length - 1; i >= 0; i--) {
    const rows = kept[i] + removed[i];
    const gone = written ? removed[i] : Math.min(rows, Math.max(0, cut - above));
    above += rows;
    const [whole, part] = groups[i].querySelectorAll("rect");
    part.setAttribute("height", rows ? whole.getAttribute("height") * gone / rows : 0);
    groups[i].querySelector("title").textContent =
      `${data.histogram.edges[i]} to ${data.histogram.edges[i + 1]}: ${number(rows)} rows, ${number(gone)} removed`;
  }
}

function drawParts() {
  for (const d of data.dimensions) {
    const gone = written ? d.removed : new Uint32Array(d.categories.length);
    for (let i = 0; i < cut && !written; i++) gone[d.of[i]]++;
    const lines = $("parts").querySelector(`section[data-key="${d.key}"]`).querySelectorAll("tr");
    for (let c = 0; c < gone.length; c++) {
      const cells = lines[c + 1].children;
      cells[2].textContent = number(gone[c]);
      cells[3].textContent = percent(gone[c], d.rows[c]);
      cells[4].querySelector(".removed").setAttribute("width", 100 * gone[c] / d.rows[c]);
    }
  }
}

function drawCut() {
  const n = nRemoved();
  $("n-removed").textContent = number(n);
  $("n-kept").textContent = number(data.n - n);
  $("slider").value = cut;
  $("slider").setAttribute("aria-valuetext", `${number(n)} rows removed, ${percent(n, data.n, 1)}`);
  if (document.activeElement !== $("count")) $("count").value = n;
  if (document.activeElement !== $("percent")) $("percent").value = (100 * n / data.n).toFixed(1);
  $("cut-text").textContent = describe();
  $("cut-command").hidden = written;
  $("cut-command").querySelector("code").textContent = `${data.command} ${cut}`;
  drawHistogram();
  drawParts();
  page = 0;
  drawRows();
}

function moveCut(to) {
  if (!Number.isFinite(to)) return;
  cut = Math.max(0, Math.min(data.listed, Math.round(to)));
  written = data.by_score && cut === data.removed;
  drawCut();
}

function toWritten() {
  written = true;
  cut = Math.min(data.removed, data.listed);
  drawCut();
}

// ---- the rows -----------------------------------------------------------------------------------------------------

const marks = new Map();
const store = `geofilter-labels-${data.fingerprint}`;
function recall() {
  try {
    for (const [sha, label] of JSON.parse(localStorage.getItem(store) ?? "[]")) if (!marks.has(sha)) marks.set(sha, label);
  } catch { /* a browser that keeps nothing for local files: the marks live as long as the page */ }
}

function keep() {
  try { localStorage.setItem(store, JSON.stringify([...marks])); } catch { /* see above */ }
}

function found() {
  const view = $("view").value, words = $("search").value.toLowerCase().trim();
  const chosen = [...$("filters").querySelectorAll("select[data-key]")].filter(s => s.value !== "");
  const by = chosen.map(s => [data.dimensions.find(d => d.key === s.dataset.key).of, Number(s.value)]);
  let from = 0, to = data.listed;
  if (view === "around") [from, to] = [Math.max(0, cut - AROUND), Math.min(data.listed, cut + AROUND)];
  const needsText = view === "text" || view === "marked" || words || feature;
  const ranks = [];
  for (let i = from; i < to; i++) {
    if ((view === "removed" && !isRemoved(i)) || (view === "kept" && isRemoved(i))) continue;
    if (by.some(([of, category]) => of[i] !== category)) continue;
    if (needsText) {
      const row = texts.get(i);
      if (!row) continue;
      if (view === "marked" && !marks.has(row.sha256)) continue;
      if (words && !`${row.prompt}\n${row.response}`.toLowerCase().includes(words)) continue;
      if (feature && !(row.bank === feature.bank && row.top_features.some(t => t.feature === feature.id))) continue;
    }
    ranks.push(i);
  }
  return { ranks, needsText };
}

function drawRows() {
  const { ranks, needsText } = found();
  const pages = Math.max(1, Math.ceil(ranks.length / PAGE));
  page = Math.min(page, pages - 1);
  $("rows-count").textContent = `${number(ranks.length)} ${ranks.length === 1 ? "row" : "rows"}` +
    (needsText && data.rows.length < data.n ? `, of the ${number(data.rows.length)} whose text is on this page` : "");
  $("rows").replaceChildren(...ranks.slice(page * PAGE, (page + 1) * PAGE).map(drawRow));
  $("page").textContent = `page ${number(page + 1)} of ${number(pages)}`;
  $("previous").disabled = page === 0;
  $("next").disabled = page === pages - 1;
}

function drawRow(i) {
  const row = texts.get(i), gone = isRemoved(i);
  const where = `${data.files[file[i]]}, line ${number(line[i])}`;
  const cells = [
    make("span", { class: "n" }, `#${number(i + 1)}`),
    make("span", { class: "n", title: "score" }, score[i].toFixed(2)),
    make("span", { class: "n", title: "share of ordinary chat that scores lower" }, (100 * percentile[i]).toFixed(1) + " %"),
    make("span", { class: gone ? "tag r" : "tag" }, gone ? "removed" : "kept"),
  ];
  if (!row) {
    const how = `${where}, ${number(tokens[i])} tokens, ${data.banks[bank[i]]}`;
    return make("li", {}, make("div", { class: "plain" }, ...cells, make("span", { class: "where" }, how)));
  }
  const label = marks.get(row.sha256);
  const begin = make("span", { class: "begin" }, beginning(row.response));
  const note = make("span", { class: "where" }, `${where}, ${data.banks[bank[i]]}${label ? `, marked ${word(label)}` : ""}`);
  const details = make("details", {}, make("summary", {}, ...cells, begin, note));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(body(row));
  });
  return make("li", {}, details);
}

// One line of a text, up to the end of a word.
const beginning = text => (text.length > 200 ? text.slice(0, 200).replace(/\s+\S*$/, "") + "…" : text).replace(/\s+/g, " ");

const word = label => label === "bad" ? "harmful" : "fine";

function body(row) {
  const out = make("div", { class: "body" });
  if (row.prompt) out.append(make("div", { class: "text", tabindex: "0" }, make("b", {}, "prompt"), row.prompt));
  const response = make("div", { class: "text", tabindex: "0" }, make("b", {}, "response"));
  if (row.tokens) shade(response, row.tokens); else response.append(row.response);
  out.append(response);
  if (row.tokens) {
    const strongest = row.tokens.filter(t => t[1] > 0).sort((a, b) => b[1] - a[1]).slice(0, 8);
    out.append(make("p", { class: "note" }, "Strongest tokens: " +
      strongest.map(t => `${t[0].trim()} ${t[1] < 0 ? "" : "+"}${t[1].toFixed(2)}`).join(", ") + "."));
  }
  const topics = Object.entries(row.topics).sort((a, b) => b[1] - a[1]).slice(0, 3);
  if (topics.length) {
    out.append(make("p", { class: "note" }, "Closest topics, if the row is harmful: " +
      topics.map(([name, value]) => `${name} ${value < 0 ? "" : "+"}${value.toFixed(2)}`).join(", ") + "."));
  }
  if (row.top_features.length) {
    const table = make("table", {}, make("tr", {}, make("th", { class: "n" }, "feature"), make("th", {}, "its words in the bank's texts"),
      make("th", { class: "n" }, "share"), make("th", { class: "n" }, "times ordinary"), make("th", {}, "toxic")));
    for (const t of row.top_features) {
      table.append(make("tr", {}, make("td", { class: "n" }, `${t.feature}`), make("td", {}, t.label || "no words of its own"),
        make("td", { class: "n" }, `${t.share < 0 ? "" : "+"}${t.share.toFixed(3)}`),
        make("td", { class: "n" }, t.times === null ? "-" : `${Number(t.times.toPrecision(2))}`),
        make("td", {}, [t.toxic ? "yes" : "", t.near ? `near ${t.near.feature} (${t.near.label || "no words of its own"}), cosine ${t.near.cosine.toFixed(2)}` : ""].filter(Boolean).join(", "))));
    }
    out.append(make("div", { class: "scroll" }, table));
  }
  const buttons = make("div", { class: "fields", role: "group", "aria-label": "mark this row" });
  for (const label of ["bad", "good"]) {
    const button = make("button", { type: "button", "aria-pressed": marks.get(row.sha256) === label, "data-label": label }, word(label));
    button.addEventListener("click", () => {
      const again = marks.get(row.sha256) === label;
      recall();  // what another window has marked
      if (again) marks.delete(row.sha256); else marks.set(row.sha256, label);
      keep();
      for (const b of buttons.children) b.setAttribute("aria-pressed", marks.get(row.sha256) === b.dataset.label);
      drawMarks();
    });
    buttons.append(button);
  }
  out.append(buttons);
  return out;
}

function shade(into, pieces) {
  const top = Math.max(...pieces.map(p => Math.abs(p[1])), 1e-9);
  for (const [text, share, gap] of pieces) {
    if (gap) into.append(make("span", { class: "gap" }, " … "));
    const level = Math.ceil(3 * Math.abs(share) / top - 0.25);
    if (level < 1) { into.append(text); continue; }
    const title = `${share < 0 ? "" : "+"}${share.toFixed(3)} of the score`;
    into.append(make("mark", { class: `${share > 0 ? "more" : "less"}${level}`, title }, text));
  }
}

// ---- the marks ----------------------------------------------------------------------------------------------------

function drawMarks() {
  const bad = [...marks.values()].filter(label => label === "bad").length, good = marks.size - bad;
  $("marks").textContent = marks.size ? `${bad} harmful and ${good} fine.` : "No row is marked.";
  $("export").disabled = marks.size === 0;
}

function save() {
  recall();
  const lines = [...marks].map(([sha256, label]) => JSON.stringify({ sha256, label }) + "\n");
  const url = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  make("a", { href: url, download: "labels.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// ---- start --------------------------------------------------------------------------------------------------------

for (const d of data.dimensions) {
  const select = make("select", { "data-key": d.key }, make("option", { value: "" }, "any"));
  d.categories.forEach((name, c) => select.append(make("option", { value: c }, name)));
  $("filters").append(make("label", {}, `${d.title} `, select));
}
$("slider").max = $("count").max = data.listed;
$("slider").addEventListener("input", event => moveCut(Number(event.target.value)));
$("slider").addEventListener("keydown", event => {
  // A row a key press would be slow going through many; the slider itself knows Home and End.
  const step = Math.max(1, Math.round(data.listed / 1000)) * (event.key.startsWith("Page") ? 50 : 1);
  const by = { ArrowRight: step, ArrowUp: step, PageUp: step, ArrowLeft: -step, ArrowDown: -step, PageDown: -step }[event.key];
  if (by === undefined) return;
  event.preventDefault();
  moveCut(cut + by);
});
$("percent").addEventListener("input", event => moveCut(event.target.value === "" ? NaN : event.target.value / 100 * data.n));
$("count").addEventListener("input", event => moveCut(event.target.value === "" ? NaN : Number(event.target.value)));
for (const field of [$("percent"), $("count")]) field.addEventListener("blur", drawCut);  // shows what was possible
$("written").addEventListener("click", toWritten);
$("filters").addEventListener("input", () => { page = 0; drawRows(); });
$("previous").addEventListener("click", () => { page--; drawRows(); });
$("next").addEventListener("click", () => { page++; drawRows(); });
$("export").addEventListener("click", save);
for (const button of document.querySelectorAll("button.behind")) {
  button.addEventListener("click", () => {
    feature = { bank: button.dataset.bank, id: Number(button.dataset.feature) };
    $("feature-filter").hidden = false;
    $("feature-filter").querySelector("span").textContent = `${feature.id} of ${feature.bank}`;
    $("view").value = "removed";
    page = 0;
    drawRows();
    $("rows-title").scrollIntoView();
  });
}
$("feature-filter").querySelector("button").addEventListener("click", () => {
  feature = null;
  $("feature-filter").hidden = true;
  page = 0;
  drawRows();
});
$("rows-note").textContent = (data.rows.length < data.n
  ? `The texts of ${number(data.rows.length)} rows are on this page: the highest, those around the cut, and a sample of the upper half. `
  : "") + (data.rows.some(row => row.tokens)
  ? "Shaded tokens: red raises the score, blue lowers it."
  : `To see which tokens carry the scores: ${data.shade}.`) + (data.listed < data.n
  ? ` The ${number(data.listed)} highest rows are listed; the slider ends there.` : "");
$("cut").hidden = $("browse").hidden = false;
recall();
drawCut();
drawMarks();
