"use strict";
/* What the run has: columns of all rows, unpacked once. A column answers `at(row)`; where it has few values it also has
   `values` and `codes`, so that a filter looks at each value once and at rows by number. */

const AVB = { about: null, rows: 0, columns: new Map(), tiles: null };

function bytesOf(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at += 1) bytes[at] = letters.charCodeAt(at); // ten times faster than `from`
  return bytes;
}
const unpack = (text) =>
  new Response(new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
const unpackJson = async (text) => JSON.parse(new TextDecoder().decode(await unpack(text)));

async function readColumn(packed) {
  const { name } = packed;
  if ("constant" in packed) return { name, constant: packed.constant, at: () => packed.constant };
  if ("numbers" in packed) {
    const numbers = new Float64Array(await unpack(packed.numbers));
    return { name, number: true, numbers, at: (row) => (Number.isNaN(numbers[row]) ? null : numbers[row]) };
  }
  const values = await unpackJson(packed.values);
  const form = { 8: Uint8Array, 16: Uint16Array, 32: Uint32Array }[packed.bits];
  const codes = new form(await unpack(packed.codes));
  return { name, number: packed.number, values, codes, at: (row) => values[codes[row]] };
}

/* Codes of a column in the order of their values, absent ones last. */
function codesInOrder(column) {
  column.ordered ??= column.values
    .map((value, code) => [value, code])
    .sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return column.number ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    })
    .map(([, code]) => code);
  return column.ordered;
}

const valueOf = (name, row) => AVB.columns.get(name)?.at(row) ?? null;
/* Control characters, and those that turn the direction of what follows, are shown by their codes. */
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;
const visible = (text) =>
  String(text).replace(HIDDEN, (letter) => `⟨${letter.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
const shown = (value) => {
  if (value === null || value === undefined || value === "") return "–";
  const whole = typeof value !== "number" || Number.isInteger(value);
  return whole ? visible(value) : String(Number(value.toPrecision(5)));
};
const spelled = (name) => name.replaceAll("_", " ");

AVB.load = async (document_) => {
  const { columns, tiles, ...about } = document_;
  AVB.about = about;
  AVB.rows = about.rows;
  AVB.tiles = new Uint32Array(await unpack(tiles));
  for (const column of await Promise.all(columns.map(readColumn))) AVB.columns.set(column.name, column);
  start();
};
