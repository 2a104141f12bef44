/* One picture in full, with everything that is known of it. */

const BOX = { row: null, turn: 0 };
const SNIPPETS = [["Copy spec", asSpec], ["Copy command", asCommand], ["Copy Python", asPython]];

async function openPicture(row) {
  BOX.row = row;
  BOX.turn += 1;
  const turn = BOX.turn;
  const box = byId("lightbox");
  byId("stage").replaceChildren();
  byId("views").replaceChildren();
  byId("copied").hidden = true;
  byId("prompt").textContent = visible(valueOf("prompt", row) ?? "");
  byId("position").textContent = `${(VIEW.at + 1).toLocaleString()} of ${VIEW.order.length.toLocaleString()}`;
  const reason = byId("reason");
  reason.hidden = valueOf("status", row) === "ok";
  reason.textContent = reason.hidden ? "" : visible([valueOf("error_kind", row), valueOf("error_message", row)].filter(Boolean).join(": "));
  if (!box.open) box.showModal();
  writeAddress(row);
  showMarks();
  try {
    const details = await detailsOf(row);
    if (turn !== BOX.turn) return;
    showFields(row, details);
    showSnippets(row, details);
    if (!details.file_name) return;
    const url = await pictureUrl(details);
    if (turn === BOX.turn) showViews([["Result", () => [makeMedium(details, url)]], ...viewsOf(details)]);
  } catch (error) {
    if (turn !== BOX.turn) return;
    const said = document.createElement("p");
    said.textContent = error.message;
    byId("stage").replaceChildren(said);
  }
}

/* The result, or what it was made from: a button each where there is more than one. */
function showViews(views) {
  const buttons = views.map(([title, make]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = title;
    button.addEventListener("click", () => {
      byId("stage").replaceChildren(...make());
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    });
    return button;
  });
  byId("views").replaceChildren(...(views.length > 1 ? buttons : []));
  buttons[0].click();
}

function putPairs(list, pairs) {
  list.replaceChildren(
    ...pairs.flatMap(([name, value]) => {
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = spelled(name);
      text.textContent = shown(value);
      return [term, text];
    }),
  );
}

function showFields(row, details) {
  const said = [...AVB.columns.values()].map(({ name }) => [name, details[name] ?? valueOf(name, row)]);
  const more = Object.entries(details).filter(([name]) => !AVB.columns.has(name));
  const known = [...said, ...more].filter(([name, value]) => value !== null && name !== "prompt" && !name.endsWith("_preview"));
  putPairs(byId("fields"), known);
}

function showSnippets(row, details) {
  byId("copies").replaceChildren(
    ...SNIPPETS.map(([title, write]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = title;
      button.addEventListener("click", async () => {
        const shownText = byId("copied");
        shownText.textContent = write(row, details);
        shownText.hidden = false;
        await navigator.clipboard?.writeText(shownText.textContent).catch(() => {});
      });
      return button;
    }),
  );
}

function showMarks() {
  const entry = LABELS.byRow.get(BOX.row) ?? {};
  const choices = [["★", entry.favourite, toggleFavourite], ...[1, 2, 3, 4, 5].map((label) =>
    [String(label), entry.label === label, () => toggleLabel(label)])];
  byId("marks").replaceChildren(
    ...choices.map(([text, pressed, act]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.setAttribute("aria-pressed", String(Boolean(pressed)));
      button.setAttribute("aria-label", text === "★" ? "Favourite" : `Label ${text}`);
      button.addEventListener("click", act);
      return button;
    }),
  );
  byId("note").value = entry.note ?? "";
}

const chosenRow = () => (byId("lightbox").open ? BOX.row : VIEW.order[VIEW.at] ?? null);

async function mark(change) {
  const row = chosenRow();
  if (row === null) return;
  await changeLabel(row, change);
  if (byId("lightbox").open) showMarks();
  else look({ keepPlace: true });
}
const toggleFavourite = () => mark(({ favourite }) => ({ favourite: !favourite }));
const toggleLabel = (label) => mark((entry) => ({ label: entry.label === label ? undefined : label }));

function step(by) {
  moveTo(VIEW.at + by, { focus: !byId("lightbox").open });
  if (byId("lightbox").open && VIEW.order.length) openPicture(VIEW.order[VIEW.at]);
}
