/* Tiles of 128 pixels, cut out of sheets of 64; the last sheets stay in memory. */

const SHEETS = { loaded: new Map(), kept: 64 };

function loadSheet(name) {
  let found = SHEETS.loaded.get(name);
  if (found === undefined) {
    found = new Promise((take, refuse) => {
      const image = new Image();
      image.decoding = "async";
      image.onload = () => take(image);
      image.onerror = () => refuse(new Error(name));
      image.src = `thumbs/${name}`;
    });
    found.catch(() => {});
  } else {
    SHEETS.loaded.delete(name);
  }
  SHEETS.loaded.set(name, found);
  if (SHEETS.loaded.size > SHEETS.kept) SHEETS.loaded.delete(SHEETS.loaded.keys().next().value);
  return found;
}

function paintTile(canvas, row) {
  const code = AVB.tiles[row];
  if (code === 0) return;
  const { per_sheet: perSheet, tile, sheets } = AVB.about;
  const place = (code - 1) % perSheet;
  loadSheet(sheets[Math.floor((code - 1) / perSheet)]).then(
    (sheet) => {
      const across = Math.max(1, Math.round(sheet.naturalWidth / tile));
      canvas.width = tile;
      canvas.height = tile;
      const left = (place % across) * tile;
      canvas.getContext("2d").drawImage(sheet, left, Math.floor(place / across) * tile, tile, tile, 0, 0, tile, tile);
      canvas.dataset.painted = "yes";
    },
    () => {
      canvas.dataset.painted = "no";
    },
  );
}

/* A tile: a button that opens its picture. */
function makeTile(row) {
  const tile = document.createElement("button");
  tile.type = "button";
  tile.className = "tile";
  tile.tabIndex = -1;
  const failed = valueOf("status", row) !== "ok";
  const prompt = valueOf("prompt", row) ?? "";
  const said = visible(failed ? `${valueOf("error_kind", row) ?? spelled(valueOf("status", row) ?? "")}: ${prompt}` : prompt);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = AVB.about.tile;
  const caption = document.createElement("p");
  caption.textContent = said;
  tile.append(canvas, caption);
  tile.setAttribute("aria-label", `${failed ? "Failed. " : ""}${said}`);
  tile.classList.toggle("failed", failed);
  const mark = markOf(LABELS.byRow.get(row));
  if (mark) {
    const badge = document.createElement("span");
    badge.className = "mark";
    badge.textContent = mark;
    tile.append(badge);
  }
  tile.addEventListener("click", () => {
    VIEW.at = Math.max(0, VIEW.order.indexOf(row));
    openPicture(row);
  });
  paintTile(canvas, row);
  return tile;
}
