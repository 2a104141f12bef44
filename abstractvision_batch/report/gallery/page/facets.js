/* Filters beside the grid: values with their counts, and from–to for numbers with many values. */

const FACETS = { values: 60, shown: 30, boxes: [] };
const FIRST = ["variant", "status", "error_kind", "model"];

function facetColumns() {
  const all = [...AVB.columns.values()].filter((column) => column.constant === undefined && column.name !== "prompt");
  const rank = ({ name }) => {
    if (FIRST.includes(name)) return FIRST.indexOf(name);
    return AVB.about.axes.includes(name) ? FIRST.length : FIRST.length + 1;
  };
  return all
    .filter((column) => column.number || (column.values && column.values.length <= FACETS.values))
    .sort((a, b) => rank(a) - rank(b));
}

function makeFacets() {
  FACETS.boxes = [];
  byId("facets").replaceChildren(
    ...facetColumns().map((column) => {
      const box = document.createElement("details");
      box.className = "facet";
      const title = document.createElement("summary");
      title.textContent = spelled(column.name);
      const few = column.values && column.values.length <= FACETS.values;
      box.append(title, ...(few ? makeValues(column) : [makeRange(column)]));
      const used = column.name in STATE.only || column.name in STATE.between;
      box.open = used || FIRST.includes(column.name) || AVB.about.axes.includes(column.name);
      return box;
    }),
  );
}

function makeValues(column) {
  return codesInOrder(column).slice(0, FACETS.shown).map((code) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    const value = column.values[code];
    box.checked = (STATE.only[column.name] ?? []).includes(value);
    box.addEventListener("change", () => {
      const chosen = new Set(STATE.only[column.name] ?? []);
      if (box.checked) chosen.add(value);
      else chosen.delete(value);
      if (chosen.size) STATE.only[column.name] = [...chosen];
      else delete STATE.only[column.name];
      look();
    });
    const text = document.createElement("span");
    text.textContent = shown(value);
    text.title = shown(value);
    const count = document.createElement("b");
    FACETS.boxes.push({ column, code, count });
    label.append(box, text, count);
    return label;
  });
}

function makeRange(column) {
  const box = document.createElement("div");
  box.className = "range";
  const ends = ["from", "to"].map((word, end) => {
    const field = document.createElement("input");
    field.type = "number";
    field.step = "any";
    field.placeholder = word;
    field.setAttribute("aria-label", `${spelled(column.name)} ${word}`);
    field.value = STATE.between[column.name]?.[end] ?? "";
    field.addEventListener("change", () => {
      const now = ends.map((one) => (one.value === "" ? null : Number(one.value)));
      if (now.some((value) => value !== null)) STATE.between[column.name] = now;
      else delete STATE.between[column.name];
      look();
    });
    return field;
  });
  box.append(...ends);
  return box;
}

/* How many requests each value has: of those that meet everything but the filter of its own column. */
function countFacets() {
  const counts = new Map();
  for (const { column, code, count } of FACETS.boxes) {
    if (!counts.has(column.name)) {
      const found = new Uint32Array(column.values.length);
      const rows = column.name in STATE.only ? chosenRows(column.name) : VIEW.order;
      for (const row of rows) found[column.codes[row]] += 1;
      counts.set(column.name, found);
    }
    count.textContent = counts.get(column.name)[code].toLocaleString();
  }
}
