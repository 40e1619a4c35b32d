// ---- the reading list -----------------------------------------------------------------------------------------------

const PAGE = 25, AROUND = 12;
const state = { view: "removed", sort: "rank", q: "", filters: new Map(), feature: null, group: null, by: data.by, row: null, page: 0,
  only: null, back: null };
const isFiltered = () => state.q !== "" || state.filters.size > 0 || state.feature || state.group;
// Rows whose side is not told yet are read one at a time.
const perPage = () => isPlan() ? 1 : PAGE;

function sorted(ranks) {
  if (state.sort === "length") return ranks.sort((a, b) => tokens[b] - tokens[a] || a - b);
  const source = dimension("source");
  if (state.sort === "source" && source) {
    const place = source.categories.map((name, c) => [name, c]).sort().map(([, c]) => c);
    const of = new Uint8Array(place.length);
    place.forEach((c, p) => { of[c] = p; });
    return ranks.sort((a, b) => of[source.of[a]] - of[source.of[b]] || a - b);
  }
  return ranks;
}

function found() {
  if (isPlan()) return plan();
  if (state.only !== null) return [state.only];
  const { view } = state, q = state.q.toLowerCase();
  const by = [...state.filters].map(([key, category]) => [dimension(key).of, category]);
  let from = 0, to = data.listed;
  if (view === "around") [from, to] = [Math.max(0, cut - AROUND), Math.min(data.listed, cut + AROUND)];
  let pool = null;
  if (view === "marked") pool = [...marks.keys()].map(sha => rankOf.get(sha)).filter(i => i !== undefined).sort((a, b) => a - b);
  const ranks = [];
  const take = i => {
    if ((view === "removed" && !isRemoved(i)) || (view === "kept" && isRemoved(i))) return;
    if (view === "sides" && isRemoved(i) === (taken[i] === 1)) return;
    if (view === "other" && !(isRemoved(i) ? sides[i] === KEPT : sides[i] === REMOVED)) return;
    if (by.some(([of, category]) => of[i] !== category)) return;
    if (state.group && group?.[i] !== state.group) return;
    if (q || state.feature) {
      const row = texts.get(i);
      if (!row) return;
      if (q && !row.response.toLowerCase().includes(q) && !row.prompt.toLowerCase().includes(q)) return;
      if (state.feature && !(row.bank === state.feature.bank && row.top_features?.some(t => t.feature === state.feature.id))) return;
    }
    ranks.push(i);
  };
  if (pool) pool.forEach(take); else for (let i = from; i < to; i++) take(i);
  return sorted(ranks);
}

let listed = [];

function drawRows() {
  listed = found();
  const pages = Math.max(1, Math.ceil(listed.length / perPage()));
  state.page = Math.min(state.page, pages - 1);
  $("rows-count").textContent = said(listed.length);
  $("rows").replaceChildren(...listed.slice(state.page * perPage(), (state.page + 1) * perPage()).map(card));
  $("page").textContent = `${isPlan() ? "row" : "page"} ${number(state.page + 1)} of ${number(pages)}`;
  $("previous").disabled = state.page === 0;
  $("next").disabled = state.page === pages - 1;
  $("pages").hidden = pages === 1;
  for (const option of $("sort").options) {
    if (option.value === "source") option.disabled = !dimension("source");
  }
  $("tools").hidden = $("rows-count").hidden = $("legend").hidden = isPlan();
  $("leave").hidden = !isPlan();
  $("leave-text").textContent = `Row ${number(state.page + 1)} of ${number(pages)}.`;
  drawFilters();
  const current = document.querySelector(`.card[data-rank="${state.row}"]`);
  if (current) current.classList.add("current");
}

function said(n) {
  let text = counted(n, "row");
  if (state.q || state.feature) {
    text += packed === "coming" ? ", the texts are still being unpacked" : `, of ${searched()}`;
  }
  return text;
}

function searched() {
  const { removed, removed_rows: all, chars } = data.searched;
  if (state.feature) return `the ${number(data.rows.length)} whose features are on this page`;
  if (packed !== "here") return `the ${number(data.rows.length)} whose text is on this page`;
  const part = removed === all ? "all" : `${number(removed)} of the`;
  return `${part} ${number(all)} removed rows${chars ? `, each up to about ${number(chars)} characters of its response` : ""}, and ${number(texts.size - removed)} others`;
}

function drawFilters() {
  const shown = [];
  const chip = (text, drop) => shown.push(button(`${text} ×`, () => { drop(); show({}); }, { class: "chip", "aria-label": `remove the filter ${text}` }));
  for (const [key, c] of state.filters) chip(`${dimension(key).title}: ${dimension(key).categories[c]}`, () => state.filters.delete(key));
  if (state.feature) chip(`feature ${state.feature.id} of ${state.feature.bank}`, () => { state.feature = null; });
  if (state.group) chip(`group ${state.group}`, () => { Object.assign(state, { group: null, ...state.back, back: null }); });
  if (state.only !== null) chip(`row #${number(state.only + 1)} alone`, () => { state.only = null; });
  $("filters").replaceChildren(...shown);
}

// Change what is listed, and show it.
function show(changes) {
  Object.assign(state, { only: null, ...(changes.view || "group" in changes ? { back: null } : {}), ...changes, page: 0 });
  if (isPlan() && (isFiltered() || !written)) state.view = "removed";
  $("view").value = state.view;
  $("sort").value = state.sort;
  if (document.activeElement !== $("search")) $("search").value = state.q;
  drawWhere();
  drawRows();
  drawMarks();
  keepState();
}

// Make a row the current one.
function choose(i, move = false) {
  state.row = i;
  document.querySelector(".card.current")?.classList.remove("current");
  if (isPlan()) listed = plan();  // one more where the reader is unsure
  const at = listed.indexOf(i);
  if (at < 0) return;
  if (isPlan() || Math.floor(at / perPage()) !== state.page) {
    state.page = Math.floor(at / perPage());
    drawRows();
  }
  const li = document.querySelector(`.card[data-rank="${i}"]`);
  li.classList.add("current");
  if (move) {
    li.focus({ preventScroll: true });
    if (isPlan()) $("leave").scrollIntoView(); else li.scrollIntoView({ block: "nearest" });
  }
  keepState();
}

function step(by) {
  const at = listed.indexOf(state.row);
  const next = at < 0 ? state.page * perPage() : Math.max(0, Math.min(listed.length - 1, at + by));
  if (listed.length) choose(listed[next], true);
}

// ---- the address says what is shown ---------------------------------------------------------------------------------

function keepState() {
  const said = new URLSearchParams();
  if (state.view !== "removed") said.set("view", state.view);
  if (state.sort !== "rank") said.set("sort", state.sort);
  if (state.q) said.set("q", state.q);
  if (state.by !== data.by) said.set("by", state.by);
  for (const [key, c] of state.filters) said.set(`in-${key}`, dimension(key).categories[c]);
  if (state.feature) said.set("feature", `${state.feature.id} ${state.feature.bank}`);
  if (state.group) said.set("group", state.group);
  if (!written) said.set("cut", cut);
  if (state.row !== null) said.set("row", state.row + 1);
  const hash = [...said].length ? `#${said}` : "";
  if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname + location.search);
}

function readState() {
  const said = new URLSearchParams(location.hash.slice(1));
  if (!location.hash.includes("=")) return;
  const options = [...$("view").options].map(o => o.value);
  state.view = options.includes(said.get("view")) ? said.get("view") : "removed";
  state.sort = ["rank", "length", "source"].includes(said.get("sort")) ? said.get("sort") : "rank";
  state.q = said.get("q") ?? "";
  if (dimension(said.get("by"))) state.by = said.get("by");
  state.filters.clear();
  for (const d of data.dimensions) {
    const c = d.categories.indexOf(said.get(`in-${d.key}`));
    if (c >= 0) state.filters.set(d.key, c);
  }
  const [, id, name] = /^(\d+) (.*)$/s.exec(said.get("feature") ?? "") ?? [];
  state.feature = id === undefined ? null : { id: Number(id), bank: name };
  state.group = Number(said.get("group")) || null;
  const amount = Number(said.get("cut"));
  if (said.has("cut") && Number.isInteger(amount) && amount >= 0 && amount <= data.listed) {
    cut = amount;
    written = data.by_score && cut === data.removed;
  }
  const row = Number(said.get("row"));
  state.row = said.has("row") && row >= 1 && row <= data.listed ? row - 1 : null;
}
