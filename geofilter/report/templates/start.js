// ---- keys, and the start --------------------------------------------------------------------------------------------

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    if (!event.target.closest("select")) return;
  }
  const here = document.querySelector(".card.current");
  const on = here ? Number(here.dataset.rank) : null;
  // A button that has the focus takes its own Enter.
  if (event.key === "Enter" && event.target.closest("button, a, summary")) return;
  const label = { h: "bad", f: "good" }[event.key];
  if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (label && on !== null && texts.has(on)) {
    if (labelOf(texts.get(on)) !== label || marks.get(texts.get(on).sha256).drawn !== isDraw()) mark(on, label);
    step(1);
  } else if (event.key === "u") {
    const i = undo();
    if (i !== null) choose(i, true);
  } else if (event.key === "Enter" && here) unfold(here);
  else if (event.key === "?") $("keys").showModal();
  else if (event.key === "/") $("search").focus();
  else return;
  event.preventDefault();
}

function start() {
  startCut();
  startWhere();
  startCompare();
  startGroups();
  for (const copied of document.querySelectorAll("button.copy")) {
    copied.addEventListener("click", () => copy(copied.parentElement.querySelector("code").textContent, copied));
  }
  for (const link of document.querySelectorAll("nav a")) {
    // Without a change of the address, which says what is shown.
    link.addEventListener("click", event => {
      event.preventDefault();
      const part = document.querySelector(link.getAttribute("href"));
      if (part instanceof HTMLDetailsElement) part.open = true;
      part.scrollIntoView();
      part.focus?.({ preventScroll: true });
    });
  }
  $("view").addEventListener("input", event => show({ view: event.target.value }));
  $("sort").addEventListener("input", event => show({ sort: event.target.value }));
  $("search").addEventListener("input", event => show({ q: event.target.value.trim() }));
  $("draw").addEventListener("click", () => show({ view: "removed", sort: "random", q: "", feature: null, group: null, filters: new Map() }));
  $("draw-kept").addEventListener("click", () => show({ view: "kept", sort: "random", q: "", feature: null, group: null, filters: new Map() }));
  $("go").addEventListener("click", () => {
    show({ view: "removed", sort: "rank", q: "", feature: null, group: null, filters: new Map() });
    if (listed.length) choose(listed[0], true); else $("read").scrollIntoView();
  });
  for (const [id, side] of [["draw", "removed"], ["draw-kept", "kept"]]) {
    $(id).disabled = data.drawn[side].length === 0;
    if ($(id).disabled) $(id).title = data.n > data.listed ? "more rows than are listed here; geofilter label draws some" : "there are none to draw";
  }
  for (const [id, by] of [["previous", -1], ["next", 1]]) {
    $(id).addEventListener("click", () => { state.page += by; drawRows(); $("rows-count").scrollIntoView(); });
  }
  $("export").addEventListener("click", save);
  $("bar-export").addEventListener("click", save);
  $("show-keys").addEventListener("click", () => $("keys").showModal());
  for (const behind of document.querySelectorAll("button.behind")) {
    behind.addEventListener("click", () => {
      show({ view: "removed", feature: { bank: behind.dataset.bank, id: Number(behind.dataset.feature) } });
      $("read").scrollIntoView();
    });
  }
  $("close-keys").addEventListener("click", () => $("keys").close());
  document.addEventListener("keydown", pressed);
  window.addEventListener("hashchange", () => {
    if (location.hash.includes("=")) { readState(); drawCut(); show({}); if (state.row !== null) choose(state.row, true); }
  });
  for (const hidden of document.querySelectorAll(".scripted")) hidden.hidden = false;
  recall();
  const before = location.hash;
  readState();
  const { row } = state;
  drawCut();
  show({});
  if (row !== null && before) choose(row, true);
  unpack().then(() => {
    document.body.dataset.texts = packed;
    drawRows();
    drawMarks();
    if (row !== null && before && state.row === row) choose(row, true);
  });
}

start();
