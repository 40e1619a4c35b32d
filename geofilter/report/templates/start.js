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
  const label = { h: "bad", f: "good", s: "unsure" }[event.key];
  if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (label && on !== null && texts.has(on)) {
    if (!stands(texts.get(on), label)) mark(on, label);
    if (isPlan()) advance(on); else step(1);
  } else if (event.key === "u") undo();
  else if (event.key === "Enter" && here) unfold(here);
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
  $("view").addEventListener("input", event => event.target.value === "plan" ? startPlan() : show({ view: event.target.value }));
  $("sort").addEventListener("input", event => show({ sort: event.target.value }));
  $("search").addEventListener("input", event => show({ q: event.target.value.trim() }));
  $("start").addEventListener("click", startPlan);
  $("view").querySelector('[value="plan"]').hidden = !data.mark;
  $("leave").querySelector("button").addEventListener("click", () => show({ view: "removed" }));
  $("look")?.addEventListener("click", lookAtKept);
  $("teach-more").querySelector("button").addEventListener("click", () => {
    show({ view: "removed", sort: "rank", q: "", feature: null, group: null, filters: new Map() });
    $("read").scrollIntoView();
  });
  for (const [id, by] of [["previous", -1], ["next", 1]]) {
    $(id).addEventListener("click", () => { state.page += by; drawRows(); (isPlan() ? $("leave") : $("rows-count")).scrollIntoView(); });
  }
  for (const saving of document.querySelectorAll(".save")) saving.addEventListener("click", save);
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
  recallPlan();
  const before = location.hash;
  readState();
  const { row } = state;
  drawCut();
  show({});
  if (row !== null && before) choose(row, true);
  unpack().then(() => {
    document.body.dataset.texts = packed;
    recallPlan();
    drawRows();
    drawMarks();
    if (row !== null && before && state.row === row) choose(row, true);
  });
}

start();
