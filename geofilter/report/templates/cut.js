// ---- the cut --------------------------------------------------------------------------------------------------------

// The cut that was written may be by percentile, or take more than is listed here; what else is tried takes the first
// `cut` rows.
let written = true;
let cut = Math.min(data.removed, data.listed);

const isRemoved = i => written ? taken[i] === 1 : i < cut;
const nRemoved = () => written ? data.removed : cut;
const [LEFT, RIGHT] = [data.histogram.edges[0], data.histogram.edges.at(-1)];
const across = x => Math.max(0, Math.min(1, (x - LEFT) / (RIGHT - LEFT)));

function describe() {
  const n = nRemoved();
  let text = written ? `This is the cut that was written: ${data.cut}. ` : "";
  text += `Removes ${number(n)} of ${number(data.n)} scored rows (${percent(n, data.n, 1)}) and keeps ${number(data.n - n)}`;
  if (n && n <= data.listed && (data.by_score || !written)) {
    text += data.ranked_by === "score"
      ? `: scores from ${score[cut - 1].toFixed(2)} up, which is above ${(100 * percentile[cut - 1]).toFixed(1)} % of ordinary chat under ${data.banks[bank[cut - 1]]}`
      : `: chosen less rejected from ${score[cut - 1].toFixed(2)} up`;
  }
  const over = written ? data.flagged_removed : flagged[cut];
  text += `. Rows over the 99th percentile: ${number(over)} of them removed`;
  text += `; a random removal of equal size would take ${number(Math.round(data.flagged * n / data.n))}.`;
  if (written && !data.by_score) {
    text += " It does not go by score alone; other cuts are tried by score, and take some other rows.";
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
  const at = !data.listed ? 0 : cut === 0 ? RIGHT : cut >= data.listed ? score[data.listed - 1] : (score[cut - 1] + score[cut]) / 2;
  $("cut-line").hidden = written && !data.by_score;
  $("cut-line").style.left = 100 * across(at) + "%";
  $("cut-line").classList.toggle("turned", across(at) > 0.8);
}

// Ticks at round numbers, and where 99 % of ordinary chat ends.
function drawAxis() {
  const step = [0.25, 0.5, 1, 2, 5, 10, 20, 50].find(s => (RIGHT - LEFT) / s <= 10) ?? (RIGHT - LEFT) / 5;
  for (let x = Math.ceil(LEFT / step) * step; x <= RIGHT; x += step) {
    const tick = make("span", {}, String(Number(x.toFixed(2))));
    tick.style.left = 100 * across(x) + "%";
    $("axis").append(tick);
  }
  if (data.ranked_by !== "score") return $("chat-line").remove();
  $("chat-line").style.left = 100 * across(data.chat_99) + "%";
  if (across(data.chat_99) > 0.6) $("chat-line").classList.add("turned");
}

function drawCut() {
  const n = nRemoved();
  $("n-removed").textContent = number(n);
  $("trying").hidden = written;
  $("n-kept").textContent = number(data.counts.kept + data.counts.removed - n);
  $("removed-share").textContent = percent(n, data.n);
  $("slider").value = cut;
  $("slider").setAttribute("aria-valuetext", `${number(n)} rows removed, ${percent(n, data.n, 1)}`);
  drawAmounts();
  $("cut-text").textContent = describe();
  $("cut-command").hidden = $("tried").hidden = written;
  $("cut-command").querySelector("code").textContent = `${data.command} ${cut}`;
  $("written").disabled = written;
  drawSides();
  drawHistogram();
  drawWhere();
  state.page = 0;
  drawRows();
}

// The fields say what was possible, once they are left: while one is typed in it stays as it is.
function drawAmounts() {
  if (document.activeElement !== $("count")) $("count").value = nRemoved();
  if (document.activeElement !== $("percent")) $("percent").value = (100 * nRemoved() / data.n).toFixed(1);
}

function drawSides() {
  if (written) { $("sides").hidden = true; return; }
  let more = 0, fewer = 0;
  for (let i = 0; i < data.listed; i++) if (taken[i] !== (i < cut ? 1 : 0)) { if (taken[i]) fewer++; else more++; }
  fewer += data.removed > data.listed ? data.removed - taken.reduce((sum, t) => sum + t, 0) : 0;
  $("sides").hidden = false;
  $("sides").querySelector("span").textContent =
    `Beside the cut that was written, ${counted(more, "row")} more would go and ${number(fewer)} would stay.`;
}

function moveCut(to) {
  if (!Number.isFinite(to)) return;
  cut = Math.max(0, Math.min(data.listed, Math.round(to)));
  written = data.by_score && cut === data.removed;
  if (isPlan() && !written) state.view = "removed";
  drawCut();
  keepState();
}

function toWritten() {
  written = true;
  cut = Math.min(data.removed, data.listed);
  drawCut();
  keepState();
}

// Rows that score higher than x.
function above(x) {
  let low = 0, high = data.listed;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (score[middle] > x) low = middle + 1; else high = middle;
  }
  return low;
}

let dragged = null;
function drag(event) {
  const box = $("histogram").getBoundingClientRect();
  const x = LEFT + (RIGHT - LEFT) * (event.clientX - box.left) / box.width;
  // The outermost bars stand for all that lies beyond.
  const to = x >= RIGHT ? 0 : x <= LEFT ? data.listed : above(x);
  if (dragged === null) requestAnimationFrame(() => { const now = dragged; dragged = null; moveCut(now); });
  dragged = to;
}

function startCut() {
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
  for (const field of [$("percent"), $("count")]) field.addEventListener("blur", drawAmounts);
  for (const back of [$("written"), $("tried").querySelector("button")]) back.addEventListener("click", toWritten);
  $("sides").querySelector("button").addEventListener("click", () => show({ view: "sides", sort: "rank" }));
  const plot = $("plot");
  plot.addEventListener("pointerdown", event => {
    if (event.button) return;
    plot.setPointerCapture(event.pointerId);
    drag(event);
    event.preventDefault();
  });
  plot.addEventListener("pointermove", event => { if (plot.hasPointerCapture(event.pointerId)) drag(event); });
  drawAxis();
}
