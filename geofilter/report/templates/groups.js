// ---- groups of alike rows -------------------------------------------------------------------------------------------

// Of more groups each is one line until it is opened.
const OPEN_GROUPS = 4, FIRST_GROUPS = 12;
const groupCards = [];
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
  for (const li of groupCards) {
    const label = grouped.get(Number(li.dataset.group));
    li.classList.remove("bad", "good");
    if (label) li.classList.add(label);
    for (const b of li.querySelectorAll("[data-label]")) b.setAttribute("aria-pressed", b.dataset.label === label);
  }
}

// The words of a group, else how its middle row begins: a topic of harm would say of it what nobody knows.
function groupName(g) {
  if (g.name) return g.name.replaceAll(" · ", ", ");
  const row = texts.get(g.examples[0] - 1);
  return row ? `“${beginning(row.response, 70)}”` : "no words of its own";
}

function markGroup(g, label) {
  const before = grouped.get(g.number);
  const set = to => {
    if (to) grouped.set(g.number, to); else grouped.delete(g.number);
    try { localStorage.setItem(groupStore, JSON.stringify([...grouped])); } catch { /* as for the marks */ }
    drawGroups();
  };
  undone.push(() => { set(before); document.querySelector(`[data-group="${g.number}"]`)?.scrollIntoView({ block: "nearest" }); });
  set(before === label ? undefined : label);
}

const SIDE_OF = { bad: "remove the whole group", good: "keep the whole group" };

function groupCard(g, folded) {
  const said = [counted(g.rows, "row")];
  if (g.duplicates) said.push(`${number(g.duplicates)} of them near-duplicates of others`);
  if (g.sources.length > 1 || dimension("source")) said.push(g.sources.slice(0, 4).map(s => `${s.name} ${number(s.rows)}`).join(", "));
  const meta = make("span", { class: "meta" }, said.join(" · "));
  const inside = [];
  const features = g.removed ? g.features.map(f => words(f)).filter(Boolean).slice(0, 3).join("; ") : "";
  if (features) inside.push(make("p", { class: "note" }, `why: ${features}`));
  const examples = make("ul", { class: "samples" });
  for (const rank of g.examples.slice(0, 3)) {
    const row = texts.get(rank - 1);
    if (!row) continue;
    examples.append(make("li", {}, button(`#${number(rank)}`, () => toRow(rank - 1), { class: "link" }), " ",
      row.prompt ? make("span", { class: "note" }, beginning(row.prompt, 80), " → ") : "", beginning(row.response.slice(...excerpt(row)), 180)));
  }
  inside.push(examples);
  const acts = make("div", { class: "acts", role: "group", "aria-label": `group ${g.number}` });
  for (const label of ["bad", "good"]) {
    acts.append(button(SIDE_OF[label], () => markGroup(g, label), { "data-label": label, class: `label ${label}`, "aria-pressed": "false",
      title: `gives the command that ${label === "bad" ? "removes" : "keeps"} these ${number(g.rows)} rows, whatever they score; marks none of them` }));
  }
  acts.append(button("read its rows", () => readGroup(g), { class: "link" }));
  const title = make("h3", {}, `${g.number}. ${groupName(g)}`), li = make("li", { class: "card group", "data-group": g.number });
  const first = texts.get(g.examples[0] - 1), sample = g.name && first ? ` “${beginning(first.response, 120)}”` : "";
  if (folded) li.append(make("details", {}, make("summary", {}, title, " ", meta, sample), ...inside, acts));
  else li.append(title, meta, ...inside, acts);
  return li;
}

// What was listed before comes back once the group is no longer chosen.
function readGroup(g) {
  const before = state.group ? state.back : { view: state.view, sort: state.sort };
  show({ view: g.removed ? "removed" : "kept", sort: "rank", group: g.number });
  state.back = before;
  $("read").scrollIntoView();
}

// One row, among those listed where it is one of them, else by itself: what is listed stays chosen as it is.
function toRow(i) {
  if (!listed.includes(i) || isPlan()) show({ only: i, ...(isPlan() ? { view: "removed" } : {}) });
  choose(i, true);
}

// The kept rows just below the cut: in their groups, or by score.
function lookAtKept() {
  const kept = $("kept-groups");
  if (kept) { kept.scrollIntoView(); return; }
  show({ view: "kept", sort: "rank", q: "", feature: null, group: null, filters: new Map() });
  $("read").scrollIntoView();
}

function startGroups() {
  if (!data.groups?.length) return;
  try {
    for (const [n, label] of JSON.parse(localStorage.getItem(groupStore) ?? "[]")) grouped.set(n, label);
  } catch { /* as for the marks */ }
  for (const [id, removed] of [["gone-groups", true], ["kept-groups", false]]) {
    const side = data.groups.filter(g => g.removed === removed);
    if (!side.length) continue;
    const rows = side.reduce((n, g) => n + g.rows, 0);
    const cards = side.map(g => groupCard(g, side.length > OPEN_GROUPS));
    groupCards.push(...cards);
    const list = make("ol", { class: "groups" }, ...cards.slice(0, FIRST_GROUPS));
    if (side.length > FIRST_GROUPS) {
      const more = button(`show ${number(side.length - FIRST_GROUPS)} more groups`, () => more.parentElement.replaceWith(...cards.slice(FIRST_GROUPS)));
      list.append(make("li", {}, more));
    }
    $("group-list").append(make("div", { id }, make("h3", {}, removed ? `Rows that go, in ${counted(side.length, "group")}` :
      `Rows that stay, the ${number(rows)} just below the cut, in ${counted(side.length, "group")}`), list));
  }
  drawGroups();
}
