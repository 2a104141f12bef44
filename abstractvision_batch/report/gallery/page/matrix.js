/* Two columns as the axes of a table, with up to four pictures in a cell. */

const MATRIX = { values: 200, lines: 60, each: 4 };

const axes = () => [...AVB.columns.values()].filter(({ values }) => values && values.length <= MATRIX.values);

function drawMatrix() {
  const [across, down] = [STATE.across, STATE.down].map((name) => AVB.columns.get(name));
  const codeOf = (column, row) => (column?.codes ? column.codes[row] : 0);
  const cells = new Map();
  const seen = [new Set(), new Set()];
  for (const row of VIEW.order) {
    const [x, y] = [codeOf(across, row), codeOf(down, row)];
    seen[0].add(x);
    seen[1].add(y);
    const key = `${x} ${y}`;
    const cell = cells.get(key) ?? [];
    if (cell.length === 0) cells.set(key, cell);
    if (cell.length < MATRIX.each) cell.push(row);
  }
  const inOrder = (column, codes) => (column?.codes ? codesInOrder(column).filter((code) => codes.has(code)) : [0]);
  const headings = inOrder(across, seen[0]);
  const lines = inOrder(down, seen[1]);
  const table = document.createElement("table");
  table.className = "matrix";
  const head = table.createTHead().insertRow();
  head.append(heading("", "col"), ...headings.map((code) => heading(titleOf(across, code), "col")));
  const body = table.createTBody();
  for (const y of lines.slice(0, MATRIX.lines)) {
    const line = body.insertRow();
    line.append(heading(titleOf(down, y), "row"));
    for (const x of headings) {
      const rows = cells.get(`${x} ${y}`) ?? [];
      const cell = document.createElement("div");
      cell.className = rows.length === 1 ? "cell one" : "cell";
      cell.append(...rows.map(makeTile));
      line.insertCell().append(cell);
    }
  }
  const sheet = byId("sheet");
  sheet.style.height = "auto";
  GRID.tiles.clear();
  sheet.replaceChildren(table);
  table.querySelectorAll(".tile").forEach((tile) => {
    tile.tabIndex = 0;
  });
  if (lines.length > MATRIX.lines) {
    const more = document.createElement("p");
    more.className = "empty";
    more.textContent = `${(lines.length - MATRIX.lines).toLocaleString()} more lines: search or filter for them.`;
    sheet.append(more);
  }
}

const titleOf = (column, code) => (column ? `${spelled(column.name)} ${shown(column.values?.[code] ?? column.constant)}` : "");

function heading(text, scope) {
  const cell = document.createElement("th");
  cell.scope = scope;
  cell.textContent = text;
  return cell;
}
