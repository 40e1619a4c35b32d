// ---- groups of alike rows -------------------------------------------------------------------------------------------

const FIRST_GROUPS = 5;
// number of a group -> bad or good, what is thought of it as a whole.
const grouped = new Map();
const groupStore = `geofilter-groups-${data.fingerprint}-${data.why_random}`;

// What is to go and what is to stay, and what makes it so: only groups that the amount alone would not put there.
function groupCommand() {
  const { keep, drop } = data.moved, options = [];
  let changed = false;
  for (const g of data.groups) {
    const moved = keep.includes(g.number) || drop.includes(g.number), label = grouped.get(g.number);
    const goes = label ? label === "bad" : g.removed;
    changed ||= goes !== g.removed;
    if (goes !== (g.removed !== moved)) options.push(`--${goes ? "drop" : "keep"}-group ${g.number}`);
  }
  return changed ? [data.cut_command, ...options].join(" ") : "";
}

function drawGroups() {
  const command = groupCommand();
  $("group-command").hidden = !command;
  $("group-command").querySelector("code").textContent = command;
  for (const li of document.querySelectorAll("#groups [data-group]")) {
    const label = grouped.get(Number(li.dataset.group));
    li.classList.remove("bad", "good");
    if (label) li.classList.add(label);
    for (const b of li.querySelectorAll("[data-label]")) b.setAttribute("aria-pressed", b.dataset.label === label);
  }
}

function groupCard(g) {
  const named = make("h3", {}, `${g.number}. ${g.name || g.topic || "no words of its own"}`);
  const said = [counted(g.rows, "row")];
  if (g.duplicates) said.push(`${number(g.duplicates)} of them near-duplicates of others`);
  if (g.sources.length > 1 || dimension("source")) said.push(g.sources.slice(0, 4).map(s => `${s.name} ${number(s.rows)}`).join(", "));
  const meta = make("div", { class: "meta" }, make("span", { class: g.removed ? "tag r" : "tag" }, g.removed ? "removed" : "kept"), said.join(" · "));
  if (g.topic) meta.append(make("span", { class: "chip" }, `if harmful: ${g.topic}`));
  const features = g.features.map(f => words(f)).filter(Boolean).slice(0, 3).join("; ");
  if (features) meta.append(make("span", { class: "chip why" }, `why: ${features}`));
  const examples = make("ul", { class: "samples" });
  for (const rank of g.examples.slice(0, 3)) {
    const row = texts.get(rank - 1);
    if (!row) continue;
    examples.append(make("li", {}, button(`#${number(rank)}`, () => toRow(rank - 1), { class: "link" }), " ",
      row.prompt ? make("span", { class: "note" }, beginning(row.prompt, 80), " → ") : "", beginning(row.response.slice(...excerpt(row)), 180)));
  }
  const acts = make("div", { class: "acts", role: "group", "aria-label": `mark group ${g.number}` });
  for (const label of ["bad", "good"]) {
    acts.append(button(`all ${word(label)}`, () => {
      if (grouped.get(g.number) === label) grouped.delete(g.number); else grouped.set(g.number, label);
      try { localStorage.setItem(groupStore, JSON.stringify([...grouped])); } catch { /* as for the marks */ }
      drawGroups();
    }, { "data-label": label, class: `label ${label}`, "aria-pressed": "false" }));
  }
  acts.append(button("read its rows", () => {
    show({ view: g.removed ? "removed" : "kept", sort: "rank", group: g.number });
    $("read").scrollIntoView();
  }, { class: "link" }));
  return make("li", { class: "card", "data-group": g.number }, named, meta, examples, acts);
}

function toRow(i) {
  show({ view: "all", sort: "rank", q: "", feature: null, group: null, filters: new Map() });
  choose(i, true);
}

function startGroups() {
  if (!data.groups?.length) return;
  try {
    for (const [n, label] of JSON.parse(localStorage.getItem(groupStore) ?? "[]")) grouped.set(n, label);
  } catch { /* as for the marks */ }
  const gone = data.groups.filter(g => g.removed), stay = data.groups.filter(g => !g.removed);
  $("group-list").append(...gone.slice(0, FIRST_GROUPS).map(groupCard));
  if (gone.length > FIRST_GROUPS) {
    const more = button(`show ${number(gone.length - FIRST_GROUPS)} more groups`, () => {
      more.parentElement.remove();
      $("group-list").append(...gone.slice(FIRST_GROUPS).map(groupCard));
      drawGroups();
    });
    $("group-list").append(make("li", {}, more));
  }
  if (stay.length) {
    const folded = make("details", {}, make("summary", {}, `Groups of the highest kept rows (${number(stay.length)})`),
      make("ol", { class: "groups" }, ...stay.map(groupCard)));
    $("group-list").after(folded);
  }
  drawGroups();
}
