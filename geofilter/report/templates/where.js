// ---- where the removed rows are -------------------------------------------------------------------------------------

function drawWhere() {
  const d = dimension(state.by);
  if (!d) return;
  const gone = written ? d.removed : new Uint32Array(d.categories.length);
  for (let i = 0; i < cut && !written; i++) gone[d.of[i]]++;
  const order = d.categories.map((_, c) => c);
  if (!d.ordered) order.sort((a, b) => gone[b] - gone[a] || d.rows[b] - d.rows[a]);
  const most = Math.max(...order.map(c => gone[c] / d.rows[c]), 1e-9);
  $("bars").replaceChildren(...order.map(c => {
    const fill = make("span", { class: "fill" }), share = gone[c] / d.rows[c];
    fill.style.width = 100 * share / most + "%";
    const pressed = state.filters.get(d.key) === c;
    const bar = button("", () => {
      if (pressed) state.filters.delete(d.key); else state.filters.set(d.key, c);
      show({});
    }, { "aria-pressed": pressed, "data-category": c });
    bar.append(
      make("span", { class: "name" }, d.categories[c]), make("span", { class: "track" }, fill),
      make("span", { class: "n" }, make("b", {}, number(gone[c])), ` of ${number(d.rows[c])} (${percent(gone[c], d.rows[c])})`),
    );
    return make("li", {}, bar);
  }));
  for (const tab of $("by").children) tab.setAttribute("aria-pressed", tab.dataset.key === d.key);
}

function startWhere() {
  if (!data.dimensions.length) return;
  for (const d of data.dimensions) {
    $("by").append(button(d.title, () => { state.by = d.key; drawWhere(); keepState(); }, { "data-key": d.key }));
  }
  $("by").hidden = data.dimensions.length < 2;
}
