// ---- the marks ------------------------------------------------------------------------------------------------------

// sha256 of a row -> its label, and whether it was given while rows drawn at random were read in their order.
const marks = new Map();
const undone = [];
const store = `geofilter-labels-${data.fingerprint}`;
const labelOf = row => marks.get(row.sha256)?.label;

function recall() {
  try {
    for (const [sha, label, drawn] of JSON.parse(localStorage.getItem(store) ?? "[]")) if (!marks.has(sha)) marks.set(sha, { label, drawn });
  } catch { /* a browser that keeps nothing for local files: the marks live as long as the page */ }
}

function keep() {
  try { localStorage.setItem(store, JSON.stringify([...marks].map(([sha, m]) => [sha, m.label, m.drawn]))); } catch { /* see above */ }
}

// Mark a row; the same mark again takes it back.
function mark(i, label) {
  const row = texts.get(i);
  if (!row) return;
  recall();  // what another window has marked
  const before = marks.get(row.sha256);
  undone.push([i, before]);
  if (before?.label === label && before.drawn === isDraw()) marks.delete(row.sha256);
  else marks.set(row.sha256, { label, drawn: isDraw() || before?.drawn || false });
  keep();
  marksChanged(i);
}

function undo() {
  const last = undone.pop();
  if (!last) return null;
  const [i, before] = last, { sha256 } = texts.get(i);
  if (before) marks.set(sha256, before); else marks.delete(sha256);
  keep();
  marksChanged(i);
  return i;
}

function marksChanged(i) {
  const li = document.querySelector(`.card[data-rank="${i}"]`), label = labelOf(texts.get(i));
  if (li) {
    li.classList.remove("bad", "good");
    if (label) li.classList.add(label);
    for (const b of li.querySelectorAll("[data-label]")) b.setAttribute("aria-pressed", b.dataset.label === label);
  }
  drawMarks();
}

// Of the rows of one side in the order in which they were drawn: those marked up to the last one marked as such. A row
// that was marked elsewhere before counts once its turn has come.
function drawn(side) {
  const order = data.drawn[side].map(i => texts.get(i)).filter(Boolean);
  const last = order.findLastIndex(row => marks.get(row.sha256)?.drawn);
  const said = order.slice(0, last + 1).filter(row => marks.has(row.sha256));
  return { rows: said, n: said.length, bad: said.filter(row => labelOf(row) === "bad").length };
}

function drawMarks() {
  const bad = [...marks.values()].filter(m => m.label === "bad").length, good = marks.size - bad;
  $("marks").textContent = marks.size ? `${bad} harmful and ${good} fine.` : "No row is marked.";
  $("bar-marks").textContent = marks.size ? `${number(marks.size)} marked` : "";
  $("export").disabled = $("bar-export").disabled = marks.size === 0;
  $("teach").hidden = bad < 5 || good < 5;
  drawPrecision();
}

function drawPrecision() {
  const removed = drawn("removed"), kept = drawn("kept"), said = [];
  for (const [what, { n, bad }] of [["removed", removed], ["kept", kept]]) {
    if (!n) continue;
    const [low, high] = wilson(bad, n);
    said.push(n < data.least ? `${n} of the ${data.least} ${what} rows drawn at random that a share needs are marked.`
      : `Of ${n} ${what} rows drawn at random and marked, ${bad} are harmful: ${percent(bad, n)} (${(100 * low).toFixed(0)} to ${(100 * high).toFixed(0)} %, 95 % interval).`);
  }
  $("precision").textContent = said.join(" ");
  const enough = removed.n >= data.least && kept.n >= data.least;
  const shown = enough && atLeast(removed.bad, removed.n, kept.bad, kept.n) > 0;
  $("so-far").hidden = !enough;
  $("check").hidden = !enough;
  $("so-far").textContent = !enough ? "" : shown
    ? `Your marks confirm this cut: ${removed.bad} of ${removed.n} removed rows drawn at random are harmful, ${kept.bad} of ${kept.n} kept ones.`
    : `Your marks do not confirm this cut: ${removed.bad} of ${removed.n} removed rows drawn at random are harmful, ${kept.bad} of ${kept.n} kept ones.`;
  if (enough) $("so-far").append(" ", button("what to do with them", () => $("kept-marks").scrollIntoView({ block: "center" }), { class: "link" }));
  $("so-far").className = `so-far ${shown ? "yes" : "no"}`;
}

function save() {
  recall();
  const counts = new Set([...drawn("removed").rows, ...drawn("kept").rows].map(row => row.sha256));
  const lines = [...marks].map(([sha256, { label }]) =>
    JSON.stringify(counts.has(sha256) ? { sha256, label, why: data.why_random } : { sha256, label }) + "\n");
  const url = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  make("a", { href: url, download: "labels.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
