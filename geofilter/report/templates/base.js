"use strict";
// Every text is put in with textContent or as an attribute value of our own; nothing is parsed as HTML.
const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const number = n => n.toLocaleString("en-US");
const percent = (part, whole, digits = 0) => whole ? (100 * part / whole).toFixed(digits) + " %" : "-";
const counted = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;
const signed = (x, digits) => `${x < 0 ? "" : "+"}${x.toFixed(digits)}`;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function button(text, act, attributes = {}) {
  const made = make("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", act);
  return made;
}

function bytes(base64) {
  const text = atob(base64), found = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
  return found;
}

const column = (base64, Kind) => new Kind(bytes(base64).buffer);

async function inflated(base64) {
  const stream = new Blob([bytes(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// One line of a text, up to the end of a word.
function beginning(text, most = 200) {
  return (text.length > most ? text.slice(0, most).replace(/\s+\S*$/, "") + "…" : text).replace(/\s+/g, " ").trim();
}

async function copy(text, from) {
  let done = true;
  try { await navigator.clipboard.writeText(text); } catch {
    const field = make("textarea", { readonly: "", "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    done = document.execCommand("copy");
    field.remove();
  }
  const before = from.textContent;
  from.textContent = done ? "copied" : "cannot copy here";
  setTimeout(() => { from.textContent = before; }, 1500);
}

// The middle of Wilson's interval and how far it reaches to either side, at 95 %.
const Z = 1.959963984540054;
function wilson(k, n) {
  const middle = (k + Z * Z / 2) / (n + Z * Z), reach = Z * Math.sqrt(k * (n - k) / n + Z * Z / 4) / (n + Z * Z);
  return [Math.max(0, middle - reach), Math.min(1, middle + reach)];
}

// Lower end of Newcombe's interval of a difference of two shares.
function atLeast(k, n, otherK, otherN) {
  const p = k / n, q = otherK / otherN;
  return p - q - Math.hypot(p - wilson(k, n)[0], wilson(otherK, otherN)[1] - q);
}

// ---- the rows as columns, highest score first -----------------------------------------------------------------------

// What they are ranked by: the score, or chosen less rejected.
const score = column(data.score, Float32Array), percentile = column(data.percentile, Float32Array);
const file = column(data.file, Uint16Array), line = column(data.line, Uint32Array);
const tokens = column(data.tokens, Uint16Array), bank = column(data.bank, Uint8Array);
const taken = column(data.taken, Uint8Array);
for (const d of data.dimensions) d.of = column(d.of, Uint8Array);
const length = i => `${tokens[i] === 65535 ? "at least " : ""}${counted(tokens[i], "token")}`;
const dimension = key => data.dimensions.find(d => d.key === key);
const texts = new Map(data.rows.map(row => [row.rank - 1, row]));
const rankOf = new Map(data.rows.map(row => [row.sha256, row.rank - 1]));
const group = data.groups.length ? column(data.group, Uint16Array) : null;
for (const row of texts.values()) {
  row.spans = inUnits(row.response, row.spans ?? []);
  for (const feature of row.top_features) if (feature.at) [feature.at] = inUnits(row.response, [feature.at]);
}

// Spans count characters; the page counts units of 16 bits, of which some characters have two.
function inUnits(text, spans) {
  const starts = [0];
  for (const character of text) starts.push(starts.at(-1) + character.length);
  if (starts.length === text.length + 1) return spans;
  const unit = character => starts[Math.min(character, starts.length - 1)];
  return spans.map(([from, to, share]) => [unit(from), unit(to), share]);
}

// How many of the first k rows are over the 99th percentile.
const flagged = new Uint32Array(data.listed + 1);
for (let i = 0; i < data.listed; i++) flagged[i + 1] = flagged[i] + (percentile[i] >= data.over ? 1 : 0);

// Texts of all removed rows, as far as there is room: packed, so they come a moment later.
let packed = data.texts ? "coming" : "none";
async function unpack() {
  if (!data.texts) return;
  try {
    for (const [rank, sha256, prompt, response, whole] of await inflated(data.texts)) {
      if (!texts.has(rank)) texts.set(rank, { rank: rank + 1, sha256, prompt, response, spans: [], whole, brief: true });
      rankOf.set(sha256, rank);
    }
    packed = "here";
  } catch {
    packed = "none";  // a browser without DecompressionStream
  }
}
