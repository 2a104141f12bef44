/* Favourites, labels from 1 to 5 and notes, kept by the browser, by request id. */

const LABELS = { byRow: new Map(), byId: new Map() };
const LABEL_CHOICES = [["", "all"], ["any", "labelled"], ["none", "not labelled"], ["favourite", "favourites"]];

const labelKey = () => `avbatch:${AVB.about.fingerprint}`;
const isLabel = (entry) => Boolean(entry && (entry.favourite || entry.label || entry.note));
const markOf = (entry) => (isLabel(entry) ? `${entry.favourite ? "★" : ""}${entry.label || ""}${entry.note ? "✎" : ""}` : "");

function meetsLabel(entry, wanted) {
  if (wanted === "any") return isLabel(entry);
  if (wanted === "none") return !isLabel(entry);
  return wanted === "favourite" ? Boolean(entry?.favourite) : entry?.label === Number(wanted);
}

function readLabels() {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(labelKey()) ?? "{}");
  } catch {
    kept = {};
  }
  for (const [id, entry] of Object.entries(kept)) setEntry(id, entry);
}

function setEntry(id, entry) {
  LABELS.byId.set(id, entry);
  if (Number.isInteger(entry.row)) LABELS.byRow.set(entry.row, entry);
}

function keepLabels() {
  const worth = [...LABELS.byId].filter(([, entry]) => isLabel(entry));
  try {
    localStorage.setItem(labelKey(), JSON.stringify(Object.fromEntries(worth)));
  } catch {
    byId("about-said").textContent = "This browser keeps nothing for this page: export the labels before it closes.";
  }
}

async function changeLabel(row, change) {
  const { request_id: id } = await detailsOf(row);
  const entry = { ...(LABELS.byId.get(id) ?? {}), row };
  Object.assign(entry, change(entry));
  entry.when = new Date().toISOString();
  setEntry(id, entry);
  keepLabels();
}

/* A run that was extended may have its rows at other places than when they were labelled. */
async function placeLabels() {
  const lost = [];
  for (const [id, entry] of LABELS.byId) {
    const there = Number.isInteger(entry.row) && entry.row < AVB.rows ? (await detailsOf(entry.row)).request_id : null;
    if (there !== id) lost.push(id);
  }
  if (lost.length === 0) return;
  const found = await findRows(lost);
  LABELS.byRow.clear();
  for (const [id, entry] of LABELS.byId) {
    if (found.has(id)) entry.row = found.get(id);
    else if (lost.includes(id)) entry.row = null;
    setEntry(id, entry);
  }
}

const CSV = { head: ["request_id", "label", "favourite", "note", "when"] };
const csvCell = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

function labelsAsCsv() {
  const lines = [...LABELS.byId]
    .filter(([, entry]) => isLabel(entry))
    .map(([id, { label, favourite, note, when }]) => [id, label ?? "", favourite ? "true" : "", note ?? "", when ?? ""]);
  return [CSV.head, ...lines].map((cells) => cells.map((cell) => csvCell(String(cell))).join(",")).join("\n") + "\n";
}

function parseCsv(text) {
  const lines = [];
  let [cells, cell, quoted] = [[], "", false];
  for (let at = 0; at < text.length; at += 1) {
    const letter = text[at];
    if (quoted && letter === '"' && text[at + 1] === '"') {
      cell += '"';
      at += 1;
    } else if (letter === '"') {
      quoted = !quoted;
    } else if (!quoted && (letter === "," || letter === "\n")) {
      cells.push(cell);
      cell = "";
      if (letter === "\n") {
        lines.push(cells);
        cells = [];
      }
    } else if (quoted || letter !== "\r") {
      cell += letter;
    }
  }
  if (cell || cells.length) lines.push([...cells, cell]);
  return lines;
}

async function importLabels(text) {
  const [head, ...lines] = parseCsv(text);
  const at = Object.fromEntries(CSV.head.map((name) => [name, (head ?? []).indexOf(name)]));
  if (at.request_id < 0) throw new Error(`the file has no column request_id (it begins with ${(head ?? []).join(", ")})`);
  const cellOf = (cells, name) => (at[name] < 0 ? "" : cells[at[name]] ?? "");
  const given = new Map(lines.filter((cells) => cells[at.request_id]).map((cells) => [cells[at.request_id], cells]));
  const rows = await findRows(given.keys());
  for (const [id, row] of rows) {
    const cells = given.get(id);
    const label = Number(cellOf(cells, "label"));
    setEntry(id, {
      row,
      label: Number.isInteger(label) && label >= 1 && label <= 5 ? label : undefined,
      favourite: cellOf(cells, "favourite") === "true",
      note: cellOf(cells, "note") || undefined,
      when: cellOf(cells, "when") || undefined,
    });
  }
  keepLabels();
  return { taken: rows.size, unknown: given.size - rows.size };
}

function download(name, text) {
  const link = document.createElement("a");
  link.download = name;
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
