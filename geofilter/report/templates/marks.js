// ---- the marks ------------------------------------------------------------------------------------------------------

// sha256 of a row -> its label, and the cut of which rows drawn at random were read when it was given, if it was so.
const marks = new Map();
const LABELS = ["bad", "good", "unsure"];
// What takes back each thing that was done, the last one last.
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

// Whether a row has this mark already; where rows are drawn at random, as one of those.
const stands = (row, label) => labelOf(row) === label && (!isPlan() || isDrawn(row));
const isDrawn = row => marks.get(row.sha256)?.drawn === data.why_random;

// Mark a row; the same mark again takes it back.
function mark(i, label) {
  const row = texts.get(i);
  if (!row) return;
  recall();  // what another window has marked
  const before = marks.get(row.sha256);
  undone.push(() => {
    if (before) marks.set(row.sha256, before); else marks.delete(row.sha256);
    keep();
    marksChanged(i);
    choose(i, true);
  });
  if (stands(row, label)) marks.delete(row.sha256);
  else marks.set(row.sha256, { label, drawn: isPlan() ? data.why_random : before?.drawn ?? "" });
  keep();
  marksChanged(i);
}

function undo() {
  undone.pop()?.();
}

function marksChanged(i) {
  const li = document.querySelector(`.card[data-rank="${i}"]`), label = labelOf(texts.get(i));
  if (li) {
    li.classList.remove("bad", "good", "unsure");
    if (label) li.classList.add(label);
    for (const b of li.querySelectorAll("[data-label]")) b.setAttribute("aria-pressed", b.dataset.label === label);
  }
  drawMarks();
}

function drawMarks() {
  const said = [...marks.values()].map(m => m.label), [bad, good, unsure] = LABELS.map(label => said.filter(l => l === label).length);
  $("marks").textContent = marks.size ? `${number(bad)} harmful, ${number(good)} fine${unsure ? `, ${number(unsure)} unsure` : ""}.` : "No row is marked.";
  $("bar-marks").textContent = marks.size ? `${number(marks.size)} marked` : "";
  $("saved").textContent = "";
  for (const save of document.querySelectorAll(".save")) save.disabled = marks.size === 0;
  drawResult();
}

// A line a mark; one that says nothing (unsure) has no label. `why` tells which of them say how often the cut is right.
function save() {
  recall();
  const counts = new Set(SIDES.flatMap(side => drawn(side).rows).map(row => row.sha256));
  const lines = [...marks].map(([sha256, { label }]) => {
    const i = rankOf.get(sha256), said = { sha256 };
    if (i !== undefined) Object.assign(said, { file: data.files[file[i]], line: line[i] });
    Object.assign(said, { label: label === "unsure" ? null : label, mark: word(label) });
    if (counts.has(sha256)) said.why = data.why_random;
    return JSON.stringify(said) + "\n";
  });
  const url = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  make("a", { href: url, download: "labels.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  $("bar-marks").textContent = `${counted(marks.size, "mark")} saved`;
  $("saved").textContent = `${counted(marks.size, "mark")} saved as labels.jsonl, where this browser puts downloads.`;
}
