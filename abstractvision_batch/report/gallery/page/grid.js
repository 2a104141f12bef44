/* The grid: only what is in sight is drawn. Browsers clamp the height of an element (Firefox near 17.9 million pixels),
   so above a limit the place of the scroll bar stands for a place in the whole. */

const GRID = { gap: 8, caption: 34, least: 128, limit: 8_000_000, tiles: new Map(), across: 1, size: 128, line: 170 };

function measureGrid() {
  const width = byId("view").clientWidth - GRID.gap;
  GRID.across = Math.max(2, Math.floor(width / (GRID.least + GRID.gap)));
  GRID.size = Math.floor(width / GRID.across) - GRID.gap;
  GRID.line = GRID.size + GRID.caption + GRID.gap;
  GRID.lines = Math.ceil(VIEW.order.length / GRID.across);
  GRID.whole = GRID.lines * GRID.line + GRID.gap;
  GRID.height = Math.min(GRID.whole, GRID.limit);
}

/* Where the view begins in the whole, in pixels. */
function wholeTop() {
  const view = byId("view");
  const most = GRID.height - view.clientHeight;
  return most <= 0 ? 0 : (view.scrollTop / most) * Math.max(0, GRID.whole - view.clientHeight);
}

function drawGrid({ anew = true } = {}) {
  const view = byId("view");
  const sheet = byId("sheet");
  if (anew) {
    sheet.replaceChildren();
    GRID.tiles.clear();
    measureGrid();
    sheet.style.height = `${GRID.height}px`;
    if (VIEW.order.length === 0) {
      const nothing = document.createElement("p");
      nothing.className = "empty";
      nothing.textContent = AVB.rows ? "No request meets all of this." : "No request has a result yet.";
      sheet.append(nothing);
      return;
    }
  }
  const top = wholeTop();
  const first = Math.max(0, Math.floor(top / GRID.line) - 1) * GRID.across;
  const last = Math.min(VIEW.order.length, (Math.ceil((top + view.clientHeight) / GRID.line) + 1) * GRID.across);
  for (const [place, tile] of GRID.tiles) {
    if (place >= first && place < last) continue;
    tile.remove();
    GRID.tiles.delete(place);
  }
  for (let place = first; place < last; place += 1) {
    let tile = GRID.tiles.get(place);
    if (tile === undefined) {
      tile = makeTile(VIEW.order[place]);
      tile.style.width = `${GRID.size}px`;
      GRID.tiles.set(place, tile);
      sheet.append(tile);
    }
    tile.style.left = `${GRID.gap + (place % GRID.across) * (GRID.size + GRID.gap)}px`;
    tile.style.top = `${Math.floor(place / GRID.across) * GRID.line - top + view.scrollTop + GRID.gap}px`;
    tile.classList.toggle("chosen", place === VIEW.at);
    tile.tabIndex = place === VIEW.at ? 0 : -1;
  }
}

/* Move the chosen tile, and the view to it. */
function moveTo(place, { focus = true } = {}) {
  if (VIEW.order.length === 0) return;
  VIEW.at = Math.max(0, Math.min(VIEW.order.length - 1, place));
  if (isMatrix()) return;
  const view = byId("view");
  const line = Math.floor(VIEW.at / GRID.across) * GRID.line;
  const top = wholeTop();
  if (line < top || line + GRID.line > top + view.clientHeight) {
    const most = GRID.height - view.clientHeight;
    const wholeMost = Math.max(1, GRID.whole - view.clientHeight);
    view.scrollTop = (Math.max(0, line - view.clientHeight / 3) / wholeMost) * most;
  }
  drawGrid({ anew: false });
  if (focus) GRID.tiles.get(VIEW.at)?.focus({ preventScroll: true });
}

const isMatrix = () => Boolean(STATE.across || STATE.down);
function draw() {
  if (isMatrix()) drawMatrix();
  else drawGrid();
}
