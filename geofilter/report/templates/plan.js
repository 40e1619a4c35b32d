// ---- rows drawn at random from both sides, read without knowing which goes -------------------------------------------

// Rows of either side; more can be asked for, ten of each at a time.
let each = data.least;
const SIDES = ["removed", "kept"];
const isPlan = () => state.view === "plan";

// Of one side in the order in which they were drawn. One that the reader is unsure of has another after it.
function wantedOf(side) {
  const rows = [];
  let n = 0;
  for (const i of data.drawn[side]) {
    if (n === each) break;
    const row = texts.get(i);
    if (!row && packed === "none") continue;
    rows.push(i);
    if (!row || labelOf(row) !== "unsure") n++;
  }
  return rows;
}

// As good as random, and the same whenever it is asked for.
const mixed = rank => Math.imul(rank + 1, 2654435761) >>> 0;

// All of them: ten of one side and ten of the other shuffled, then the next. A side's own stay in their order, so that
// those read so far are always the first that were drawn.
function plan() {
  const [gone, stay] = SIDES.map(wantedOf), rows = [];
  for (let at = 0; at < Math.max(gone.length, stay.length); at += data.least) {
    const parts = [gone, stay].map(side => side.slice(at, at + data.least));
    const turns = parts.flatMap((part, side) => part.map(i => [mixed(i), side])).sort((a, b) => a[0] - b[0]);
    const taken = [0, 0];
    for (const [, side] of turns) rows.push(parts[side][taken[side]++]);
  }
  return rows;
}

const isRead = i => texts.has(i) && labelOf(texts.get(i)) !== undefined;

// Show the first row that has no mark, after the one given; null where all have one.
function nextInPlan(after = -1) {
  const rows = plan();
  return rows.slice(after + 1).find(i => !isRead(i)) ?? rows.find(i => !isRead(i)) ?? null;
}

function startPlan() {
  if (nextInPlan() === null && canGoOn()) each += data.least;
  toWritten();
  show({ view: "plan", sort: "rank", q: "", feature: null, group: null, filters: new Map() });
  choose(nextInPlan() ?? listed[0], true);
}

const canGoOn = () => SIDES.some(side => wantedOf(side).length < data.drawn[side].length);

// On to the next row, or to what the marks come to.
function advance(from) {
  const next = nextInPlan(plan().indexOf(from));
  if (next !== null) { choose(next, true); return; }
  show({ view: "marked", sort: "rank" });
  $("verdict").scrollIntoView();
  $("result").focus({ preventScroll: true });
}

// Of the rows of one side in the order in which they were drawn: those marked up to the last one marked as such. A row
// that was marked elsewhere before counts once its turn has come, or all have been read.
function drawn(side) {
  const order = data.drawn[side].map(i => texts.get(i)).filter(Boolean), all = plan().every(isRead);
  const last = Math.max(order.findLastIndex(isDrawn), all ? wantedOf(side).length - 1 : -1);
  const read = order.slice(0, last + 1).filter(row => marks.has(row.sha256));
  const rows = read.filter(row => labelOf(row) !== "unsure");
  return { rows, n: rows.length, bad: rows.filter(row => labelOf(row) === "bad").length, unsure: read.length - rows.length };
}

// After a reload: as many as were marked before.
function recallPlan() {
  const n = Math.max(...SIDES.map(side => drawn(side).n));
  each = Math.max(each, Math.ceil(n / data.least) * data.least);
}

const within = ([low, high], of = null) =>
  of === null ? `${(100 * low).toFixed(0)} to ${(100 * high).toFixed(0)} %` : `${number(Math.round(low * of))} to ${number(Math.round(high * of))}`;

// What the marks say of the cut; nothing as long as rows are read of which it is not said which of them go.
function drawResult() {
  const rows = plan(), read = rows.filter(isRead).length, [gone, stay] = SIDES.map(drawn);
  const all = rows.length > 0 && read === rows.length, any = gone.n + stay.n > 0;
  const start = $("start");
  start.hidden = !data.mark || !rows.length || (all && !canGoOn());
  start.classList.toggle("start", !all);
  start.textContent = all ? `Mark ${number(2 * data.least)} more rows` : read && any ? `Go on: row ${number(read + 1)} of ${number(rows.length)}` : `Start: row 1 of ${number(rows.length)}`;
  $("progress").textContent = isPlan() || (any && !all) ? `${number(read)} of ${number(rows.length)} read` : "";
  const done = any && (all || (gone.n >= data.least && stay.n >= data.least)) && !isPlan();
  $("result").hidden = !done;
  $("action").hidden = done;
  const enough = gone.n >= data.least && stay.n >= data.least;
  const better = enough && atLeast(gone.bad, gone.n, stay.bad, stay.n) > 0;
  if (done) {
    const parts = [["go", gone, nRemovedWritten()], ["stay", stay, data.n - nRemovedWritten()]].filter(([, d]) => d.n);
    const said = parts.map(([verb, { n, bad }], k) =>
      `${k ? "of" : "Of"} ${k ? number(n) : counted(n, "row")} that ${verb}${n === 1 ? (verb === "go" ? "es" : "s") : ""}, ${bad}${k ? "" : bad === 1 ? " is harmful" : " are harmful"} (${within(wilson(bad, n))})`);
    let text = `${said.join("; ")}.`;
    const estimate = parts.map(([verb, { n, bad }, of]) => `about ${number(Math.round(of * bad / n))} of the ${number(of)} that ${verb} (${within(wilson(bad, n), of)})`);
    text += ` So among all rows ${estimate.join(" and ")} are harmful. `;
    text += better ? "Your marks bear this cut out: what goes is harmful more often than what stays." +
      (stay.bad ? " But harmful rows stay: look at those just below the cut, or cut deeper." : "")
      : !enough ? `That is too few to tell: it needs ${data.least} of each.`
        : gone.bad / gone.n <= stay.bad / stay.n ? "Your marks speak against this cut: go by the marks, not by this score."
          : "Your marks do not bear this cut out: the difference may be chance.";
    const unsure = gone.unsure + stay.unsure;
    if (unsure) text += ` Without ${counted(unsure, "row")} that you were unsure of.`;
    if (!data.drawn.kept.length && data.n > data.listed) text += " Kept rows are not all listed here, so that none could be drawn; geofilter label draws some.";
    $("result").textContent = text;
    $("result").className = `so-far ${better ? "yes" : "no"}`;
  }
  drawAfter(done, better);
}

const nRemovedWritten = () => data.removed;

// What to do with the marks: kept as a check where they confirm the cut, else for the bank to learn from.
function drawAfter(done, better) {
  const said = [...marks.values()].map(m => m.label);
  const [bad, good] = ["bad", "good"].map(label => said.filter(l => l === label).length);
  const teach = bad >= data.teach && good >= data.teach;
  $("after").hidden = isPlan() || !(done || teach);
  $("check").hidden = !(done && (better || !teach));
  $("check").querySelector("span").textContent = "This keeps the marks beside the run and learns nothing from them; the same cut, made again, " +
    (better ? "is then reported as confirmed." : "then reports what they show.");
  $("teach").hidden = !teach;
  $("teach-more").hidden = teach || better;
  $("teach-more").querySelector("span").textContent =
    `To learn from marks a bank needs ${data.teach} harmful and ${data.teach} fine ones; there are ${bad} and ${good}. `;
  $("or").hidden = !(done && better && teach);
}
