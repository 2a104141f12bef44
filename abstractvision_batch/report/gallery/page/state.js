/* What is looked at: search, filters, order and axes; kept in the address, so that a link shows the same. */

const STATE = { search: "", sort: "", down: "", across: "", descending: false, only: {}, between: {}, labelled: "" };
const VIEW = { order: new Uint32Array(0), at: 0, counts: new Map() };

const byId = (id) => document.getElementById(id);

function readAddress() {
  try {
    const given = JSON.parse(decodeURIComponent(location.hash.slice(1)) || "{}");
    for (const [name, usual] of Object.entries(STATE)) if (typeof given[name] === typeof usual) STATE[name] = given[name];
    return typeof given.open === "number" ? given.open : null;
  } catch {
    return null;
  }
}

function writeAddress(open = null) {
  const said = Object.entries(STATE).filter(([, value]) =>
    typeof value === "object" ? Object.keys(value).length : value);
  if (open !== null) said.push(["open", open]);
  const text = said.length ? `#${encodeURIComponent(JSON.stringify(Object.fromEntries(said)))}` : "#";
  history.replaceState(null, "", text);
}

/* Tests of rows: each a function from row to boolean, over values that were judged once. */
function testsOf(except = null) {
  const tests = [];
  const byCode = (column, accepts) => {
    if (column.codes) {
      const good = Uint8Array.from(column.values, (value) => (accepts(value) ? 1 : 0));
      tests.push((row) => good[column.codes[row]] === 1);
    } else if (!column.numbers) {
      const good = accepts(column.constant);
      tests.push(() => good);
    } else {
      tests.push((row) => accepts(column.at(row)));
    }
  };
  const words = STATE.search.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const prompts = AVB.columns.get("prompt");
  if (words.length && prompts) {
    byCode(prompts, (value) => {
      const text = String(value ?? "").toLocaleLowerCase();
      return words.every((word) => text.includes(word));
    });
  }
  for (const [name, values] of Object.entries(STATE.only)) {
    const column = AVB.columns.get(name);
    if (column && name !== except && Array.isArray(values)) byCode(column, (value) => values.includes(value));
  }
  for (const [name, ends] of Object.entries(STATE.between)) {
    const column = AVB.columns.get(name);
    if (!column || name === except || !Array.isArray(ends)) continue;
    byCode(column, (value) => value !== null && value >= (ends[0] ?? -Infinity) && value <= (ends[1] ?? Infinity));
  }
  if (STATE.labelled) tests.push((row) => meetsLabel(LABELS.byRow.get(row), STATE.labelled));
  return tests;
}

function chosenRows(except = null) {
  const tests = testsOf(except);
  const found = new Uint32Array(AVB.rows);
  let count = 0;
  rows: for (let row = 0; row < AVB.rows; row += 1) {
    for (const test of tests) if (!test(row)) continue rows;
    found[count] = row;
    count += 1;
  }
  return found.subarray(0, count);
}

/* In the order of the chosen column; what is absent comes last. */
function sorted(rows) {
  const column = AVB.columns.get(STATE.sort);
  if (!column || column.constant !== undefined) return STATE.descending ? rows.slice().reverse() : rows;
  const direction = STATE.descending ? -1 : 1;
  return column.numbers ? sortedByNumbers(rows, column.numbers, direction) : sortedByCodes(rows, column, direction);
}

/* Few values: count them, and put each row where its value begins. */
function sortedByCodes(rows, column, direction) {
  const codes = codesInOrder(column);
  const present = codes.filter((code) => column.values[code] !== null);
  if (direction < 0) present.reverse();
  const order = [...present, ...codes.filter((code) => column.values[code] === null)];
  const counts = new Uint32Array(column.values.length);
  for (const row of rows) counts[column.codes[row]] += 1;
  const next = new Uint32Array(column.values.length);
  let start = 0;
  for (const code of order) {
    next[code] = start;
    start += counts[code];
  }
  const found = new Uint32Array(rows.length);
  for (const row of rows) {
    const code = column.codes[row];
    found[next[code]] = row;
    next[code] += 1;
  }
  return found;
}

/* Many numbers: those alone are sorted, which needs no comparison function, and rows of equal ones keep their order. */
function sortedByNumbers(rows, numbers, direction) {
  const keys = new Float64Array(rows.length);
  for (let at = 0; at < rows.length; at += 1) {
    const key = numbers[rows[at]];
    keys[at] = Number.isNaN(key) ? Infinity : key * direction;
  }
  const ordered = keys.slice().sort();
  const taken = new Uint32Array(rows.length); // of each run of equal numbers, at its first place
  const found = new Uint32Array(rows.length);
  for (let at = 0; at < rows.length; at += 1) {
    const place = firstPlace(ordered, keys[at]);
    found[place + taken[place]] = rows[at];
    taken[place] += 1;
  }
  return found;
}

function firstPlace(ordered, key) {
  let [low, high] = [0, ordered.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (ordered[middle] < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* Look again: after any change of the state. */
function look({ keepPlace = false } = {}) {
  writeAddress();
  VIEW.order = sorted(chosenRows());
  VIEW.at = keepPlace ? Math.min(VIEW.at, Math.max(0, VIEW.order.length - 1)) : 0;
  if (!keepPlace) byId("view").scrollTop = 0;
  const all = AVB.rows.toLocaleString();
  byId("count").textContent = `${VIEW.order.length.toLocaleString()} of ${all} requests`;
  countFacets();
  draw();
}
