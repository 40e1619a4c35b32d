// ---- beside another run ---------------------------------------------------------------------------------------------

const KEPT = 1, REMOVED = 2;
let sides = new Uint8Array(data.listed);  // of the other run: 0 where it does not say

async function* linesOf(blob) {
  const reader = blob.stream().pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
  if (rest) yield rest;
}

const PREFIX = 6;
function known() {
  const hashes = bytes(data.hashes), found = new Map();
  const hex = [...Array(256)].map((_, b) => b.toString(16).padStart(2, "0"));
  for (let i = 0; i < data.listed; i++) {
    let key = "";
    for (let j = 0; j < PREFIX; j++) key += hex[hashes[PREFIX * i + j]];
    found.set(key, i);
  }
  return found;
}

async function compare(files) {
  const out = $("other-text"), at = known(), scores = new Map();
  let report = null, lines = 0;
  out.textContent = "reading …";
  sides = new Uint8Array(data.listed);
  const rankIn = sha => at.get(String(sha).slice(0, 2 * PREFIX));
  try {
    for (const given of files) {
      if (given.name.endsWith(".jsonl")) {
        for await (const text of linesOf(given)) {
          if (!text.trim()) continue;
          const { sha256, score: own, rejected_score: rejected = 0 } = JSON.parse(text), other = own - rejected;
          if (typeof sha256 !== "string" || typeof own !== "number") throw new Error("its lines have no sha256 and score");
          lines++;
          const i = rankIn(sha256);
          if (i !== undefined) scores.set(i, other);
        }
      } else {
        report = JSON.parse(await given.text());
        if (!Array.isArray(report.removed_rows) || !report.counts) throw new Error("it is no report.json");
      }
    }
  } catch (error) {
    out.textContent = `This cannot be compared: ${error.message}. Choose the scores.jsonl or the report.json of a run.`;
    return;
  }
  let text;
  if (scores.size) {
    const wanted = report ? report.counts.removed : nRemoved();
    const share = report ? report.counts.removed / report.counts.scored : nRemoved() / data.n;
    // The other run may have other rows besides: as large a part of those that both have.
    const most = Math.round(scores.size === lines ? Math.min(wanted, scores.size) : share * scores.size);
    [...scores].sort((a, b) => b[1] - a[1]).forEach(([i], n) => { sides[i] = n < most ? REMOVED : KEPT; });
    text = `${number(scores.size)} of the ${number(data.listed)} rows listed here are in that run, matched by sha256. ` +
      (report ? `There the cut (${report.cut}) takes ${number(most)} of them. ` : `There the ${number(most)} highest of them are taken, as many as here. `);
  } else {
    for (const [rows, side] of [[report?.removed_rows ?? [], REMOVED], [report?.nearest_kept_rows ?? [], KEPT]]) {
      for (const row of rows) if (rankIn(row.sha256) !== undefined) sides[rankIn(row.sha256)] = side;
    }
    const n = sides.reduce((sum, s) => sum + (s ? 1 : 0), 0);
    text = n ? `A report.json tells of ${number(n)} of these rows only; choose the run's scores.jsonl besides for all. ` : "";
    if (report?.verdict) text += `Its verdict: ${report.verdict.sentence} `;
  }
  const both = [[0, 0, 0], [0, 0, 0]];
  for (let i = 0; i < data.listed; i++) both[isRemoved(i) ? 1 : 0][sides[i]]++;
  const matched = both.flat().reduce((a, b) => a + b, 0) - both[0][0] - both[1][0];
  if (!matched) {
    out.textContent = `${text}No row of this page is in that run.`;
  } else {
    out.textContent = `${text}Removed by both: ${number(both[1][REMOVED])}. Only here: ${number(both[1][KEPT])}. ` +
      `Only there: ${number(both[0][REMOVED])}. Kept by both: ${number(both[0][KEPT])}.`;
  }
  $("other-list").hidden = !matched;
  $("view").querySelector('[value="other"]').hidden = !matched;
  if (state.view === "other") show({});
}

function startCompare() {
  $("other").addEventListener("change", event => compare([...event.target.files]));
  $("other-list").addEventListener("click", () => { show({ view: "other", sort: "rank" }); $("read").scrollIntoView(); });
}
