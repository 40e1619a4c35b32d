// ---- a row as a card ------------------------------------------------------------------------------------------------

const EXCERPT = 420, BEFORE = 60, WHOLE_PROMPT = 700, KNOWN = 330;
const MEANING = {
  bad: "you would not want the model to learn to write this (key h)", good: "anything else (key f)", unsure: "no label (key s)",
};
const word = label => ({ bad: "harmful", good: "fine" })[label] ?? label;
const ordinary = i => percentile[i] >= 0.9995 ? "above all ordinary chat" : `above ${(100 * percentile[i]).toFixed(1)} % of ordinary chat`;

// Fences, or many lines with brackets and semicolons.
function isCode(text) {
  if (text.includes("```")) return true;
  const lines = text.split("\n").filter(l => l.trim());
  return lines.length > 2 && lines.filter(l => /[{};]\s*$|^\s*(def|import|from|return|class|function|const|let|#include|if|for)\b.*[:({;]|^\s{2,}\S.*[=(]/.test(l)).length > lines.length / 3;
}

// The part of a response around its strongest spans: where most of the score lies within so many characters.
function excerpt(row) {
  const text = row.response;
  if (text.length <= EXCERPT * 1.25) return [0, text.length];
  const raising = row.spans.filter(s => s[2] > 0);
  let start = 0, best = -1;
  for (let i = 0, j = 0, sum = 0; i < raising.length; i++) {
    while (j < raising.length && raising[j][1] <= raising[i][0] + EXCERPT - BEFORE) sum += raising[j++][2];
    if (sum > best * 1.02) { best = sum; start = raising[i][0]; }  // among equals the earlier one
    if (j > i) sum -= raising[i][2]; else j = i + 1;
  }
  start = start < BEFORE * 2 ? 0 : start - BEFORE;
  if (start) start += Math.max(0, text.slice(start, start + BEFORE).search(/\s\S/) + 1);
  const rest = text.slice(start, start + EXCERPT), end = start + EXCERPT < text.length ? rest.search(/\s\S*$/) : rest.length;
  return [start, start + (end > 0 ? end : rest.length)];
}

// The strongest tokens of a response, widened to the words that they are parts of; those that touch are one. Words that
// say nothing of what a text is about are left to the whole text.
const STRONG = 0.4, MOST_MARKED = 12;
const inWord = c => c !== undefined && /[\p{L}\p{N}_'\u2019]/u.test(c);
const functionWords = new Set(data.function_words);

function saysSomething(text) {
  const word = text.toLowerCase().replaceAll("\u2019", "'").replace(/'s$/, "").replace(/'(ll|re|ve|d|m|em)$/, "");
  return /\p{L}/u.test(word) && !word.endsWith("n't") && (word.length > 1 || word > "\u0e00") && !functionWords.has(word);
}

function strongWords(row) {
  const text = row.response, top = Math.max(...row.spans.map(s => s[2]), 0), found = [];
  if (top <= 0) return found;
  const strong = row.spans.filter(s => s[2] >= STRONG * top).map(([start, end, share]) => {
    while (start < end && /\s/.test(text[start])) start++;
    while (end > start && /\s/.test(text[end - 1])) end--;
    while (inWord(text[start - 1]) && inWord(text[start])) start--;
    while (inWord(text[end]) && inWord(text[end - 1])) end++;
    return [start, end, share];
  }).filter(([start, end]) => saysSomething(text.slice(start, end)))
    .sort((a, b) => b[2] - a[2]).slice(0, MOST_MARKED).sort((a, b) => a[0] - b[0]);
  for (const [start, end, share] of strong) {
    const last = found.at(-1);
    if (last && !text.slice(last[1], start).trim()) {
      last[1] = Math.max(end, last[1]);
      last[2] = Math.max(share, last[2]);
    } else found.push([start, end, share]);
  }
  return found.map(([start, end, share]) => [start, end, share > 0.75 * top ? "more3" : "more2", ""]);
}

// All of them, by how much each raises or lowers the score.
function allTokens(row) {
  const top = Math.max(...row.spans.map(s => Math.abs(s[2])), 1e-9);
  return row.spans.map(([start, end, share]) => [start, end, share, Math.ceil(3 * Math.abs(share) / top - 0.4)])
    .filter(([, , , level]) => level > 0)
    .map(([start, end, share, level]) => [start, end, `${share > 0 ? "more" : "less"}${level}`, `${signed(share, 3)} of the score`]);
}

// A part of a response: its strongest words marked, or every token in the whole of it.
function marked(into, row, [start, end], whole = false) {
  if (start > 0) into.append(make("span", { class: "gap" }, "… "));
  let at = start;
  for (const [from, to, kind, title] of whole ? allTokens(row) : strongWords(row)) {
    if (from < at || to > end) continue;
    const mark = make("mark", { class: kind }, row.response.slice(from, to));
    if (title) mark.title = title;
    into.append(row.response.slice(at, from), mark);
    at = to;
  }
  into.append(row.response.slice(at, end));
  if (end < row.response.length) into.append(make("span", { class: "gap" }, " …"));
}

const words = feature => (feature.label || "").replaceAll(" · ", ", ");
const TONE = "tone and punctuation";

// What most of a row's score comes from, in a few words; tone and punctuation where that is the largest part.
function briefly(row) {
  const features = row?.top_features ?? [], parts = features.filter(t => words(t)).slice(0, 2)
    .map(t => [words(t).split(", ").slice(0, 3).join(", "), t.share]);
  if (row?.common > 0 && row.common > Math.max(0, ...features.map(t => t.share))) parts.unshift([TONE, row.common]);
  return parts.map(([said, share]) => row.score > share && share > 0 ? `${said} (${percent(share, row.score)})` : said).join("; ");
}

// Whether the known text that a row is most like is a harmful one.
const likeHarmful = row => row.like?.bad ? !(row.like.good?.similarity > row.like.bad.similarity) : !row.like;

const place = i => data.files.length > 1 ? `${data.files[file[i]]}, line ${number(line[i])}` : `line ${number(line[i])}`;

function head(i, row, gone) {
  const said = make("div", { class: "meta" }), source = dimension("source");
  const chip = (text, title, kind = "") => said.append(make("span", { class: `chip ${kind}`, title }, text));
  if (isPlan()) said.append(make("b", {}, `row ${number(listed.indexOf(i) + 1)}`));
  else {
    said.append(make("b", { title: "rank" }, `#${number(i + 1)}`));
    if (data.ranked_by === "score") said.append(make("span", { title: "standard deviations above ordinary chat" }, `score ${score[i].toFixed(2)}`));
    else said.append(make("span", { title: "the score of the chosen answer, less that of the rejected one if there is one" }, `chosen less rejected ${score[i].toFixed(2)}`));
  }
  said.append(make("span", { class: "where" }, place(i)));
  if (!isPlan() && state.view !== "removed" && state.view !== "kept") said.append(make("span", { class: gone ? "tag r" : "tag" }, gone ? "removed" : "kept"));
  if (source) chip(source.categories[source.of[i]], "source");
  if (!isPlan() && briefly(row)) chip(`why: ${briefly(row)}`, "what most of the score comes from: words of the strongest features", "why");
  return said;
}

// Where it is not to be seen which side a row is of, nothing that comes of its score is shown.
function card(i) {
  const row = texts.get(i), gone = isRemoved(i), blind = isPlan();
  const called = blind ? `row ${listed.indexOf(i) + 1}` : `row ${i + 1}, ${gone ? "removed" : "kept"}`;
  const li = make("li", { class: blind ? "card blind" : "card", "data-rank": i, tabindex: "-1", "aria-label": called });
  li.append(head(i, row, gone));
  if (!row) {
    li.classList.add("plain");
    return li;
  }
  if (row.prompt) {
    const prompt = button("", () => {
      const open = prompt.getAttribute("aria-expanded") !== "true";
      prompt.setAttribute("aria-expanded", open);
      prompt.lastChild.textContent = open ? row.prompt : beginning(row.prompt, 300);
    }, { class: "prompt", "aria-expanded": "false", title: "the whole prompt" });
    prompt.append(make("b", {}, "prompt"), " ", make("span", {}, beginning(row.prompt, 300)));
    if (blind && row.prompt.length <= WHOLE_PROMPT) prompt.click();
    li.append(prompt);
  }
  const text = make("div", { class: `text response${isCode(row.response) ? " code" : ""}` });
  if (blind) text.append(row.response); else marked(text, row, excerpt(row));
  li.append(text);
  if (blind && row.brief && !row.whole) li.append(make("p", { class: "note" }, "Only the beginning of this row is on this page."));
  if (row.rejected !== undefined && !blind) li.append(rejected(row));
  if (row.like && !blind) li.append(like(row));
  const acts = make("div", { class: "acts", role: "group", "aria-label": `mark ${blind ? "this row" : `row ${i + 1}`}` });
  for (const label of LABELS) {
    acts.append(button(word(label), () => {
      choose(i);
      mark(i, label);
      if (isPlan() && labelOf(row)) advance(i);
    }, { "data-label": label, class: `label ${label}`, "aria-pressed": labelOf(row) === label, title: MEANING[label] }));
  }
  const all = () => row.prompt ? `${row.prompt}\n\n${row.response}` : row.response;
  if (!blind) acts.append(button("more", () => { choose(i); unfold(li); }, { class: "open link", "aria-expanded": "false" }));
  acts.append(button("copy text", event => copy(all(), event.target), { class: "link" }));
  li.append(acts);
  if (labelOf(row)) li.classList.add(labelOf(row));
  return li;
}

// The rejected answer of a preference, folded.
function rejected(row) {
  const summary = make("summary", {}, `the rejected answer scores ${row.rejected_score.toFixed(2)}, the chosen one ${row.score.toFixed(2)}: `,
    make("span", {}, beginning(row.rejected, KNOWN)));
  return make("details", { class: "like other" }, summary, make("div", { class: isCode(row.rejected) ? "text code" : "text" }, row.rejected));
}

// The whole row, and why it scores as it does.
function unfold(li) {
  const i = Number(li.dataset.rank), row = texts.get(i), open = li.querySelector(".open");
  if (!row) return;
  const whole = open.getAttribute("aria-expanded") !== "true";
  open.setAttribute("aria-expanded", whole);
  open.textContent = whole ? "less" : "more";
  const text = li.querySelector(".response"), prompt = li.querySelector(".prompt");
  text.replaceChildren();
  marked(text, row, whole ? [0, row.response.length] : excerpt(row), whole);
  if (prompt && (prompt.getAttribute("aria-expanded") === "true") !== whole) prompt.click();
  li.querySelector(".body")?.remove();
  if (whole) li.querySelector(".acts").before(body(i, row));
}

// The known texts that a row is most like, the nearer one first: a harmless one tells of a false alarm.
function like(row) {
  const of = data.examples?.[row.bank] ?? {}, folded = make("details", { class: "like" });
  const known = ["bad", "good"].filter(side => row.like[side] && of[row.like[side].row])
    .sort((a, b) => row.like[b].similarity - row.like[a].similarity);
  for (const [n, side] of known.entries()) {
    const example = of[row.like[side].row], about = side === "bad" && example.topic ? ` (${example.topic})` : "";
    if (!n) {
      const said = example.prompt ? `${beginning(example.prompt, 70)} → ${beginning(example.text, KNOWN)}` : beginning(example.text, KNOWN);
      folded.append(make("summary", {}, `${side === "bad" ? `like this known harmful text${about}` : "closer to this known harmless text"}: `, make("span", {}, said)));
    }
    folded.append(make("p", { class: "note" }, `The known ${side === "bad" ? "harmful" : "harmless"} text nearest to it${about}, similarity ${row.like[side].similarity.toFixed(2)}:`));
    const text = make("div", { class: isCode(example.text) ? "text code" : "text" });
    if (example.prompt) text.append(make("b", {}, "prompt"), example.prompt, "\n");
    text.append(make("b", {}, "response"), example.text);
    folded.append(text);
  }
  return known.length ? folded : "";
}

// What the score is made of, folded: the text is what a row is judged by.
function body(i, row) {
  const out = make("div", { class: "body" }), made = make("details", { class: "score-made" }, make("summary", {}, "how the score is made"));
  const note = (...what) => made.append(make("p", { class: "note" }, ...what));
  if (row.brief) {
    if (!row.whole) out.append(make("p", { class: "note" }, "Only the beginning of this row is on this page."));
    note("What this score is made of is kept for fewer rows; to see it: ", make("code", {}, `geofilter explain ${data.run} --row '#${i + 1}'`));
  } else {
    made.append(make("p", {}, row.reason.charAt(0).toUpperCase() + row.reason.slice(1) + "."));
    if (row.top_features.length) made.append(make("div", { class: "scroll" }, reasons(row)));
    const strongest = row.spans.filter(s => s[2] > 0).sort((a, b) => b[2] - a[2]).slice(0, 8);
    if (strongest.length) {
      note("Strongest tokens: " + strongest.map(s => `${row.response.slice(s[0], s[1]).trim()} ${signed(s[2], 2)}`).join(", ") + ".");
    }
    const topics = Object.entries(row.topics).sort((a, b) => b[1] - a[1]).slice(0, 3);
    if (topics.length && likeHarmful(row)) note("If it is harmful, it is closest to: " + topics.map(([name, value]) => `${name} ${signed(value, 2)}`).join(", ") + ".");
  }
  note(`${data.files[file[i]]}, line ${number(line[i])}; score ${(row.score ?? score[i]).toFixed(2)}, ${ordinary(i)} under ${data.banks[bank[i]]}; ${length(i)}` +
    `${group?.[i] ? `; group ${group[i]}` : ""}.`);
  out.append(made);
  return out;
}

// The word of a row that a feature is strongest on.
function here(row, feature) {
  let [start, end] = feature.at ?? [0, 0];
  const text = row.response;
  if (end > text.length || !text.slice(start, end).trim()) return "";
  while (/\s/.test(text[start])) start++;
  while (inWord(text[start - 1]) && inWord(text[start])) start--;
  while (inWord(text[end]) && inWord(text[end - 1])) end++;
  return text.slice(start, end).trim();
}

function reasons(row) {
  const table = make("table", {}, make("tr", {}, make("th", {}, "feature, by its words"), make("th", {}, "strongest here on"),
    make("th", { class: "n" }, "of the score"), make("th", { class: "n" }, "how strong"), make("th", {}, "known harmful feature")));
  for (const t of row.top_features) {
    const times = t.times == null ? "never in ordinary chat" : `${t.times < 10 ? t.times.toFixed(1) : number(Math.round(t.times))} times ordinary chat`;
    const near = t.toxic ? "itself" : t.near ? `near ${words(t.near) || t.near.feature} (${t.near.cosine.toFixed(2)})` : "-";
    table.append(make("tr", {}, make("td", {}, `${words(t) || "no words of its own"} (${t.feature})`), make("td", {}, here(row, t)),
      make("td", { class: "n" }, signed(t.share, 2)),
      make("td", { class: "n" }, times), make("td", {}, near)));
  }
  if (row.common !== undefined) {
    table.append(make("tr", {}, make("td", {}, "tone and punctuation"), make("td"), make("td", { class: "n" }, signed(row.common, 2)), make("td"), make("td")));
  }
  return table;
}
