/* Keys: each with what it does, for the list in About. */

const KEYS = [
  [["ArrowRight", "l"], "the next picture", () => step(1)],
  [["ArrowLeft", "h"], "the one before", () => step(-1)],
  [["ArrowDown", "j"], "a line down", () => step(GRID.across)],
  [["ArrowUp", "k"], "a line up", () => step(-GRID.across)],
  [["PageDown"], "a screen down", () => step(GRID.across * screenLines())],
  [["PageUp"], "a screen up", () => step(-GRID.across * screenLines())],
  [["Home"], "the first", () => step(-VIEW.order.length)],
  [["End"], "the last", () => step(VIEW.order.length)],
  [["Enter"], "open the picture", () => VIEW.order.length && openPicture(VIEW.order[VIEW.at])],
  [["1", "2", "3", "4", "5"], "label, and take the label away", (key) => toggleLabel(Number(key))],
  [["f"], "favourite", () => toggleFavourite()],
  [["/"], "search", () => byId("search").focus()],
  [["d"], "light or dark", () => changeTheme()],
  [["?"], "this list", () => byId("about").showModal()],
];

const screenLines = () => Math.max(1, Math.floor(byId("view").clientHeight / GRID.line));

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { tagName: tag, type } = event.target;
  const typing = tag === "SELECT" || tag === "VIDEO" || (tag === "INPUT" && type !== "checkbox");
  if (typing || byId("about").open || byId("failed").open) return;
  if (event.key === "Enter" && tag !== "BODY" && tag !== "MAIN") return; // the button in focus
  const found = KEYS.find(([keys]) => keys.includes(event.key));
  if (!found) return;
  event.preventDefault();
  found[2](event.key);
}

function changeTheme() {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("avbatch:theme", root.dataset.theme);
  } catch {
    // it holds until the page closes
  }
}
